"""The diffusion transformer: held to plain loops over frames, patches and heads, in float64."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from diamond_fast.networks.dit.config import DiTConfig
from diamond_fast.networks.dit.model import Block, DiT
from diamond_fast.spec import Box, Discrete, Frame, Spec

SMALL = DiTConfig(patch_size=4, width=8, depth=2, num_heads=2)
SPEC = Spec(Frame(9, 14), Discrete(3), context=3)


def make(spec=SPEC, cfg=SMALL):
    torch.manual_seed(0)
    network = DiT(cfg, spec).double()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3)  # some layers are zero at the start
    return network


def inputs(spec=SPEC, n=2):
    generator = torch.Generator().manual_seed(1)
    size = spec.frame.height, spec.frame.width
    noisy = torch.randn(n, 3, *size, generator=generator, dtype=torch.float64)
    obs = torch.randn(n, 3 * spec.context, *size, generator=generator, dtype=torch.float64)
    act = torch.randint(3, (n, spec.context), generator=generator)
    return noisy, torch.linspace(-1, 1, n, dtype=torch.float64), obs, act


def plain_block(block, frames, conds):
    """One sample's frames, each [P,D], through a block: the last frame sees all of them, others themselves."""
    width, heads = block.out_proj.in_features, block.num_heads
    d = width // heads
    modulations = [block.modulation(F.silu(cond)).chunk(6) for cond in conds]

    def norm(x, shift, scale):
        return (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt() * (1 + scale) + shift

    qkv = [[block.qkv_proj(norm(x, m[0], m[1])).chunk(3) for x in f] for f, m in zip(frames, modulations, strict=True)]
    outputs = []
    for i, (frame, m) in enumerate(zip(frames, modulations, strict=True)):
        seen = [(k, v) for _, k, v in qkv[i]]
        if i == len(frames) - 1:
            seen += [(k + block.age_emb.weight[j], v) for j in range(i) for _, k, v in qkv[j]]
        rows = []
        for x, (q, _, _) in zip(frame, qkv[i], strict=True):
            parts = []
            for h in range(heads):
                part = slice(h * d, h * d + d)
                shares = torch.stack([q[part] @ k[part] / math.sqrt(d) for k, _ in seen]).softmax(0)
                parts.append(sum(share * v[part] for share, (_, v) in zip(shares, seen, strict=True)))
            y = x + m[2] * block.out_proj(torch.cat(parts))
            rows.append(y + m[5] * block.mlp(norm(y, m[3], m[4])))
        outputs.append(torch.stack(rows))
    return outputs


@torch.no_grad()
def test_it_is_the_plain_transformer():
    """Patches cut, sent through blocks and put together again one by one."""
    network = make()
    noisy, level, obs, act = inputs()
    y = network(noisy, level, obs, act)
    for n in range(len(noisy)):
        frames = [*obs[n].split(3), noisy[n]]
        conds = [network.clean_emb.weight[0] + network.act_emb(act[n, t]) for t in range(SPEC.context)]
        conds.append(network.noise_emb(level[n : n + 1])[0] + network.act_emb(act[n, -1]))
        conds = [network.cond_proj(cond) for cond in conds]
        tokens = []
        for frame in frames:
            whole = F.pad(frame, (0, 2, 0, 3))
            cut = [whole[:, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4].flatten() for r in range(3) for c in range(4)]
            place = [
                [f(p / scale) for p in (r, c) for f in (math.sin, math.cos) for scale in (1, 100)]
                for r in range(3)
                for c in range(4)
            ]
            tokens.append(network.patch_in(torch.stack(cut)) + torch.tensor(place).double())
        for block in network.blocks:
            tokens = plain_block(block, tokens, conds)
        shift, scale = network.modulation_out(F.silu(conds[-1])).chunk(2)
        truth = torch.zeros(3, 12, 16, dtype=torch.float64)
        for p, x in enumerate(tokens[-1]):
            x = (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt() * (1 + scale) + shift
            r, c = 4 * (p // 4), 4 * (p % 4)
            truth[:, r : r + 4, c : c + 4] = network.patch_out(x).view(3, 4, 4)
        torch.testing.assert_close(y[n], truth[:, :9, :14], rtol=1e-5, atol=1e-5)  # places are float32


@torch.no_grad()
def test_what_is_remembered_of_a_frame_is_its_own():
    """Neither frames before nor behind it change it; only its own pixels and action do."""
    network = make()
    _, _, obs, act = inputs()
    frames = obs.unflatten(1, (3, 3))
    together = network.encode(frames.flatten(0, 1), act.flatten())
    for t in range(3):
        alone = network.encode(frames[:, t], act[:, t])
        for x, y in zip(together, alone, strict=True):
            torch.testing.assert_close(x.unflatten(0, (2, 3))[:, t], y)
        other = network.encode(frames[:, t], (act[:, t] + 1) % 3)
        assert not torch.allclose(other[0], alone[0])


@torch.no_grad()
def test_each_past_frame_its_action_and_its_age_count():
    network = make()
    noisy, level, obs, act = inputs()
    y = network(noisy, level, obs, act)
    for t in range(3):
        changed = obs.unflatten(1, (3, 3)).clone()
        changed[:, t, :, 0, 0] += 0.1
        assert not torch.allclose(network(noisy, level, changed.flatten(1, 2), act), y)
        other = act.clone()
        other[:, t] = (other[:, t] + 1) % 3
        assert not torch.allclose(network(noisy, level, obs, other), y)
    same, swapped = act[:, -1:].expand_as(act), obs.unflatten(1, (3, 3)).flip(1).flatten(1, 2)
    assert not torch.allclose(network(noisy, level, swapped, same), network(noisy, level, obs, same))


@torch.no_grad()
def test_a_new_block_passes_its_input_on():
    x, cond = torch.randn(2, 5, 8), torch.randn(2, 8)
    past = torch.randn(2, 3, 2, 7, 8)
    assert torch.equal(Block(8, 2, 3)(x, cond, past)[0], x)


def test_gradients_are_those_of_finite_differences():
    spec = Spec(Frame(5, 3), Box(2), context=2)
    network = make(spec, DiTConfig(patch_size=3, width=4, depth=2, num_heads=1))
    noisy, level, obs, _ = inputs(spec, n=1)
    act = torch.tensor([[[0.2, -0.4], [0.7, 0.1]]], dtype=torch.float64)
    chosen = [network.blocks[1].age_emb.weight, network.clean_emb.weight, network.patch_in.bias]

    def output(noisy, obs, *parameters):
        return network(noisy, level, obs, act)

    assert gradcheck(output, (noisy.requires_grad_(), obs.requires_grad_(), *chosen), fast_mode=True)


@pytest.mark.parametrize("width", [7, 10])
def test_a_width_that_does_not_split_is_one_line(width):
    said = f"--x.width: must be even and a multiple of --x.num-heads (4), got {width}"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        DiTConfig(width=width).check("x")
