"""A world model's memory against transcriptions in plain Python, in both of its forms, with padding and gradients."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from diamond_fast.networks.recurrent import selective_scan as scans
from diamond_fast.networks.recurrent.attention import AttentionLayer
from diamond_fast.networks.recurrent.config import MemoryConfig
from diamond_fast.networks.recurrent.model import LAYERS, MemoryModel
from diamond_fast.networks.recurrent.selective_scan import selective_scan, selective_scan_reference
from diamond_fast.spec import Box, Discrete, Frame, MultiBinary, Spec

CFG = MemoryConfig(
    channels=(4, 6), down=(1, 1), action_width=3, width=5, layers=2, state=3, expansion=2, convolution=3, window=4
)
KINDS = list(LAYERS)
N, L = 3, 7


def randomised(module, seed=0):
    """No weight as it begins: zeros and ones would hide mistakes."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.4 * torch.randn(p.shape, generator=g, dtype=torch.float64).to(p.dtype))
    return module


def layer_of(kind, cfg=CFG):
    torch.manual_seed(0)
    return randomised(LAYERS[kind](cfg).double())


def sequence(width=CFG.width, seed=1):
    return torch.randn(N, L, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- plain Python ---------------------------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def silu(x):
    return x * sigmoid(x)


def dot(row, x):
    return sum(w * v for w, v in zip(row, x, strict=True))


def linear(layer, x):
    bias = [0.0] * len(layer.weight) if layer.bias is None else layer.bias.tolist()
    return [dot(row, x) + b for row, b in zip(layer.weight.tolist(), bias, strict=True)]


def rms_norm(norm, x):
    size = math.sqrt(sum(v * v for v in x) / len(x) + 1e-5)
    return [v / size * w for v, w in zip(x, norm.weight.tolist(), strict=True)]


def mamba(layer, xs):
    """Of one sequence without padding."""
    inner, size, taps = layer.inner, layer.size, len(layer.taps)
    a = [[-math.exp(v) for v in row] for row in layer.a_log.tolist()]
    h = [[0.0] * size for _ in range(inner)]
    us, ys = [[0.0] * inner] * (taps - 1), []
    for x in xs:
        both = linear(layer.in_proj, rms_norm(layer.norm, x))
        us.append(both[:inner])
        u = []
        for d in range(inner):
            seen = [past[d] for past in us[-taps:]]
            u.append(silu(dot(layer.taps[:, d].tolist(), seen) + layer.taps_bias[d].item()))
        steered = linear(layer.x_proj, u)
        dt, b, c = steered[: layer.rank], steered[layer.rank : layer.rank + size], steered[layer.rank + size :]
        dt = [math.log1p(math.exp(v)) for v in linear(layer.dt_proj, dt)]
        gated = []
        for d in range(inner):
            h[d] = [math.exp(dt[d] * a[d][s]) * h[d][s] + dt[d] * u[d] * b[s] for s in range(size)]
            y = dot(h[d], c) + layer.skip[d].item() * u[d]
            gated.append(y * silu(both[inner + d]))
        ys.append([v + o for v, o in zip(x, linear(layer.out_proj, gated), strict=True)])
    return ys


def gru(layer, xs):
    width = len(xs[0])
    h, ys = [0.0] * width, []
    for x in xs:
        i, s = linear(layer.from_input, rms_norm(layer.norm, x)), linear(layer.from_state, h)
        reset = [sigmoid(i[k] + s[k]) for k in range(width)]
        update = [sigmoid(i[width + k] + s[width + k]) for k in range(width)]
        content = [math.tanh(i[2 * width + k] + reset[k] * s[2 * width + k]) for k in range(width)]
        h = [(1 - u) * new + u * old for u, new, old in zip(update, content, h, strict=True)]
        ys.append([v + k for v, k in zip(x, h, strict=True)])
    return ys


def attention(layer, xs):
    width, heads = len(xs[0]), layer.heads
    each = width // heads
    qkv = [linear(layer.qkv, rms_norm(layer.norm, x)) for x in xs]
    ys = []
    for t, x in enumerate(xs):
        seen = range(max(0, t - layer.past), t + 1)
        mixed = []
        for head in range(heads):
            part = slice(head * each, (head + 1) * each)
            q, ks, vs = qkv[t][:width][part], [qkv[s][width : 2 * width][part] for s in seen], []
            vs = [qkv[s][2 * width :][part] for s in seen]
            ages = [layer.age[head, t - s].item() for s in seen]
            weights = [math.exp(dot(q, k) / math.sqrt(each) + age) for k, age in zip(ks, ages, strict=True)]
            mixed += [dot(weights, column) / sum(weights) for column in zip(*vs, strict=True)]
        x = [v + o for v, o in zip(x, linear(layer.out, mixed), strict=True)]
        hidden = [silu(v) for v in linear(layer.mlp[1], rms_norm(layer.mlp[0], x))]
        ys.append([v + o for v, o in zip(x, linear(layer.mlp[3], hidden), strict=True)])
    return ys


@pytest.mark.parametrize(
    ("kind", "transcription", "cfg"),
    [
        ("mamba", mamba, CFG),
        ("mamba", mamba, replace(CFG, width=18, convolution=1, state=1, expansion=1)),  # two numbers behind dt
        ("gru", gru, CFG),
        ("attention", attention, CFG),
        ("attention", attention, replace(CFG, width=128, window=1)),  # two heads, nothing remembered
    ],
)
def test_layers_are_what_they_are_called(kind, transcription, cfg):
    layer, x = layer_of(kind, cfg), sequence(cfg.width)[:2, :5]
    y, _ = layer(x, torch.ones(2, 5, dtype=torch.bool))
    expected = [transcription(layer, xs) for xs in x.tolist()]
    torch.testing.assert_close(y, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_step_by_step_is_the_sequence(kind):
    """In float64 exactly, in float32 within 1e-5; the memory behind a sequence is what further steps go on from."""
    layer, x = layer_of(kind), sequence()
    real = torch.ones(N, L, dtype=torch.bool)
    y, last = layer(x, real)
    state, steps = x.new_zeros(N, layer.state_width), []
    for t in range(L):
        step, state = layer.step(x[:, t], state)
        steps.append(step)
    torch.testing.assert_close(torch.stack(steps, dim=1), y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=1e-12, atol=1e-12)
    _, early = layer(x[:, :2], real[:, :2])  # shorter than what is remembered
    torch.testing.assert_close(layer.step(x[:, 2], early)[0], y[:, 2], rtol=1e-12, atol=1e-12)

    coarse = layer.float()
    torch.testing.assert_close(coarse(x.float(), real)[0].double(), y, rtol=1e-5, atol=1e-5)
    state = torch.zeros(N, layer.state_width)
    for t in range(L):
        step, state = coarse.step(x[:, t].float(), state)
        torch.testing.assert_close(step.double(), y[:, t], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_leaves_the_memory_as_it_is(kind):
    """In front and behind: outputs of real steps, the memory, and all gradients are those without padding."""
    layer, x = layer_of(kind), sequence()
    before, behind = 2, 1
    real = torch.zeros(N, L, dtype=torch.bool)
    real[:, before : L - behind] = True
    alone = x[:, before : L - behind]
    y_alone, state_alone = layer(alone, torch.ones(N, alone.size(1), dtype=torch.bool))
    y, _ = layer(x, real)
    _, state = layer(x[:, : L - behind], real[:, : L - behind])
    torch.testing.assert_close(y[:, before : L - behind], y_alone, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, state_alone, rtol=1e-12, atol=1e-12)
    assert y.isfinite().all()

    def gradients(y):
        return torch.autograd.grad(y.square().sum(), list(layer.parameters()), allow_unused=True)

    for padded, plain in zip(gradients(y[:, before : L - behind]), gradients(y_alone), strict=True):
        if plain is not None:
            torch.testing.assert_close(padded, plain, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_through_time(kind):
    layer, x = (
        layer_of(kind, replace(CFG, width=3, state=2, expansion=1, window=2)),
        sequence(3)[:1, :3].requires_grad_(),
    )
    real = torch.ones(1, 3, dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x, real)[0], (x, *layer.parameters()))


@pytest.mark.parametrize(("kind", "updates"), [("mamba", 150), ("gru", 80), ("attention", 60)])
def test_a_cue_is_learned_20_steps_later(kind, updates):
    """Which of two signs the first vector had, among others that say nothing, told by the last output of one layer."""
    width, length, batch_size = 16, 21, 32
    torch.manual_seed(0)
    layer, out = LAYERS[kind](MemoryConfig(width=width, state=8)), torch.nn.Linear(width, 1)
    optimiser = torch.optim.Adam([*layer.parameters(), *out.parameters()], lr=1e-2)
    real, losses = torch.ones(batch_size, length, dtype=torch.bool), []
    for _ in range(updates):
        x = torch.randn(batch_size, length, width) / 2
        cue = torch.randint(2, (batch_size,)).float()
        x[:, 1:, 0], x[:, 0, 0] = 0, 4 * cue - 2
        last = torch.nn.functional.rms_norm(layer(x, real)[0][:, -1], (width,))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(out(last)[:, 0], cue)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[:10]) / 10 > 0.6  # who knows nothing has log(2) = 0.69
    assert sum(losses[-10:]) / 10 < 0.3


def scan_inputs(dtype=torch.float64):
    g = torch.Generator().manual_seed(2)

    def randn(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    u, dt, b, c = randn(2, 6, 4), randn(2, 6, 4).exp(), randn(2, 6, 3), randn(2, 6, 3)
    return [x.requires_grad_() for x in (u, dt, -randn(4, 3).exp(), b, c)]


@pytest.mark.parametrize("in_rounds", [False, True], ids=["cpu", "gpu"])
def test_scan_is_its_reference(in_rounds, monkeypatch):
    """Values and gradients, in float64 and, against that, in float32, in both orders of the recurrence."""
    if in_rounds:
        monkeypatch.setattr(scans, "_step_by_step", scans._in_rounds)
    truth = scan_inputs()
    y, h = selective_scan_reference(*truth)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y)
    grads = torch.autograd.grad((y * weights).sum(), truth)
    for dtype, near in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        inputs = scan_inputs(dtype)
        y_own, h_own = selective_scan(*inputs)
        assert not h_own.requires_grad
        torch.testing.assert_close(y_own.double(), y, rtol=near, atol=near)
        torch.testing.assert_close(h_own.double(), h, rtol=near, atol=near)
        for own, grad in zip(torch.autograd.grad((y_own * weights.to(dtype)).sum(), inputs), grads, strict=True):
            torch.testing.assert_close(own.double(), grad, rtol=near, atol=near)


def test_scan_keeps_its_states_once():
    """What autograd keeps for the way back: the inputs and one tensor of L x N x D x S numbers."""
    kept = {}
    inputs = scan_inputs(torch.float32)

    def keep(x):
        kept[x.data_ptr()] = x.numel()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        selective_scan(*inputs)
    n, length, d = inputs[0].shape
    assert sum(kept.values()) == sum(x.numel() for x in inputs) + length * n * d * 3


# --- the whole memory -----------------------------------------------------------------------------------------------

SPECS = {
    "choices": Spec(Frame(8, 8), Discrete(4)),
    "buttons": Spec(Frame(6, 10), MultiBinary(3)),
    "numbers": Spec(Frame(5, 7), Box(2)),
}


def batch(spec, n=2, length=5, seed=3):
    g = torch.Generator().manual_seed(seed)
    frame, action = spec.frame, spec.action
    obs = torch.rand(n, length, frame.channels, frame.height, frame.width, generator=g) * 2 - 1
    if isinstance(action, Discrete):
        act = torch.randint(action.n, (n, length), generator=g)
    else:
        act = torch.rand(n, length, action.n, generator=g).round().to(getattr(torch, action.dtype.name))
    rew = torch.randint(-1, 2, (n, length), generator=g).float()
    end = torch.rand(n, length, generator=g) < 0.3
    mask = torch.ones(n, length, dtype=torch.bool)
    mask[0, :2] = False
    return obs, act, rew, end, mask


@pytest.mark.parametrize("world", SPECS)
@pytest.mark.parametrize("kind", KINDS)
def test_memory_in_both_forms(kind, world):
    spec = SPECS[world]
    torch.manual_seed(0)
    model = randomised(MemoryModel(CFG, kind, spec))
    obs, act, *_, mask = batch(spec)
    e, last = model(obs, act, mask)
    state = torch.zeros(2, model.state_width)
    for t in range(obs.size(1)):
        now, new = model.step(obs[:, t], act[:, t], state)
        state = torch.where(mask[:, t, None], new, state)
        rows = mask[:, t]
        torch.testing.assert_close(now[rows], e[rows, t], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, last, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("world", SPECS)
@pytest.mark.parametrize(("kind", "transcription"), [("mamba", mamba), ("gru", gru), ("attention", attention)])
def test_what_the_memory_says_is_its_transcription(kind, transcription, world):
    """From the encoder's numbers on, which the policy's tests hold; two frames of padding are as if they were not."""
    spec = SPECS[world]
    torch.manual_seed(0)
    model = randomised(MemoryModel(CFG, kind, spec)).double()
    obs, act, *_, mask = batch(spec)
    obs = obs.double()
    e, _ = model(obs, act, mask)
    rewards, ends = model.classify(e)
    rows = model.act_emb.weight.tolist()
    for i, first in ((0, 2), (1, 0)):
        xs = []
        for frame, did in zip(obs[i, first:], act[i, first:].tolist(), strict=True):
            numbers = model.encoder(frame[None]).flatten().tolist()
            columns = zip(*rows, strict=True)
            embedded = rows[did] if isinstance(did, int) else [dot(column, did) for column in columns]
            xs.append([silu(v) for v in linear(model.linear, numbers + embedded)])
        for layer in model.layers:
            xs = transcription(layer, xs)
        says = [rms_norm(model.norm, x) for x in xs]
        logits = [linear(model.head[2], [silu(v) for v in linear(model.head[0], x)]) for x in says]
        for found, expected in (
            (e[i, first:], says),
            (rewards[i, first:], [x[:3] for x in logits]),
            (ends[i, first:], [x[3:] for x in logits]),
        ):
            torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_heads_loss():
    """Cross-entropies of all real steps, by hand; nothing of padded steps counts; every weight learns."""
    spec = SPECS["choices"]
    torch.manual_seed(0)
    model = randomised(MemoryModel(CFG, "mamba", spec))
    obs, act, rew, end, mask = batch(spec)
    loss = model.loss(obs, act, rew, end, mask)
    logits_rew, logits_end = model.classify(model(obs, act, mask)[0].detach())

    @torch.no_grad()
    def mean_nats(logits, classes):
        nats = [
            -math.log(math.exp(logits[i, t, classes[i, t]]) / sum(math.exp(v) for v in logits[i, t].tolist()))
            for i, t in mask.nonzero().tolist()
        ]
        return sum(nats) / len(nats)

    assert loss.reward.item() == pytest.approx(mean_nats(logits_rew, rew.long() + 1), rel=1e-5)
    assert loss.end.item() == pytest.approx(mean_nats(logits_end, end.long()), rel=1e-5)
    assert loss.total.item() == pytest.approx(loss.reward.item() + loss.end.item(), rel=1e-6)
    assert int(loss.confusion_reward.sum()) == int(loss.confusion_end.sum()) == int(mask.sum())

    loss.total.backward()
    learns = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert learns == {name for name, _ in model.named_parameters()} - {"harmony"}
    rew[~mask], end[~mask], obs[~mask] = 1, True, 0.5
    assert model.loss(obs, act, rew, end, mask).total.item() == pytest.approx(loss.total.item(), rel=1e-6)


def test_without_heads_nothing_is_rewarded_or_ends():
    model = MemoryModel(CFG, "gru", SPECS["choices"], reward_head=None)
    rew, end = model.classify(torch.randn(4, CFG.width))
    torch.testing.assert_close(rew.softmax(-1), torch.tensor([0.0, 1, 0]).expand(4, 3))
    torch.testing.assert_close(end.softmax(-1), torch.tensor([1.0, 0]).expand(4, 2))


def test_arguments_are_checked():
    model = MemoryModel(CFG, "gru", SPECS["choices"])
    obs, act, *_, mask = batch(SPECS["choices"])
    with pytest.raises(ValueError, match="obs"):
        model(obs[..., :-1], act, mask)
    with pytest.raises(ValueError, match="act"):
        model(obs, act + 9, mask)
    with pytest.raises(TypeError, match="real"):
        model(obs, act, mask.float())
    with pytest.raises(ValueError, match="state"):
        model.step(obs[:, 0], act[:, 0], torch.zeros(2, 1))


@pytest.mark.parametrize(
    ("kind", "numbers"), [("mamba", 3 * 1024 * (16 + 3)), ("gru", 3 * 512), ("attention", 3 * 31 * (2 * 512 + 1))]
)
def test_sizes_of_the_paper(kind, numbers):
    """64x64 frames become 4x4x64 = 1024 numbers. What an episode's memory holds is told in docs/memory.md."""
    with torch.device("meta"):
        model = MemoryModel(MemoryConfig(), kind, Spec(Frame(64, 64), Discrete(18)))
    assert model.linear.in_features == 1024 + 128
    assert model.state_width == numbers


def test_attention_gives_rows_that_kernels_of_gpus_take(monkeypatch):
    """Kept keys and values lie 2 width + 1 numbers apart; CUDA's attention wants multiples of 16 bytes."""
    layer = AttentionLayer(MemoryConfig(width=32, window=4))
    apart = []
    attention = F.scaled_dot_product_attention

    def spy(q, k, v, **options):
        apart.extend(x.stride(2) * x.element_size() for x in (q, k, v))
        return attention(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    layer.step(torch.randn(3, 32), torch.zeros(3, layer.state_width))
    layer(torch.randn(3, 5, 32), torch.ones(3, 5, dtype=torch.bool))
    assert len(apart) == 6
    assert not any(distance % 16 for distance in apart)
