"""The selective scan of Mamba (Gu & Dao 2023, arXiv 2312.00752, algorithm 2): a linear recurrence steered by its input.

For each sample, channel d and number s that the channel remembers:

    h_t = exp(dt_t a) h_t-1 + dt_t u_t b_t        y_t = sum over s of c_t h_t

Shapes: u, dt [N,L,D], a [D,S] below zero, b, c [N,L,S], h [N,D,S].
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def scan_step(h: Tensor, u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step: h [N,D,S], u, dt [N,D], b, c [N,S] -> y [N,D], the new h."""
    h = _decay(dt, a) * h + (dt * u)[..., None] * b[:, None]
    return (h * c[:, None]).sum(-1), h  # no matrix product, which TF32 would round


def selective_scan_reference(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """-> y [N,L,D] and the last h: step after step, as it is written."""
    h, ys = u.new_zeros(len(u), *a.shape), []
    for now in zip(u.unbind(1), dt.unbind(1), b.unbind(1), c.unbind(1), strict=True):
        y, h = scan_step(h, now[0], now[1], a, *now[2:])
        ys.append(y)
    return torch.stack(ys, dim=1), h


def selective_scan(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The same, for training: the recurrence alone goes through time, everything else is done for all steps at once.

    Of the L x N x D x S numbers on the way only h is kept. Autograd would keep decays and products as well. The last h
    gives no gradient.
    """
    return _Scan.apply(u, dt, a, b, c)


def _decay(dt: Tensor, a: Tensor) -> Tensor:
    return (dt[..., None] * a).exp()


def _accumulate(x: Tensor, dt: Tensor, a: Tensor, backwards: bool = False) -> Tensor:
    """x_t + exp(dt_t a) x_t-1 + exp((dt_t + dt_t-1) a) x_t-2 + ..., in place.

    A GPU waits for launches, so there it takes log2(L) rounds over all steps; a CPU waits for memory.

    Args:
        x: [L,N,D,S]. dt: [L,N,D], time that passes from the step before to this one.
        backwards: from the last step to the first, t + 1 before t.
    """
    return (_in_rounds if x.is_cuda else _step_by_step)(x, dt, a, backwards)


def _step_by_step(x: Tensor, dt: Tensor, a: Tensor, backwards: bool) -> Tensor:
    steps = range(1, len(x))
    for t in (s - 1 for s in reversed(steps)) if backwards else steps:
        x[t] += _decay(dt[t], a) * x[t + 1 if backwards else t - 1]
    return x


def _in_rounds(x: Tensor, dt: Tensor, a: Tensor, backwards: bool) -> Tensor:
    """Each doubles the number of terms (Hillis & Steele 1986)."""
    k = 1
    while k < len(x):
        now, before = slice(k, None), slice(None, -k)
        if backwards:
            now, before = before, now
        x[now] += _decay(dt[now], a) * x[before]
        longer = dt.clone()
        longer[now] += dt[before]
        dt, k = longer, 2 * k
    return x


class _Scan(torch.autograd.Function):
    """Time comes first inside: [L,N,...]."""

    @staticmethod
    def forward(ctx, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        u, dt, a, b, c = _swapped(inputs)
        h = _accumulate((dt * u)[..., None] * b[:, :, None], dt, a)
        ctx.save_for_backward(*inputs, h)
        last = h[-1].clone()
        ctx.mark_non_differentiable(last)
        return (h * c[:, :, None]).sum(-1).transpose(0, 1), last

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y: Tensor, _: Tensor):
        *inputs, h = ctx.saved_tensors
        u, dt, a, b, c = _swapped(inputs)
        grad_y = grad_y.transpose(0, 1)[..., None]
        grad_c = (grad_y * h).sum(2)
        to_next = torch.cat((dt[1:], dt[:1]))  # the last entry is not used
        grad_h = _accumulate(grad_y * c[:, :, None], to_next, a, backwards=True)
        grad_input = (grad_h * b[:, :, None]).sum(-1)
        grad_b = (grad_h * (dt * u)[..., None]).sum(2)
        grad_exponent = grad_h[1:].mul_(_decay(dt[1:], a)).mul_(h[:-1])
        grad_dt = grad_input * u
        grad_dt[1:] += (grad_exponent * a).sum(-1)
        grad_a = (grad_exponent * dt[1:, ..., None]).sum((0, 1))
        return tuple(_swapped((grad_input * dt, grad_dt, grad_a, grad_b, grad_c)))


def _swapped(inputs: Sequence[Tensor]) -> list[Tensor]:
    """u, dt, a, b, c or their gradients with batch and time, which a does not have, in the other order."""
    return [x if i == 2 else x.transpose(0, 1) for i, x in enumerate(inputs)]
