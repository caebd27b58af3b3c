"""The cross-attention network: held to plain loops over frames and positions, in float64."""

import math
import re
from itertools import pairwise

import pytest
import torch
from torch.autograd import gradcheck

from diamond_fast.networks.cross_attention.config import CrossAttentionConfig
from diamond_fast.networks.cross_attention.model import MOST_POSITIONS, CrossAttention2d, CrossAttentionNetwork
from diamond_fast.networks.levels import first_looking
from diamond_fast.networks.memory import places
from diamond_fast.spec import Box, Discrete, Frame, MultiBinary, Spec

SMALL = CrossAttentionConfig(
    cond_channels=8,
    depths=(1, 2, 1),
    channels=(8, 16, 8),
    attn_depths=(0, 1, 0),
    encoder_depths=(1, 1, 2),
    encoder_channels=(8, 8, 16),
)
SPECS = [
    Spec(Frame(64, 64), Discrete(3), context=2),  # levels of 64x64, 32x32 and 16x16, of which the last is looked at
    Spec(Frame(21, 13), MultiBinary(3), context=3),
    Spec(Frame(5, 7), Box(2), context=1),
]


def make(spec, cfg=SMALL):
    torch.manual_seed(0)
    network = CrossAttentionNetwork(cfg, spec).double()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.2)  # some layers are zero at the start
    return network


