"""The U-Net over space and time: held to plain loops over frames, positions and heads, in float64."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from diamond_fast.networks.unet3d.config import UNet3DConfig
from diamond_fast.networks.unet3d.model import TimeAttention2d, UNet3D
from diamond_fast.spec import Box, Discrete, Frame, MultiBinary, Spec

SMALL = UNet3DConfig(cond_channels=8, depths=(1, 2), channels=(8, 16), attn_depths=(0, 1))
SPECS = [
    Spec(Frame(36, 34), Discrete(3), context=2),  # of levels of 36x34 and 18x17, the last looks back
    Spec(Frame(3, 4), MultiBinary(3), context=3),
    Spec(Frame(3, 2), Box(2), context=1),
]


def make(spec, cfg=SMALL):
    torch.manual_seed(0)
    network = UNet3D(cfg, spec).double()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3)  # some layers are zero at the start
    return network


def inputs(spec, n=2):
    generator = torch.Generator().manual_seed(1)
    size = spec.frame.height, spec.frame.width
    noisy = torch.randn(n, 3, *size, generator=generator, dtype=torch.float64)
    obs = torch.randn(n, 3 * spec.context, *size, generator=generator, dtype=torch.float64)
    act = torch.randint(spec.action.n, (n, spec.context, *spec.action.shape), generator=generator)
    if isinstance(spec.action, MultiBinary):
        act = (act % 2).to(torch.uint8)
    elif isinstance(spec.action, Box):
        act = act / 2.0
    return noisy, torch.linspace(-1, 1, n, dtype=torch.float64), obs, act


def plain_attention(look, frames):
    """Frames, each [C,h,w]: position by position, head by head, each frame among those up to itself."""
    heads, c = look.num_heads, frames[0].size(0)
    normed = [look.norm(x[None])[0] for x in frames]
    weight, bias = look.qkv_proj.weight[:, :, 0, 0], look.qkv_proj.bias
    qkv = [torch.einsum("oc,chw->ohw", weight, x) + bias[:, None, None] for x in normed]
    results = []
    for t, frame in enumerate(frames):
        out = torch.empty_like(frame)
        for y in range(frame.size(1)):
            for x in range(frame.size(2)):
                parts = []
                for h in range(heads):
                    d = c // heads
                    q, k, v = (slice(i * c + h * d, i * c + h * d + d) for i in range(3))
                    at = [z[:, y, x] for z in qkv[: t + 1]]
                    scores = [at[t][q] @ z[k] / math.sqrt(d) for z in at]
                    scores = [s + look.distance_emb.weight[t - j, h] for j, s in enumerate(scores)]
                    shares = torch.stack(scores).softmax(0)
                    parts.append(sum(share * z[v] for share, z in zip(shares, at, strict=True)))
                out[:, y, x] = look.out_proj.weight[:, :, 0, 0] @ torch.cat(parts) + look.out_proj.bias
        results.append(frame + out)
    return results


def one(block, x, *rest):
    """A module on one frame."""
    return block(x[None], *(r[None] for r in rest))[0]


def plain_unet3d(network, frames, conds):
    """One sample's frames, each [C,H,W], the last one noisy: all through the whole U-Net, one by one."""
    unet, first = network.unet, network.first
    h, w = frames[0].shape[1:]
    multiple = 2 ** (len(unet.d_blocks) - 1)
    frames = [one(network.conv_in, F.pad(x, (0, -w % multiple, 0, -h % multiple))) for x in frames]
    skips = []
    for level, (blocks, down) in enumerate(zip(unet.d_blocks, unet.downsamples, strict=True)):
        frames = [one(down, x) for x in frames]
        skips.append([frames])
        for block in blocks.resblocks:
            frames = [one(block, x, cond) for x, cond in zip(frames, conds, strict=True)]
            skips[-1].append(frames)
        if level >= first:
            frames = skips[-1][-1] = plain_attention(network.d_looks[level - first], frames)
    for block in unet.mid_blocks.resblocks:
        frames = [one(block, x, cond) for x, cond in zip(frames, conds, strict=True)]
    frames = plain_attention(network.mid_look, frames)
    for i, (blocks, up) in enumerate(zip(unet.u_blocks, unet.upsamples, strict=True)):
        frames = [one(up, x) for x in frames]
        for block, skip in zip(blocks.resblocks, reversed(skips[-1 - i]), strict=True):
            joined = [torch.cat(pair) for pair in zip(frames, skip, strict=True)]
            frames = [one(block, x, cond) for x, cond in zip(joined, conds, strict=True)]
        if i < len(network.u_looks):
            frames = plain_attention(network.u_looks[i], frames)
    return one(network.conv_out, F.silu(one(network.norm_out, frames[-1][:, :h, :w])))


@pytest.mark.parametrize("spec", SPECS[1:])
@torch.no_grad()
def test_it_is_all_frames_through_one_unet(spec):
    """Encoding the past apart changes nothing: the noisy frame is the last of the block."""
    network = make(spec)
    noisy, level, obs, act = inputs(spec)
    y = network(noisy, level, obs, act)
    for n in range(len(noisy)):
        conds = [network.clean_emb.weight[0] + network.act_emb(act[n, t]) for t in range(spec.context)]
        conds.append(network.noise_emb(level[n : n + 1])[0] + network.act_emb(act[n, -1]))
        truth = plain_unet3d(network, [*obs[n].split(3), noisy[n]], [network.cond_proj(cond) for cond in conds])
        torch.testing.assert_close(y[n], truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("spec", "cfg", "first"), [(SPECS[0], SMALL, 1), (SPECS[1], SMALL, 0)])
