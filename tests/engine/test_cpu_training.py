"""Gradients of compiled programs against autograd in float64, operation by operation and for whole networks.

With AMX activations and their gradients are rounded to bfloat16 (8 bits) on the way, so a gradient is compared by the
norm of its error; a wrong tap, channel or sum is off by far more than the tolerance.
"""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from golden_vectors import actor_critic, denoiser, reward_end_model
from torch import nn
from worlds import world

from diamond_fast.config import DenoiserConfig, InnerModelConfig, SigmaDistributionConfig
from diamond_fast.engine import cpu_program
from diamond_fast.engine.cpu_training import TrainableProgram, as_programs
from diamond_fast.networks.backend import res_block
from diamond_fast.networks.blocks import AdaGroupNorm, GroupNorm, ResBlock, SelfAttention2d, SmallResBlock
from diamond_fast.world_model import Denoiser


def randomised(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=generator) * (0.7 / p[0].numel() ** 0.5 if p.dim() > 1 else 0.3)
    return module


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative_errors(truth, actual):
    """Per parameter: norm of the error of its gradient over the norm of the gradient, or over a typical one."""
    scale = torch.stack([g.norm() for g in truth.values()]).median() * 0.1
    return {k: ((actual[k].double() - g).norm() / torch.maximum(g.norm(), scale)).item() for k, g in truth.items()}


def gradients(model):
    grads = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return grads


def assert_gradients(engine, network, walk, forward, x, cond=None, tolerance=2e-2):
    """Gradients of a random weighting of the output, for every parameter and the conditioning."""
    network = randomised(network)
    twin = copy.deepcopy(network).double()
    x = x.to(torch.bfloat16).float()
    cond_twin = None if cond is None else cond.double().requires_grad_()
    cond = None if cond is None else cond.requires_grad_()
    y_twin = forward(twin, x.double(), cond_twin)
    weighting = randn(*y_twin.shape, seed=7).to(torch.bfloat16)
    (y_twin * weighting).sum().backward()
    y = TrainableProgram(lambda b, v: walk(b, network, v), on=engine.name)(x, cond)
    assert ((y.double() - y_twin).norm() / y_twin.norm()).item() < engine.tolerance(1e-2)
    (y * weighting).sum().backward()
    truth, actual = gradients(twin), gradients(network)
    if cond is not None:
        truth["cond"], actual["cond"] = cond_twin.grad, cond.grad
    assert set(truth) == set(actual)
    errors = relative_errors(truth, actual)
    assert max(errors.values()) < engine.tolerance(tolerance), errors


