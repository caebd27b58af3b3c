"""Compiled programs of networks that remember past frames, against the networks in float64."""

import pytest
import torch
import torch.nn.functional as F
from test_cpu_program import frames, randomised, relative_error
from torch import nn

from diamond_fast.engine.cpu_program import INSTRUCTION_SETS
from diamond_fast.engine.memory_program import MemoryProgram, MemoryPrograms
from diamond_fast.networks.blocks import GroupNorm
from diamond_fast.networks.cross_attention.config import CrossAttentionConfig
from diamond_fast.networks.cross_attention.model import CrossAttentionNetwork
from diamond_fast.networks.dit.config import DiTConfig
from diamond_fast.networks.dit.model import DiT, modulated
from diamond_fast.networks.memory import FrameByFrameNetwork
from diamond_fast.networks.unet3d.config import UNet3DConfig
from diamond_fast.networks.unet3d.model import UNet3D
from diamond_fast.spec import Discrete, Frame, Spec

T = 3
NETWORKS = {  # the looked-at levels, or the patches, are odd in height or width somewhere
    "cross_attention": (
        CrossAttentionNetwork,
        CrossAttentionConfig(
            num_steps_conditioning=T,
            cond_channels=12,
            depths=(1, 2),
            channels=(8, 24),
            attn_depths=(0, 1),
            encoder_depths=(2, 1),
            encoder_channels=(16, 8),
        ),
    ),
    "dit": (DiT, DiTConfig(num_steps_conditioning=T, patch_size=4, width=20, depth=2, num_heads=2)),
    "unet3d": (
        UNet3D,
        UNet3DConfig(num_steps_conditioning=T, cond_channels=12, depths=(1, 2), channels=(8, 24), attn_depths=(0, 1)),
    ),
}
each_network = pytest.mark.parametrize("name", NETWORKS)


def make(name, size):
    kind, cfg = NETWORKS[name]
    torch.manual_seed(0)
    return randomised(kind(cfg, Spec(Frame(*size), Discrete(4), T)))


def inputs_of(n, size):
    """Noisy frames, their levels, past frames [N,T,C,H,W], actions."""
    return (
        frames(n, 3, *size),
        torch.linspace(-1, 0.4, n),
        frames(n, T, 3, *size, seed=1),
        torch.arange(n * T).view(n, T) % 4,
    )


def output_of(programs, network, x, level, past, act):
    """Past frames remembered by programs, and recalled."""
    if isinstance(network, FrameByFrameNetwork):
        memory = [y.unflatten(0, act.shape) for y in programs.encode(past.flatten(0, 1), act.flatten())]
    else:
        memory = programs.remember(past, act)
    return programs.recall(x, level, memory, act[:, -1])


def truth_of(network, x, level, past, act):
    network.double()
    y = network(x.double(), level.double(), past.flatten(1, 2).double(), act)
    network.float()
    return y


def programs_on(engine, network, **options):
    return MemoryPrograms(network, INSTRUCTION_SETS[engine.name], on=engine.name, **options)


@each_network
@pytest.mark.parametrize(("n", "size"), [(1, (9, 14)), (3, (9, 14)), (1, (20, 12))])
def test_networks(engine, name, n, size):
    network, inputs = make(name, size), inputs_of(n, size)
    y = output_of(programs_on(engine, network, num_threads=1), network, *inputs)
    assert relative_error(y, truth_of(network, *inputs)) < engine.tolerance(3e-2, fine=1e-5)


@each_network
def test_same_bits_for_any_number_of_threads_and_samples(engine, name):
    network, (x, level, past, act) = make(name, (9, 14)), inputs_of(3, (9, 14))
    alone, shared = (programs_on(engine, network, num_threads=n) for n in (1, 2))
    y = output_of(alone, network, x, level, past, act)
    assert torch.equal(output_of(shared, network, x, level, past, act), y)
    one = output_of(shared, network, x[1:2], level[1:2], past[1:2], act[1:2])
    assert (one - y[1:2]).abs().max() <= 1e-5 * y.abs().max()  # its conditioning is torch's, of one row or of three


@each_network
def test_refresh_takes_the_weights_as_they_are(engine, name):
    """Those of convolutions, norms, the conditioning, and what tells frames and places apart."""
    network, inputs = make(name, (9, 14)), inputs_of(1, (9, 14))
    programs = programs_on(engine, network, num_threads=1)
    before = output_of(programs, network, *inputs)
    for p in network.parameters():
        p.mul_(1.1)
    assert torch.equal(output_of(programs, network, *inputs), before)
    programs.refresh()
    after = output_of(programs, network, *inputs)
    assert torch.equal(after, output_of(programs_on(engine, network, num_threads=1), network, *inputs))
    assert not torch.equal(after, before)