def test_levels_of_at_most_1024_positions_look(spec, cfg, first):
    network = UNet3D(cfg, spec)
    assert network.first == first
    assert [len(looks) for looks in (network.d_looks, network.u_looks)] == [2 - first, 2 - first]


@torch.no_grad()
def test_no_frame_sees_a_later_one():
    """What is remembered of the first frames stays, whatever comes behind them; of those behind it changes."""
    spec = SPECS[1]
    network = make(spec)
    _, _, obs, act = inputs(spec)
    frames = obs.unflatten(1, (3, 3))
    memory = network.remember(frames, act)
    shorter = network.remember(frames[:, :2], act[:, :2])
    for x, y in zip(memory, shorter, strict=True):
        torch.testing.assert_close(x[:, :2], y, rtol=1e-9, atol=1e-9)
    other = frames.clone()
    other[:, 1] += 0.1
    for i, (x, y) in enumerate(zip(memory, network.remember(other, act), strict=True)):
        torch.testing.assert_close(x[:, 0], y[:, 0], rtol=1e-9, atol=1e-9)
        assert not torch.allclose(x[:, 1], y[:, 1])
        assert torch.allclose(x[:, 2], y[:, 2]) == (i == 0)  # the first attention is asked before any has looked


@torch.no_grad()
def test_time_is_relative():
    """Moved in time, the frames before them seen or not, frames attend as before: distances alone count."""
    torch.manual_seed(0)
    look = TimeAttention2d(16, 4).double()
    for p in look.parameters():
        torch.nn.init.normal_(p, std=0.5)
    x = torch.randn(2, 5, 16, 2, 3).double()
    y, own = look(x.flatten(0, 1), 5)
    later, _ = look(x[:, 3:].flatten(0, 1), 2, own[:, :3])
    torch.testing.assert_close(later.unflatten(0, (2, 2)), y.unflatten(0, (2, 5))[:, 3:])
    alone, _ = look(x[:, 3:].flatten(0, 1), 2)
    again, _ = look(x[:, 3:].flatten(0, 1), 2, own[:, :0])
    torch.testing.assert_close(alone, again)
    assert not torch.allclose(alone, later)


@torch.no_grad()
def test_each_past_frame_its_action_and_its_distance_count():
    spec = SPECS[1]
    network = make(spec)
    noisy, level, obs, act = inputs(spec)
    y = network(noisy, level, obs, act)
    for t in range(3):
        changed = obs.unflatten(1, (3, 3)).clone()
        changed[:, t] += 0.1
        assert not torch.allclose(network(noisy, level, changed.flatten(1, 2), act), y)
        other = act.clone()
        other[:, t] = 1 - other[:, t]
        assert not torch.allclose(network(noisy, level, obs, other), y)
    same, swapped = act[:, -1:].expand_as(act), obs.unflatten(1, (3, 3)).flip(1).flatten(1, 2)
    assert not torch.allclose(network(noisy, level, swapped, same), network(noisy, level, obs, same))
    assert not torch.allclose(network(noisy, level + 0.5, obs, act), y)


@torch.no_grad()
def test_a_new_network_does_not_look_back_yet():
    torch.manual_seed(0)
    network = UNet3D(SMALL, SPECS[1]).double()
    torch.nn.init.normal_(network.conv_out.weight)
    noisy, level, obs, act = inputs(SPECS[1])
    y = network(noisy, level, obs, act)
    torch.testing.assert_close(network(noisy, level, torch.zeros_like(obs), act), y)
    assert not torch.allclose(network(noisy + 0.1, level, obs, act), y)


def test_gradients_are_those_of_finite_differences():
    spec = Spec(Frame(3, 2), Box(2), context=2)
    network = make(spec, UNet3DConfig(cond_channels=4, depths=(1, 1), channels=(4, 4), attn_depths=(0, 0)))
    noisy, level, obs, act = inputs(spec, n=1)
    chosen = [network.mid_look.distance_emb.weight, network.clean_emb.weight, network.conv_in.bias]

    def output(noisy, obs, *parameters):
        return network(noisy, level, obs, act)

    assert gradcheck(output, (noisy.requires_grad_(), obs.requires_grad_(), *chosen), fast_mode=True)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"depths": (1,)}, "--x.depths: must have as many entries as --x.channels"),
        ({"channels": (8, 12)}, None),
        ({"channels": (28, 16)}, "--x.channels: 28 channels with attention do not split into 3 heads"),
        ({"channels": (57, 16)}, "--x.channels: 73 channels (a level and its skips together)"),
        ({"cond_channels": 7}, "--x.cond-channels: must be even, got 7"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(settings, said):
    cfg = UNet3DConfig(**{**vars(SMALL), **settings})
    if said is None:
        cfg.check("x")
        make(SPECS[2], cfg)
        return
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        cfg.check("x")
