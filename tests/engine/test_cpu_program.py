"""The compiled program against torch in float64, with every instruction set that this processor has.

In float32 a result is off by less than 1e-4 of its norm. In bfloat16, if nothing but rounding of the inputs is
expected, the truth rounds them too and the tolerance is float32's; if activations are rounded on the way it is a
fraction of bfloat16's spacing of 2^-8.
"""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from golden_vectors import actor_critic, denoiser, reward_end_model
from torch import nn
from worlds import world

from diamond_fast.config import InnerModelConfig
from diamond_fast.networks.blocks import AdaGroupNorm, GroupNorm, SelfAttention2d
from diamond_fast.networks.unet.model import InnerModel

SIZES = [(64, 64), (8, 8), (5, 7), (30, 56), (1, 1), (16, 10), (3, 33)]


def relative_error(y, truth):
    return ((y.double() - truth).norm() / truth.norm()).item()


def randomised(module, seed=0):
    """Weights of which none is 0, so that every path counts."""
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=generator) * (0.7 / p[0].numel() ** 0.5 if p.dim() > 1 else 0.3)
    return module.requires_grad_(False)


def frames(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(3, 3, 3, 1), (64, 64, 3, 1), (15, 40, 3, 2), (33, 70, 1, 1)])
def test_convolution(engine, size, shape):
    c_in, c_out, kernel, stride = shape
    conv = randomised(nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2))
    x = frames(2, c_in, *size)
    truth = F.conv2d(engine.rounded(x), engine.rounded(conv.weight), conv.bias.double(), stride, kernel // 2)
    y = engine.run(lambda b, v: b.conv(conv, [v]), x)
    engine.assert_close(y, truth)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [(20, 36), (16, 16)])
def test_convolution_of_an_upsampled_input(engine, size, channels):
    conv = randomised(nn.Conv2d(*channels, 3, padding=1))
    x = frames(2, channels[0], *size)
    truth = F.conv2d(
        F.interpolate(engine.rounded(x), scale_factor=2.0), engine.rounded(conv.weight), conv.bias.double(), padding=1
    )
    y = engine.run(lambda b, v: b.conv(conv, [v], upsample=True), x)
    engine.assert_close(y, truth)