class Block(nn.Module):
    """Two convolutions, so that the first one's gradient has come through the second one's input."""

    def __init__(self, c_in, c, c_out, kernel=3, stride=1, norm=None):
        super().__init__()
        self.first = nn.Conv2d(c_in, c, 3, padding=1)
        self.norm = None if norm is None else norm(c)
        self.conv = nn.Conv2d(c, c_out, kernel, stride, padding=kernel // 2)

    def forward(self, x, cond=None):
        x = self.first(x)
        if isinstance(self.norm, AdaGroupNorm):
            x = nn.functional.silu(self.norm(x, cond))
        elif self.norm is not None:
            x = nn.functional.silu(self.norm(x))
        return self.conv(x)


def block_walk(b, m, x):
    return b.conv(m.conv, [b.conv(m.first, [x])], m.norm)


def forward(m, x, cond):
    return m(x) if cond is None else m(x, cond)


WIDE = [(9, 104, 100, 3, 1), (9, 288, 300, 1, 1)]  # whose weights are more than a small map


@pytest.mark.parametrize("size", [(16, 16), (5, 7), (33, 18), (1, 1)])
@pytest.mark.parametrize("shape", [(3, 40, 7, 3, 1), (20, 64, 33, 3, 2), (33, 33, 70, 1, 1), *WIDE])
def test_convolutions(engine, size, shape):
    assert_gradients(engine, Block(*shape), block_walk, forward, randn(2, shape[0], *size))


@pytest.mark.parametrize("channels", [8, 64, 96])
@pytest.mark.parametrize("size", [(16, 16), (5, 7)])
def test_norms(engine, channels, size):
    x = randn(2, 3, *size)
    assert_gradients(engine, Block(3, channels, 5, norm=GroupNorm), block_walk, forward, x)
    adaptive = Block(3, channels, 5, norm=lambda c: AdaGroupNorm(c, 12))
    assert_gradients(engine, adaptive, block_walk, forward, x, randn(2, 12, seed=1))


def test_more_threads_than_before_the_last_forward_pass(engine):
    network, x, grad = randomised(Block(3, 8, 4)), randn(4, 3, 8, 8), randn(4, 4, 8, 8, seed=1)
    used, fresh = (engine.program(lambda b, v: block_walk(b, network, v), [(3, 1.0)], 8, 8, 2) for _ in "12")
    used.backward([x[:1]], None, grad[:1])  # takes one thread
    used([x])
    for ours, theirs in zip(used.backward([x], None, grad)[1], fresh.backward([x], None, grad)[1], strict=True):
        assert torch.equal(ours, theirs)


class Skips(nn.Module):
    """A value read four times: by two concatenated inputs, and as two residuals."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.block = ResBlock(64, 32, 12, attn=True)
        self.join = nn.Conv2d(32, 32, 1)
        self.up = nn.Conv2d(32, 8, 3, padding=1)

    def forward(self, x, cond):
        x = self.first(x)
        y = self.block(torch.cat((x, x), dim=1), cond)
        return self.up(nn.functional.interpolate(self.join(y) + x, scale_factor=2.0))


def skips_walk(b, m, x):
    x = b.conv(m.first, [x])
    y = res_block(b, m.block, [x, x])
    return b.conv(m.up, [b.conv(m.join, [y], residual=x)], upsample=True)


def test_values_that_are_read_more_than_once(engine):
    assert_gradients(engine, Skips(), skips_walk, forward, randn(2, 3, 6, 9), randn(2, 12, seed=1), tolerance=3e-2)


@pytest.mark.parametrize("most", [0, 100_000, cpu_program.MOST_KEPT])
def test_activations_that_are_kept_change_no_bit(engine, monkeypatch, most):
    """Of no sample, of some, of all; while others are kept as well, and in memory that was used before."""
    monkeypatch.setattr(cpu_program, "MOST_KEPT", most)
    network = randomised(Skips())
    program = engine.program(lambda b, v: skips_walk(b, network, v), [(3, 1.0)], 6, 9, 2)
    for seed in range(2):
        calls = [([randn(n, 3, 6, 9, seed=seed)], program.modulation(randn(n, 12, seed=n))) for n in (5, 3)]
        passes = [program.run_and_keep(*call) for call in calls]
        for call, (output, kept) in zip(calls, passes, strict=True):
            assert torch.equal(output, program(*call))
            grad = randn(*output.shape, seed=7)
            (rows, grads), (rows_again, grads_again) = (program.backward(*call, grad, k) for k in (kept, None))
            assert torch.equal(rows, rows_again)
            assert all(torch.equal(a, b) for a, b in zip(grads, grads_again, strict=True))


def test_activations_of_another_call_are_refused(engine):
    network, x = randomised(Block(3, 8, 4)), randn(4, 3, 8, 8)
    program, other = (engine.program(lambda b, v: block_walk(b, network, v), [(3, 1.0)], 8, 8) for _ in "12")
    output, kept = program.run_and_keep([x])
    for user, n in ((program, 3), (other, 4)):
        with pytest.raises(ValueError, match="kept: is of another program, or of another number of samples"):
            user.backward([x[:n]], None, output[:n], kept)
    del program  # what is kept may outlive it
    del kept


class Rest(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 40, 3, padding=1)
        self.attention = SelfAttention2d(40)
        self.block = SmallResBlock(40, 40)

    def forward(self, x, cond=None):
        y = self.attention(nn.functional.pad(self.first(x), (0, 3, 0, -1)))
        return nn.functional.max_pool2d(self.block(y), 2)


def rest_walk(b, m, x):
    h, w = b.size(x)
    y = b.attention(m.attention, b.resize(b.conv(m.first, [x]), h - 1, w + 3))
    norm, _, conv = m.block.f
    return b.max_pool(b.conv(conv, [y], norm, residual=y))


def test_attention_pooling_and_resizing(engine):
    """Pooling sends a gradient elsewhere where two rounded values have become equal: hence the tolerance."""
    assert_gradients(engine, Rest(), rest_walk, forward, randn(2, 3, 8, 9), tolerance=0.1)


def total_error(engine, model, loss):
    """Errors of the whole gradient and of the loss."""
    fast = as_programs(model, on=engine.name)
    expected = loss(model)
    expected.backward()
    truth = gradients(model)
    actual_loss = loss(fast)
    actual_loss.backward()
    actual = gradients(model)
    assert set(truth) == set(actual)
    assert actual_loss.item() == pytest.approx(expected.item(), rel=engine.tolerance(5e-3))
    difference = torch.stack([(truth[k] - actual[k]).norm() for k in truth]).norm()
    return (difference / torch.stack([g.norm() for g in truth.values()]).norm()).item()


def frames(n, t, size):
    g = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (n, t, 3, size, size), generator=g) / 255 * 2 - 1, torch.arange(n * t).view(n, t) % 4


def test_denoiser_loss_over_two_steps(engine):
    cfg = InnerModelConfig(cond_channels=64, depths=(1, 1, 1), channels=(32, 64, 64), attn_depths=(0, 0, 1))
    model = randomised(Denoiser(DenoiserConfig(cfg), world(4)))
    obs, act = frames(3, 6, 30)
    mask = torch.tensor([[True] * 6, [True] * 5 + [False], [False] * 6])

    def loss(m):
        torch.manual_seed(1)
        return m.loss(obs, act, mask, SigmaDistributionConfig())

    assert total_error(engine, model, loss) < engine.tolerance(1.5e-2)


def test_denoiser_loss_with_the_papers_network(engine):
    obs, act = frames(1, 5, 64)

    def loss(m):
        torch.manual_seed(1)
        return m.loss(obs, act, torch.ones(1, 5, dtype=torch.bool), SigmaDistributionConfig())

    assert total_error(engine, denoiser("paper"), loss) < engine.tolerance(1.5e-2)


def test_reward_end_loss(engine):
    obs, act = frames(2, 4, 32)
    rew, end, mask = torch.ones(2, 4), torch.zeros(2, 4, dtype=torch.bool), torch.ones(2, 4, dtype=torch.bool)
    assert total_error(engine, reward_end_model(), lambda m: m.loss(obs, act, rew, end, mask).total) < engine.tolerance(
        1.5e-2
    )


def test_actor_critic(engine):
    model = actor_critic()
    obs, _ = frames(3, 1, 32)

    def loss(m):
        zeros = torch.zeros(3, m.lstm_dim)
        logits, values, _ = m.predict_act_value(obs[:, 0], (zeros, zeros))
        return logits.square().sum() + values.square().sum()

    assert total_error(engine, model, loss) < engine.tolerance(4e-2)


def test_several_threads_get_their_own_gradients(engine):
    """Each of its own samples, though all of one program."""
    network = randomised(Block(3, 8, 3))
    program = TrainableProgram(lambda b, v: block_walk(b, network, v), on=engine.name)
    weights = list(network.parameters())

    def gradient(seed):
        return torch.autograd.grad(program(randn(2, 3, 16, 16, seed=seed)).sum(), weights)

    expected = [gradient(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(gradient, list(range(4)) * 25))
    for k, grads in enumerate(found):
        assert all(torch.equal(a, b) for a, b in zip(grads, expected[k % 4], strict=True))


def test_what_autograd_could_not_tell_is_refused(engine):
    network = randomised(Block(3, 8, 3))
    program = TrainableProgram(lambda b, v: block_walk(b, network, v), on=engine.name)
    y = program(randn(1, 3, 8, 8))
    with torch.no_grad():
        network.first.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    with pytest.raises(ValueError, match="x: a program has no gradient of its input"):
        program(randn(1, 3, 8, 8).requires_grad_())


def test_same_bits_every_time_and_weights_as_they_are(engine):
    model = denoiser("small")
    obs, act = frames(3, 5, 24)
    fast = as_programs(model, on=engine.name)

    def one():
        torch.manual_seed(1)
        fast.loss(obs, act, torch.ones(3, 5, dtype=torch.bool), SigmaDistributionConfig()).backward()
        return gradients(model)

    first, second = one(), one()
    assert all(torch.equal(first[k], second[k]) for k in first)
    model.inner_model.conv_in.weight.data *= 1.5
    assert not torch.equal(one()["inner_model.conv_in.weight"], first["inner_model.conv_in.weight"])
