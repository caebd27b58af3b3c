"""The selective scan of Mamba (Gu & Dao 2023, arXiv 2312.00752, algorithm 2): a linear recurrence steered by its input.

For each sample, channel d and number s that the channel remembers:

    h_t = exp(dt_t a) h_t-1 + dt_t u_t b_t        y_t = sum over s of c_t h_t

Shapes: u, dt [N,L,D], a [D,S] below zero, b, c [N,L,S], h [N,D,S].
"""

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
    """The same, for training: of the L x N x D x S numbers on the way only h is kept, everything else once a step.

    Autograd would keep the decays and two products as well. The last h gives no gradient.
    """
    return _Scan.apply(u, dt, a, b, c)


def _decay(dt: Tensor, a: Tensor) -> Tensor:
    return (dt[..., None] * a).exp()


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        n, length, d = u.shape
        states, y = u.new_empty(length + 1, n, d, a.size(1)), torch.empty_like(u)
        states[0].zero_()
        for t in range(length):
            y[:, t], states[t + 1] = scan_step(states[t], u[:, t], dt[:, t], a, b[:, t], c[:, t])
        ctx.save_for_backward(u, dt, a, b, c, states)
        last = states[-1].clone()
        ctx.mark_non_differentiable(last)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y: Tensor, _: Tensor):
        u, dt, a, b, c, states = ctx.saved_tensors
        grads = grad_u, grad_dt, grad_a, grad_b, grad_c = tuple(torch.zeros_like(x) for x in (u, dt, a, b, c))
        grad_h = torch.zeros_like(states[0])
        for t in reversed(range(u.size(1))):
            grad_c[:, t] = (grad_y[:, t, :, None] * states[t + 1]).sum(1)
            grad_h = grad_h + grad_y[:, t, :, None] * c[:, t, None]
            grad_input = (grad_h * b[:, t, None]).sum(-1)
            grad_b[:, t] = (grad_h * (dt[:, t] * u[:, t])[..., None]).sum(1)
            grad_u[:, t] = grad_input * dt[:, t]
            grad_h = grad_h * _decay(dt[:, t], a)
            grad_exponent = grad_h * states[t]
            grad_dt[:, t] = grad_input * u[:, t] + (grad_exponent * a).sum(-1)
            grad_a += (grad_exponent * dt[:, t, :, None]).sum(0)
        return grads