def run(engine, walk, x, memory=(), cond=None):
    """One thread's result of a walk; a team has the same bits."""
    alone, shared = (
        MemoryProgram(walk, x.size(1), x.shape[-2:], on=engine.name, num_threads=threads) for threads in (1, 3)
    )
    cond = torch.zeros(len(x), 1) if cond is None else cond
    one = x[:1], cond[:1], [m[:1] for m in memory]
    assert torch.equal(shared.run(*one)[0], alone.run(*one)[0])
    return alone.run(x, cond, memory)[0]


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (8, 4)])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize(("own", "past"), [(False, 3), (True, 3), (True, 0)])
def test_attention_to_past_frames(engine, size, heads, own, past):
    """Heads of 10 and 20 channels; a frame of its own, past ones, or both."""
    n, c = 2, 20
    ages, x, memory = (
        randomised(nn.Embedding(3, c)),
        frames(n, 3 * c if own else c, *size),
        frames(n, past, 2 * c, *size),
    )
    heads_of = lambda y: y.flatten(-2).unflatten(-2, (heads, -1)).mT.double()  # noqa: E731
    stored = engine.rounded(x)
    keys, values = (memory[:, :, :c] + ages.weight[:past, :, None, None]), memory[:, :, c:]
    keys, values = (y.double().transpose(1, 2).flatten(2, 3) for y in (keys, values))
    if own:
        keys = torch.cat((keys, stored[:, c : 2 * c]), dim=2)
        values = torch.cat((values, stored[:, 2 * c :]), dim=2)
    truth = F.scaled_dot_product_attention(heads_of(stored[:, :c]), heads_of(keys), heads_of(values))
    truth = truth.transpose(2, 3).reshape(n, c, *size)
    y = run(engine, lambda b, v: b.look(v, heads, ages, own), x, memory=[memory] if past else ())
    assert relative_error(y, truth) < engine.tolerance(4e-3, fine=1e-6)


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (8, 4)])
@pytest.mark.parametrize("past", [0, 1, 70])
def test_attention_over_time(engine, size, past):
    """So many frames that they are looked at in parts. Scores are large: some weights are nearly all."""
    n, c, heads = 2, 20, 2
    distances = randomised(nn.Embedding(71, heads))
    x, memory = frames(n, 3 * c, *size) * 2, frames(n, past, 2 * c, *size, seed=1) * 2
    stored = engine.rounded(x)
    seen = torch.cat((memory.double(), stored[:, None, c:]), dim=1).unflatten(2, (2, heads, -1))
    scores = (stored[:, None, :c].unflatten(2, (heads, -1)) * seen[:, :, 0]).sum(3) / (c / heads) ** 0.5
    scores = scores + distances.weight[: past + 1].flip(0)[..., None, None].double()
    truth = (scores.softmax(1).unsqueeze(3) * seen[:, :, 1]).sum(1).flatten(1, 2)
    y = run(
        engine, lambda b, v: b.look(v, heads, distances, own=True, same_place=True), x, memory=[memory] if past else ()
    )
    assert relative_error(y, truth) < engine.tolerance(4e-3, fine=1e-6)


@pytest.mark.parametrize("channels", [40, 33])
def test_operations_of_tokens(engine, channels):
    """Norm, activation, product and gate of a transformer's block, far from a mean of 0."""
    row, up, down = randomised(nn.Linear(5, 3 * channels)), nn.Linear(channels, 50), nn.Linear(50, channels)
    up, down = randomised(up, seed=1), randomised(down, seed=2)
    x, cond = frames(2, channels, 3, 5) + 3, frames(2, 5, seed=1)

    def walk(b, v):
        at = b.row(row)
        y = b.gelu(b.linear(up, b.layer_norm(v, at + channels, at)))
        return b.gated_sum(v, b.linear(down, y, residual=v), at + 2 * channels)

    for layer in (row, up, down):
        layer.double()
    shift, scale, gate = row(cond.double()).chunk(3, dim=1)
    stored = engine.rounded(x).flatten(2).mT
    y = down(F.gelu(up(modulated(stored, shift, scale)), approximate="tanh")) + stored
    truth = (stored + gate[:, None] * y).mT.unflatten(2, (3, 5))
    for layer in (row, up, down):
        layer.float()
    assert relative_error(run(engine, walk, x, cond=cond), truth) < engine.tolerance(1e-2, fine=1e-6)


def test_constants_norms_and_several_outputs(engine):
    norm, layer = randomised(GroupNorm(32)), randomised(nn.Linear(32, 12), seed=1)
    constant, x = frames(12, 3, 5, seed=2), frames(2, 32, 3, 5)

    def walk(b, v):
        v = b.norm(norm, b.resize(v, 3, 5))
        return [v, b.linear(layer, v, residual=b.constant(lambda: constant))]

    program = MemoryProgram(walk, 32, (3, 5), on=engine.name)
    first, second = program.run(x, torch.zeros(2, 1))
    truth = norm.double()(engine.rounded(x))
    assert relative_error(first, truth) < engine.tolerance(4e-3, fine=1e-6)
    truth = layer.double()(truth.flatten(2).mT).mT.unflatten(2, (3, 5)) + engine.rounded(constant)
    norm.float(), layer.float()
    assert relative_error(second, truth) < engine.tolerance(1e-2, fine=1e-6)


def test_what_does_not_fit_is_refused(engine):
    ages, x, cond = nn.Embedding(3, 20), frames(2, 20, 4, 4), torch.zeros(2, 1)
    program = MemoryProgram(lambda b, v: b.look(v, 2, ages, own=False), 20, (4, 4), on=engine.name)
    with pytest.raises(ValueError, match="memories: expected 3840 numbers, got 3600"):
        program.run(x, cond, [torch.zeros(2, 3, 40, 5, 3)])
    with pytest.raises(ValueError, match="past: more frames than the program looks at"):
        program.run(x, cond, [torch.zeros(2, 4, 40, 4, 4)])
    with pytest.raises(ValueError, match="memories: expected one a look"):
        program.run(x, cond, [torch.zeros(2, 3, 40, 4, 4)] * 2)
    with pytest.raises(ValueError, match="heads: must divide the queries' channels"):
        MemoryProgram(lambda b, v: b.look(v, 3, ages, own=False), 20, (4, 4), on=engine.name)
    with pytest.raises(RuntimeError, match="an operation has no way back"):
        program.backward([x], None, torch.zeros(2, 20, 4, 4))
