"""The recurrent half of an LSTM over a sequence, forward and back: a matrix product and one kernel a step.

    i, f, g, o = gates[n,t] + W h[n,t]        the input's share of the gates, biases included, and the recurrent one
    c' = sigmoid(f) c[n,t] + sigmoid(i) tanh(g),  h' = sigmoid(o) tanh(c')
    h[n,t+1], c[n,t+1] = h', c', or fresh[n,t] where an episode ended at t

    backward, from dh' and dc': dc = dc' + dh' sigmoid(o) (1 - tanh(c')^2), and so on through each activation;
    dh[n,t] = W^T dgates[n,t]; dW = sum_{n,t} dgates[n,t] h[n,t]^T, one product at the end

N samples, T steps, D channels, W [4D,D]. The backward pass keeps the activated gates and the memory before each step.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from diamond_fast.kernels import launch
from diamond_fast.kernels._triton import tl, triton
from diamond_fast.kernels.dispatch import check_shape, check_tensors, use_triton

BLOCK = 128  # channels of a program, 4 a thread: 16-byte loads
NUM_WARPS = 1


def lstm_unroll_reference(
    weight_hh: Tensor,
    gates: Tensor,
    hx: Tensor,
    cx: Tensor,
    dead: Tensor | None = None,
    fresh_hx: Tensor | None = None,
    fresh_cx: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What ``lstm_unroll`` computes, in torch."""
    hidden = []
    for t, from_input in enumerate(gates.unbind(1)):
        i, f, g, o = (from_input + F.linear(hx, weight_hh)).chunk(4, dim=1)
        cx = f.sigmoid() * cx + i.sigmoid() * g.tanh()
        hx = o.sigmoid() * cx.tanh()
        hidden.append(hx)
        if dead is not None:
            assert fresh_hx is not None
            assert fresh_cx is not None
            hx, cx = (torch.where(dead[:, t, None], x[:, t], y) for x, y in ((fresh_hx, hx), (fresh_cx, cx)))
    return hx, cx, torch.stack(hidden, dim=1)


@triton.jit
def _tanh(x):
    """Without overflow."""
    e = tl.exp(-2.0 * tl.abs(x))
    y = (1.0 - e) / (1.0 + e)
    return tl.where(x < 0, -y, y)


# Kernels of one step. Pointers are to the step's own rows; samples are T rows apart, T * D is ``pitch``.