@pytest.mark.parametrize("kernel", [1, 3])
def test_convolution_of_two_inputs_and_a_residual(engine, kernel):
    first = randomised(nn.Conv2d(3, 20, 3, padding=1))
    conv = randomised(nn.Conv2d(23, 20, kernel, padding=kernel // 2), seed=1)
    x = frames(3, 3, 9, 17)

    def walk(b, v):
        y = b.conv(first, [v])
        return b.conv(conv, [y, v], residual=y)

    y = engine.rounded(
        F.conv2d(engine.rounded(x), engine.rounded(first.weight), first.bias.double(), padding=1).float()
    )
    truth = y + F.conv2d(
        torch.cat((y, engine.rounded(x)), dim=1), engine.rounded(conv.weight), conv.bias.double(), padding=kernel // 2
    )
    # the one rounding in between falls the other way where a sum lies on the border
    assert relative_error(engine.run(walk, x), truth) < engine.tolerance(3e-4)


@pytest.mark.parametrize("size", [(5, 7), (13, 14), (1, 3)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_convolution_whose_weights_are_more_than_its_map(engine, size, kernel):
    """Many channels of few pixels, worked on as a whole; two inputs of which neither fills its last block."""
    first = randomised(nn.Conv2d(204, 91, 1))
    conv = randomised(nn.Conv2d(295, 299, kernel, padding=kernel // 2), seed=1)
    x = frames(2, 204, *size)

    def walk(b, v):
        return b.conv(conv, [b.conv(first, [v]), v])

    y = engine.rounded(F.conv2d(engine.rounded(x), engine.rounded(first.weight), first.bias.double()).float())
    both = torch.cat((y, engine.rounded(x)), dim=1)
    truth = F.conv2d(both, engine.rounded(conv.weight), conv.bias.double(), padding=kernel // 2)
    assert relative_error(engine.run(walk, x), truth) < engine.tolerance(3e-4, fine=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (5, 7), (1, 2)])
@pytest.mark.parametrize("channels", [(3, 0), (48, 0), (64, 64), (16, 16), (96, 32)])
@pytest.mark.parametrize("mean", [0.0, -2.3, 60.0])
def test_adaptive_norm_and_silu(engine, size, channels, mean):
    """Whole groups, groups over both inputs, one group; a mean far from 0 costs no precision."""
    c = sum(channels)
    norm, conv = randomised(AdaGroupNorm(c, 12)), randomised(nn.Conv2d(c, 7, 3, padding=1))
    x = frames(2, channels[0], *size) * 0.5 + mean
    cond = frames(2, 12, seed=1)

    def walk(b, v):
        v = b.resize(v, *size)
        inputs = [v, b.resize(v, *size)] if channels[1] == channels[0] else [v]
        if channels[1] not in (0, channels[0]):
            inputs.append(b.conv(half, [v]))
        return b.conv(conv, inputs, norm)

    half = randomised(nn.Conv2d(channels[0], max(channels[1], 1), 1), seed=2)
    y = engine.rounded(x)
    if channels[1] == channels[0]:
        y = torch.cat((y, y), dim=1)
    elif channels[1]:
        other = F.conv2d(y, engine.rounded(half.weight), half.bias.double())
        y = torch.cat((y, engine.rounded(other.float())), dim=1)
    z = F.silu(norm.double()(y, cond.double()))
    norm.float()
    truth = F.conv2d(z, engine.rounded(conv.weight), conv.bias.double(), padding=1)
    assert relative_error(engine.run(walk, x, cond), truth) < engine.tolerance(3e-3)


def test_learned_norm_attention_and_pooling(engine):
    attention, norm = randomised(SelfAttention2d(40)), randomised(GroupNorm(40), seed=1)
    conv = randomised(nn.Conv2d(40, 5, 3, padding=1), seed=2)
    x = frames(2, 40, 9, 7)

    def walk(b, v):
        return b.conv(conv, [b.max_pool(b.attention(attention, b.resize(v, 9, 7)))], norm)

    with torch.no_grad():
        y = F.max_pool2d(attention.double()(engine.rounded(x)), 2)
        truth = F.conv2d(F.silu(norm.double()(y)), engine.rounded(conv.weight), conv.bias.double(), padding=1)
    attention.float(), norm.float()
    assert relative_error(engine.run(walk, x), truth) < engine.tolerance(5e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_a_number_shows(engine, bad):
    """In attention and pooling, whichever of the numbers it is: a run could not be told of it otherwise."""
    x = frames(1, 3, 4, 6)
    for i, j in ((0, 0), (0, 3), (3, 0), (1, 5)):
        x[0, 1] = 1.0
        x[0, 1, i, j] = bad
        y = engine.program(lambda b, v: b.max_pool(v), [(3, 1.0)], 4, 6)([x])
        torch.testing.assert_close(y, engine.rounded(F.max_pool2d(x, 2)).float(), rtol=0, atol=0, equal_nan=True)
    attention = randomised(SelfAttention2d(8))
    attention.qkv_proj.bias.data[3] = bad  # of a query
    x = frames(1, 8, 4, 6)
    program = engine.program(lambda b, v: b.attention(attention, b.resize(v, 4, 6)), [(8, 1.0)], 4, 6)
    assert program([x]).isnan().all()


@pytest.mark.parametrize(("height", "width"), [(7, 9), (12, 3)])
def test_resize(engine, height, width):
    x = frames(2, 3, 9, 7)
    y = engine.run(lambda b, v: b.resize(v, height, width), x)
    torch.testing.assert_close(y.double(), F.pad(engine.rounded(x), (0, width - 7, 0, height - 9)), rtol=0, atol=0)


def inputs_of(network, n, size, num_actions=4):
    cfg = network.conv_in.in_channels
    x, act = frames(n, cfg, *size), torch.arange(n * 4).view(n, 4) % num_actions
    with torch.no_grad():
        cond = network.cond_proj(network.noise_emb(torch.linspace(-1.0, 0.4, n)) + network.act_emb(act))
    return x, act, cond


def whole_network(engine, network, n, size):
    x, act, cond = inputs_of(network, n, size)
    context, noisy = x[:, :-3], x[:, -3:]
    with torch.no_grad():
        truth = network(noisy, torch.linspace(-1.0, 0.4, n), context, act)
    return engine.run(network.walk, x, cond), truth.double()


@pytest.mark.parametrize("size", ["small", "paper"])
def test_inner_model(engine, size):
    y, truth = whole_network(engine, denoiser(size).inner_model, 2, (64, 64))
    assert relative_error(y, truth) < engine.tolerance(1e-2)


@pytest.mark.parametrize("size", [(30, 56), (13, 21)])
def test_inner_model_of_odd_sizes_with_attention(engine, size):
    cfg = InnerModelConfig(cond_channels=64, depths=(1, 2, 1), channels=(16, 32, 64), attn_depths=(0, 0, 1))
    y, truth = whole_network(engine, randomised(InnerModel(cfg, world(4))), 2, size)
    assert relative_error(y, truth) < engine.tolerance(1e-2)


def test_reward_end_encoder(engine):
    model = reward_end_model()
    x, act = frames(3, 6, 64, 64), torch.tensor([0, 1, 2])
    with torch.no_grad():
        cond = model.act_emb(act)
        truth = model.encoder(x, cond)
    y = engine.run(model.encoder.walk, x, cond)
    assert relative_error(y, truth.double()) < engine.tolerance(1e-2)


def test_actor_critic_encoder(engine):
    model = actor_critic()
    x = frames(3, 3, 64, 64)
    with torch.no_grad():
        truth = model.encoder(x)
    y = engine.run(model.encoder.walk, x)
    assert relative_error(y, truth.double()) < engine.tolerance(1e-2)


def test_same_bits_for_any_number_of_threads_and_every_call(engine):
    network = denoiser("small").inner_model
    x, _, cond = inputs_of(network, 5, (20, 24))
    outputs = []
    for num_threads in (1, 2, 5):
        program = engine.program(network.walk, [(x.size(1), 1.0)], 20, 24, num_threads)
        rows = program.modulation(cond)
        outputs += [program([x], rows) for _ in range(2)]
    outputs.append(torch.cat([program([x[i : i + 1]], rows[i : i + 1]) for i in range(5)]))
    for y in outputs[1:]:
        assert torch.equal(y, outputs[0])


def test_refresh_takes_the_weights_as_they_are(engine):
    network = denoiser("small").inner_model
    x, _, cond = inputs_of(network, 1, (16, 16))
    program = engine.program(network.walk, [(x.size(1), 1.0)], 16, 16)
    before = program([x], program.modulation(cond))
    for p in network.parameters():
        p.data *= 1.1
    assert torch.equal(program([x], program.modulation(cond)), before)
    program.refresh()
    fresh = engine.program(network.walk, [(x.size(1), 1.0)], 16, 16)
    after = program([x], program.modulation(cond))
    assert torch.equal(after, fresh([x], fresh.modulation(cond)))
    assert not torch.equal(after, before)


def test_scales_of_pieces(engine):
    conv = randomised(nn.Conv2d(5, 4, 3, padding=1))
    a, b = frames(2, 2, 6, 6), frames(2, 3, 6, 6, seed=1)
    program = engine.program(lambda backend, v: backend.conv(conv, [v]), [(2, 2.0), (3, 0.25)], 6, 6)
    truth = F.conv2d(
        engine.rounded(torch.cat((a * 2, b / 4), dim=1)), engine.rounded(conv.weight), conv.bias.double(), padding=1
    )
    engine.assert_close(program([a, b]), truth)


def test_wrong_arrays_are_refused(engine):
    conv = randomised(nn.Conv2d(3, 4, 3, padding=1))
    program = engine.program(lambda b, v: b.conv(conv, [v]), [(3, 1.0)], 6, 6)
    with pytest.raises(ValueError, match="inputs: expected 108 numbers, got 105"):
        program([frames(1, 3, 5, 7)])
    norm = AdaGroupNorm(3, 8)
    program = engine.program(lambda b, v: b.conv(conv, [b.resize(v, 6, 6)], norm), [(3, 1.0)], 6, 6)
    with pytest.raises(ValueError, match="modulation: expected a row of at least 6 numbers"):
        program([frames(1, 3, 6, 6)])
    with pytest.raises(ValueError, match="norm: of a value without statistics"):
        engine.program(lambda b, v: b.conv(conv, [v], norm), [(3, 1.0)], 6, 6)


def test_a_forked_child_and_several_threads_can_run_it(engine):
    """A child has none of its parent's threads; callers that come at the same time wait for each other."""
    conv = randomised(nn.Conv2d(3, 4, 3, padding=1))
    program = engine.program(lambda b, v: b.conv(conv, [v]), [(3, 1.0)], 16, 16, num_threads=2)
    inputs = [frames(6, 3, 16, 16, seed=i) for i in range(4)]
    truth = [program([x]) for x in inputs]

    pid = os.fork()
    if pid == 0:
        os._exit(0 if torch.equal(program([inputs[0]]), truth[0]) else 1)
    for _ in range(1000):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        time.sleep(0.01)
    else:
        os.kill(pid, signal.SIGKILL)
        pytest.fail("the child hangs")
    assert status == 0

    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            for y, expected in zip(pool.map(lambda x: program([x]), inputs), truth, strict=True):
                assert torch.equal(y, expected)