def actions(spec, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (n, spec.context, *spec.action.shape)
    if isinstance(spec.action, Discrete):
        return torch.randint(spec.action.n, shape, generator=generator)
    return torch.rand(shape, generator=generator, dtype=torch.float64).round(decimals=1)


def inputs(spec, n=2):
    generator = torch.Generator().manual_seed(1)
    size = spec.frame.height, spec.frame.width
    noisy = torch.randn(n, 3, *size, generator=generator, dtype=torch.float64)
    obs = torch.randn(n, 3 * spec.context, *size, generator=generator, dtype=torch.float64)
    return noisy, torch.linspace(-1, 1, n, dtype=torch.float64), obs, actions(spec, n)


@pytest.mark.parametrize("spec", SPECS)
@torch.no_grad()
def test_frames_are_encoded_one_by_one(spec):
    """The whole is what a loop over samples and over their past frames, each encoded alone, makes of them."""
    network = make(spec)
    noisy, level, obs, act = inputs(spec)
    y = network(noisy, level, obs, act)
    for i in range(len(noisy)):
        frames = obs[i].split(3)
        each = [network.encode(frame[None], act[i, t][None]) for t, frame in enumerate(frames)]
        memory = [torch.stack(x, dim=1) for x in zip(*each, strict=True)]
        one = network.recall(noisy[i : i + 1], level[i : i + 1], memory, act[i, -1][None])
        torch.testing.assert_close(y[i : i + 1], one, rtol=1e-9, atol=1e-9)
    assert y.shape == noisy.shape


@torch.no_grad()
def test_attention_is_the_plain_one():
    """Position by position: softmax over all positions of all frames, keys with their age, then the residual."""
    torch.manual_seed(0)
    n, t, c, past_c, h, w, ph, pw = 2, 3, 16, 12, 2, 3, 2, 2
    look = CrossAttention2d(c, past_c, t).double()
    for p in look.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x, past = torch.randn(n, c, h, w).double(), torch.randn(n, t, past_c, ph, pw).double()
    y = look(x, look.keys_and_values(past.flatten(0, 1)).unflatten(0, (n, t)))

    normed, weight, bias = look.norm(x), look.kv_proj.weight, look.kv_proj.bias
    for i in range(n):
        keys, values = [], []
        for age in range(t):
            features = look.norm_past(past[i, age][None])[0]
            for p in range(ph * pw):
                both = weight @ (features[:, p // pw, p % pw] + places(ph, pw, past_c, x.device)[p]) + bias
                keys.append(both[:c] + look.age_emb.weight[age])
                values.append(both[c:])
        for p in range(h * w):
            at = normed[i, :, p // w, p % w] + places(h, w, c, x.device)[p]
            q = look.q_proj.weight[:, :, 0, 0] @ at + look.q_proj.bias
            heads = []
            for k in range(c // 8):
                part = slice(8 * k, 8 * k + 8)
                scores = torch.stack([q[part] @ key[part] for key in keys]) / math.sqrt(8)
                heads.append(sum(a * v[part] for a, v in zip(scores.softmax(0), values, strict=True)))
            out = look.out_proj.weight[:, :, 0, 0] @ torch.cat(heads) + look.out_proj.bias
            torch.testing.assert_close(y[i, :, p // w, p % w], x[i, :, p // w, p % w] + out)


def test_places_are_sines_and_cosines():
    """Against the formula, number by number; a width that is no multiple of 4 is cut."""
    found = places(3, 5, 10, torch.device("cpu"))
    for row in range(3):
        for column in range(5):
            numbers = []
            for position in (row, column):
                frequencies = [10_000 ** (-i / 3) for i in range(3)]
                numbers += [math.sin(position * f) for f in frequencies] + [math.cos(position * f) for f in frequencies]
            torch.testing.assert_close(found[row * 5 + column], torch.tensor(numbers[:10]), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_each_past_frame_its_action_and_its_age_count():
    spec = SPECS[1]
    network = make(spec)
    noisy, level, obs, act = inputs(spec)
    y = network(noisy, level, obs, act)
    for t in range(spec.context):
        changed = obs.unflatten(1, (3, 3)).clone()
        changed[:, t] += 0.1
        assert not torch.allclose(network(noisy, level, changed.flatten(1, 2), act), y)
        other = act.clone()
        other[:, t] = 1 - other[:, t]
        assert not torch.allclose(network(noisy, level, obs, other), y)
    swapped = obs.unflatten(1, (3, 3)).flip(1).flatten(1, 2)
    same = act[:, -1:].expand_as(act)
    assert not torch.allclose(network(noisy, level, swapped, same), network(noisy, level, obs, same))


@torch.no_grad()
def test_a_new_network_does_not_look_at_the_past_yet():
    """Cross-attention starts at zero: with the last layer opened, the output still depends on the noisy frame alone."""
    torch.manual_seed(0)
    network = CrossAttentionNetwork(SMALL, SPECS[1]).double()
    torch.nn.init.normal_(network.conv_out.weight)
    noisy, level, obs, act = inputs(SPECS[1])
    y = network(noisy, level, obs, act)
    torch.testing.assert_close(network(noisy, level, torch.zeros_like(obs), act), y)
    assert not torch.allclose(network(noisy + 0.1, level, obs, act), y)


def test_gradients_are_those_of_finite_differences():
    spec = Spec(Frame(5, 3), Box(2), context=2)
    cfg = CrossAttentionConfig(
        cond_channels=4,
        depths=(1, 1),
        channels=(4, 4),
        attn_depths=(0, 0),
        encoder_depths=(1, 1),
        encoder_channels=(4, 4),
    )
    network = make(spec, cfg)
    noisy, level, obs, act = inputs(spec, n=1)
    chosen = [network.u_looks[0].age_emb.weight, network.encoder.conv_in.bias, network.encoder_act_emb.weight]

    def output(noisy, obs, *parameters):
        return network(noisy, level, obs, act)

    arguments = (noisy.requires_grad_(), obs.requires_grad_(), *chosen)
    assert gradcheck(output, arguments, fast_mode=True)


@pytest.mark.parametrize(
    ("size", "levels", "first"),
    [((64, 64), 4, 2), ((24, 24), 3, 1), ((16, 16), 4, 0), ((128, 96), 2, 1), ((30, 56), 4, 2)],
)
def test_levels_of_at_most_256_positions_look(size, levels, first):
    frame = Frame(*size)
    assert first_looking(frame, levels, MOST_POSITIONS) == first
    multiple = 2 ** (levels - 1)
    sizes = [tuple(math.ceil(s / multiple) * multiple // 2**level for s in size) for level in range(levels)]
    assert all(a[0] * a[1] >= b[0] * b[1] for a, b in pairwise(sizes))
    assert first == levels - 1 or sizes[first][0] * sizes[first][1] <= 256
    assert first == 0 or sizes[first - 1][0] * sizes[first - 1][1] > 256


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"encoder_depths": (1,)}, "--x.encoder-depths: must have as many entries as --x.channels"),
        ({"encoder_channels": (8, 8, 12)}, None),
        ({"encoder_channels": (8, 8, 20)}, None),
        (
            {"encoder_channels": (8, 8, 28)},
            "--x.encoder-channels: 28 channels with attention do not split into 3 heads",
        ),
        ({"encoder_channels": (40, 57, 8)}, "--x.encoder-channels: 65 channels (a level and its skips together)"),
        ({"cond_channels": 7}, "--x.cond-channels: must be even, got 7"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(settings, said):
    cfg = CrossAttentionConfig(**{**vars(SMALL), **settings})
    if said is None:
        cfg.check("x")
        make(SPECS[2], cfg)
        return
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        cfg.check("x")