@triton.jit
def _forward_kernel(
    gates, recurrent, cx, dead, fresh_hx, fresh_cx, activated, hidden, next_hx, next_cx,
    T, D, num_blocks, next_pitch, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK channels of a sample."""
    n = (tl.program_id(0) // num_blocks).to(tl.int64)
    d = tl.program_id(0) % num_blocks * BLOCK + tl.arange(0, BLOCK)
    mask = d < D
    at, at_gates = n * T * D + d, n * T * D * 4 + d
    at_recurrent = recurrent + n * 4 * D + d
    i = tl.load(gates + at_gates, mask=mask, other=0.0) + tl.load(at_recurrent, mask=mask, other=0.0)
    f = tl.load(gates + at_gates + D, mask=mask, other=0.0) + tl.load(at_recurrent + D, mask=mask, other=0.0)
    g = tl.load(gates + at_gates + 2 * D, mask=mask, other=0.0) + tl.load(at_recurrent + 2 * D, mask=mask, other=0.0)
    o = tl.load(gates + at_gates + 3 * D, mask=mask, other=0.0) + tl.load(at_recurrent + 3 * D, mask=mask, other=0.0)
    i, f, g, o = tl.sigmoid(i), tl.sigmoid(f), _tanh(g), tl.sigmoid(o)
    tl.store(activated + at_gates, i, mask=mask)
    tl.store(activated + at_gates + D, f, mask=mask)
    tl.store(activated + at_gates + 2 * D, g, mask=mask)
    tl.store(activated + at_gates + 3 * D, o, mask=mask)
    c = f * tl.load(cx + at, mask=mask, other=0.0) + i * g
    h = o * _tanh(c)
    tl.store(hidden + at, h, mask=mask)
    if dead is not None:
        ended = tl.load(dead + n * T) != 0
        h = tl.where(ended, tl.load(fresh_hx + at, mask=mask, other=0.0), h)
        c = tl.where(ended, tl.load(fresh_cx + at, mask=mask, other=0.0), c)
    tl.store(next_hx + n * next_pitch + d, h, mask=mask)
    tl.store(next_cx + n * next_pitch + d, c, mask=mask)


@triton.jit
def _backward_kernel(
    activated, cx, dead, dhidden, dnext_hx, dcx, dgates, dfresh_hx, dfresh_cx, T, D, num_blocks, BLOCK: tl.constexpr
):  # fmt: skip
    """One program: BLOCK channels of a sample. dcx [N,D] is the gradient of the next c, and becomes c's."""
    n = (tl.program_id(0) // num_blocks).to(tl.int64)
    d = tl.program_id(0) % num_blocks * BLOCK + tl.arange(0, BLOCK)
    mask = d < D
    at, at_gates, at_memory = n * T * D + d, n * T * D * 4 + d, n * D + d
    i = tl.load(activated + at_gates, mask=mask, other=0.0)
    f = tl.load(activated + at_gates + D, mask=mask, other=0.0)
    g = tl.load(activated + at_gates + 2 * D, mask=mask, other=0.0)
    o = tl.load(activated + at_gates + 3 * D, mask=mask, other=0.0)
    before = tl.load(cx + at, mask=mask, other=0.0)
    dh = tl.load(dnext_hx + at_memory, mask=mask, other=0.0)
    dc = tl.load(dcx + at_memory, mask=mask, other=0.0)
    if dead is not None:
        ended = tl.load(dead + n * T) != 0
        tl.store(dfresh_hx + at, tl.where(ended, dh, 0.0), mask=mask)
        tl.store(dfresh_cx + at, tl.where(ended, dc, 0.0), mask=mask)
        dh = tl.where(ended, 0.0, dh)
        dc = tl.where(ended, 0.0, dc)
    if dhidden is not None:
        dh += tl.load(dhidden + at, mask=mask, other=0.0)
    tanh = _tanh(f * before + i * g)
    dc += dh * o * (1.0 - tanh * tanh)
    tl.store(dgates + at_gates, dc * g * i * (1.0 - i), mask=mask)
    tl.store(dgates + at_gates + D, dc * before * f * (1.0 - f), mask=mask)
    tl.store(dgates + at_gates + 2 * D, dc * i * (1.0 - g * g), mask=mask)
    tl.store(dgates + at_gates + 3 * D, dh * tanh * o * (1.0 - o), mask=mask)
    tl.store(dcx + at_memory, dc * f, mask=mask)


def _step(x: Tensor | None, t: int) -> Tensor | None:
    return None if x is None else x[:, t]


def _flags(dead: Tensor | None) -> Tensor | None:
    return None if dead is None else dead.contiguous().view(torch.uint8)


@launch.operator("diamond_fast::lstm_unroll")
def _lstm_unroll(
    weight_hh: Tensor, gates: Tensor, hx: Tensor, cx: Tensor, dead: Tensor | None,
    fresh_hx: Tensor | None, fresh_cx: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Returns the last memory, hidden, and for the backward pass activated gates and the memory before each step."""
    gates, dead = gates.contiguous(), _flags(dead)
    fresh_hx, fresh_cx = (x if x is None else x.contiguous() for x in (fresh_hx, fresh_cx))
    (n, t, _), d = gates.shape, hx.size(1)
    last = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (hx, cx)]
    activated, hidden = torch.empty_like(gates), gates.new_empty(n, t, d)
    before = [torch.empty_like(hidden) for _ in range(2)]
    for memory, x in zip(before, (hx, cx), strict=True):
        memory[:, 0].copy_(x)
    num_blocks = launch.ceil_div(d, BLOCK)
    for i in range(t):
        recurrent = torch.mm(before[0][:, i], weight_hh.t())
        following = [memory[:, i + 1] for memory in before] if i + 1 < t else last
        _forward_kernel[(n * num_blocks,)](
            gates[:, i], recurrent, before[1][:, i], *(_step(x, i) for x in (dead, fresh_hx, fresh_cx)),
            activated[:, i], hidden[:, i], *following, t, d, num_blocks, following[0].stride(0),
            BLOCK=BLOCK, num_warps=NUM_WARPS, enable_fp_fusion=True,
        )  # fmt: skip
    return last[0], last[1], hidden, activated, before[0], before[1]


@_lstm_unroll.register_fake
def _(weight_hh, gates, hx, cx, dead, fresh_hx, fresh_cx):
    steps = [gates.new_empty(*gates.shape[:2], hx.size(1)) for _ in range(3)]
    last = (x.new_empty(x.shape) for x in (hx, cx))
    return *last, steps[0], gates.new_empty(gates.shape), steps[1], steps[2]


@launch.operator("diamond_fast::lstm_unroll_backward")
def _lstm_unroll_backward(
    weight_hh: Tensor, activated: Tensor, before_hx: Tensor, before_cx: Tensor, dead: Tensor | None,
    dhx: Tensor | None, dcx: Tensor | None, dhidden: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Returns the gradients of weight_hh, gates, hx, cx, fresh_hx and fresh_cx; the last two empty without ``dead``."""
    dead, dhidden = _flags(dead), None if dhidden is None else dhidden.contiguous()
    n, t, d = before_hx.shape
    dhx = before_hx.new_zeros(n, d) if dhx is None else dhx.contiguous()
    dcx = before_cx.new_zeros(n, d) if dcx is None else dcx.clone(memory_format=torch.contiguous_format)
    dgates = torch.empty_like(activated)
    dfresh = [torch.empty_like(before_hx) if dead is not None else before_hx.new_empty(0) for _ in range(2)]
    num_blocks = launch.ceil_div(d, BLOCK)
    for i in reversed(range(t)):
        of_fresh = [x[:, i] if dead is not None else None for x in dfresh]
        _backward_kernel[(n * num_blocks,)](
            activated[:, i], before_cx[:, i], _step(dead, i), _step(dhidden, i), dhx, dcx, dgates[:, i], *of_fresh,
            t, d, num_blocks, BLOCK=BLOCK, num_warps=NUM_WARPS, enable_fp_fusion=True,
        )  # fmt: skip
        dhx = torch.mm(dgates[:, i], weight_hh)
    dweight = torch.mm(dgates.flatten(0, 1).t(), before_hx.flatten(0, 1))
    return dweight, dgates, dhx, dcx, dfresh[0], dfresh[1]


@_lstm_unroll_backward.register_fake
def _(weight_hh, activated, before_hx, before_cx, dead, dhx, dcx, dhidden):
    memory = [before_hx.new_empty(before_hx.size(0), before_hx.size(2)) for _ in range(2)]
    fresh = [before_hx.new_empty(0 if dead is None else before_hx.shape) for _ in range(2)]
    return weight_hh.new_empty(weight_hh.shape), activated.new_empty(activated.shape), *memory, *fresh


def _setup_context(ctx, inputs, output):
    weight_hh, _, _, _, dead, _, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(weight_hh, *output[3:], dead)


def _backward(ctx, dhx, dcx, dhidden, *_):
    if dhx is None and dcx is None and dhidden is None:
        return (None,) * 7
    weight_hh, activated, before_hx, before_cx, dead = ctx.saved_tensors
    *grads, dfresh_hx, dfresh_cx = _lstm_unroll_backward(
        weight_hh, activated, before_hx, before_cx, dead, dhx, dcx, dhidden
    )
    return *grads, None, *((None, None) if dead is None else (dfresh_hx, dfresh_cx))


_lstm_unroll.register_autograd(_backward, setup_context=_setup_context)


def lstm_unroll(
    weight_hh: Tensor,
    gates: Tensor,
    hx: Tensor,
    cx: Tensor,
    dead: Tensor | None = None,
    fresh_hx: Tensor | None = None,
    fresh_cx: Tensor | None = None,
    *,
    impl: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """An LSTM's memory over a sequence, differentiable once in everything but ``dead``.

    Args:
        weight_hh: [4D,D], of the input, forget, cell and output gate.
        gates: [N,T,4D] from the input, biases included; float32, or anything where torch computes.
        hx, cx: [N,D] before the first step.
        dead: [N,T] bool, steps behind which the memory becomes the fresh one; None: none.
        fresh_hx, fresh_cx: [N,T,D], with ``dead``.
        impl: ``auto``, ``triton`` or ``torch``.

    Returns:
        hx and cx [N,D] behind the last step, and hx of every step [N,T,D] as it was before any reset.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
    """
    if gates.dim() != 3 or gates.numel() == 0 or gates.size(2) % 4:
        raise ValueError(f"gates: expected shape [N,T,4D] with no size of 0, got {tuple(gates.shape)}")
    n, t, d = gates.size(0), gates.size(1), gates.size(2) // 4
    check_shape("weight_hh", weight_hh, (4 * d, d), "[4D,D] like gates")
    for name, memory in (("hx", hx), ("cx", cx)):
        check_shape(name, memory, (n, d), "[N,D] like gates")
    if (dead is None) != (fresh_hx is None) or (dead is None) != (fresh_cx is None):
        raise ValueError("dead, fresh_hx, fresh_cx: expected all of them or none")
    check_shape("dead", dead, (n, t), "[N,T] like gates")
    for name, fresh in (("fresh_hx", fresh_hx), ("fresh_cx", fresh_cx)):
        check_shape(name, fresh, (n, t, d), "[N,T,D] like gates")
    if not use_triton(impl, gates) or (impl == "auto" and gates.dtype != torch.float32):
        return lstm_unroll_reference(weight_hh, gates, hx, cx, dead, fresh_hx, fresh_cx)
    floats = {"weight_hh": weight_hh, "gates": gates, "hx": hx, "cx": cx, "fresh_hx": fresh_hx, "fresh_cx": fresh_cx}
    check_tensors("gates", gates, (torch.float32,), **floats)
    check_tensors("gates", gates, (torch.bool,), dead=dead)
    last_hx, last_cx, hidden, *_ = _lstm_unroll(weight_hh, gates, hx, cx, dead, fresh_hx, fresh_cx)
    return last_hx, last_cx, hidden
