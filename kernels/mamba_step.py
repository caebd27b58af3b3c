"""One step of a Mamba layer between its two large products: two kernels, and a small product between them.

    v = silu(bias + sum_k taps[k] past[k])              past[K-1] is u, the others were remembered
    low, b, c = X v                                     a matrix product
    dt = softplus(W low + dt_bias)
    h' = exp(-exp(a_log) dt) h + dt v b                 for each of the S numbers of a channel
    gated = (sum_s c h' + skip v) silu(z)

N samples, D channels, R numbers in low, K taps; u, z, v, gated [N,D], h [N,D,S], X [R+2S,D], W [D,R]. Each number of
the memory is read once and written once. Nothing here has a gradient.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from diamond_fast.kernels import launch
from diamond_fast.kernels._triton import tl, triton
from diamond_fast.kernels.dispatch import check_shape, check_tensors, use_triton
from diamond_fast.networks.recurrent.selective_scan import scan_step

BLOCK = 128  # channels of a program of the convolution, 4 a thread: 16-byte loads
SCAN_BLOCK = 64  # of the scan, at most; with 16 numbers each a thread has 8 of them
TILE_ELEMENTS = 1024
RANK_BLOCK = 32
SCAN_WARPS = 4


@torch.no_grad()
def mamba_step_reference(
    u: Tensor, z: Tensor, state: Tensor, taps: Tensor, taps_bias: Tensor, x_proj: Tensor,
    dt_weight: Tensor, dt_bias: Tensor, a_log: Tensor, skip: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What ``mamba_step`` computes, in torch."""
    past, h = _parts(state, taps, a_log)
    window = torch.cat((past.unflatten(1, (len(taps) - 1, u.size(1))), u[:, None]), dim=1)
    v = F.silu(taps_bias + (window * taps).sum(1))
    size = a_log.size(1)
    low, b, c = F.linear(v, x_proj).split((dt_weight.size(1), size, size), dim=1)
    dt = F.softplus(F.linear(low, dt_weight, dt_bias))
    y, h = scan_step(h.unflatten(1, a_log.shape), v, dt, -a_log.exp(), b, c)
    return (y + skip * v) * F.silu(z), torch.cat((window[:, 1:].flatten(1), h.flatten(1)), dim=1)


def _parts(state: Tensor, taps: Tensor, a_log: Tensor) -> tuple[Tensor, Tensor]:
    """Past inputs of the convolution [N,(K-1)*D] and the scan's h [N,D*S], as they lie in the memory."""
    past, h = state.split((taps[1:].numel(), a_log.numel()), dim=1)
    return past, h


@triton.jit
def _softplus(x):
    """log(1 + e^x), with a small relative error: log(1 + e) is 2 artanh(e / (2 + e)), whose series is short here."""
    e = tl.exp(-tl.abs(x))
    r = e / (2.0 + e)
    q = r * r
    series = 1 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11 + q * (1 / 13))))))
    return tl.where(x > 0, x, 0.0) + 2.0 * r * series


# Rows of u, z and of the memory's two halves are their pitches apart.


@triton.jit
def _convolution_kernel(
    u, past, taps, taps_bias, v_out, new_past, D, num_blocks, u_pitch, past_pitch, new_pitch,
    K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK channels of a sample."""
    n = (tl.program_id(0) // num_blocks).to(tl.int64)
    i = tl.program_id(0) % num_blocks * BLOCK + tl.arange(0, BLOCK)
    mask = i < D
    v = tl.load(taps_bias + i, mask=mask, other=0.0)
    for k in tl.static_range(K):
        if k < K - 1:
            x = tl.load(past + n * past_pitch + k * D + i, mask=mask, other=0.0)
        else:
            x = tl.load(u + n * u_pitch + i, mask=mask, other=0.0)
        v += x * tl.load(taps + k * D + i, mask=mask, other=0.0)
        if k > 0:
            tl.store(new_past + n * new_pitch + (k - 1) * D + i, x, mask=mask)
    tl.store(v_out + n * D + i, v * tl.sigmoid(v), mask=mask)


@triton.jit
def _scan_kernel(
    v, z, steering, h, dt_weight, dt_bias, a_log, skip, gated, new_h, D, R, num_blocks, z_pitch, h_pitch, new_pitch,
    S: tl.constexpr, BLOCK: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK channels of a sample, with all S numbers of each."""
    n = (tl.program_id(0) // num_blocks).to(tl.int64)
    i = tl.program_id(0) % num_blocks * BLOCK + tl.arange(0, BLOCK)
    s, r = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_R)
    real, numbers = i < D, s < S
    tile = real[:, None] & numbers[None, :]
    at_tile = i[:, None] * S + s[None, :]
    steering += n * (R + 2 * S)

    dt = tl.load(dt_bias + i, mask=real, other=0.0)
    for first in range(0, R, BLOCK_R):
        ranks = first + r < R
        low = tl.load(steering + first + r, mask=ranks, other=0.0)
        at_weight = dt_weight + i[:, None] * R + first + r[None, :]
        weight = tl.load(at_weight, mask=real[:, None] & ranks[None, :], other=0.0)
        dt += tl.sum(weight * low[None, :], axis=1)
    dt = _softplus(dt)

    v = tl.load(v + n * D + i, mask=real, other=0.0)
    b = tl.load(steering + R + s, mask=numbers, other=0.0)
    c = tl.load(steering + R + S + s, mask=numbers, other=0.0)
    decay = tl.exp(-tl.exp(tl.load(a_log + at_tile, mask=tile, other=0.0)) * dt[:, None])
    now = decay * tl.load(h + n * h_pitch + at_tile, mask=tile, other=0.0) + (dt * v)[:, None] * b[None, :]
    tl.store(new_h + n * new_pitch + at_tile, now, mask=tile)
    y = tl.sum(now * c[None, :], axis=1) + tl.load(skip + i, mask=real, other=0.0) * v
    gate = tl.load(z + n * z_pitch + i, mask=real, other=0.0)
    tl.store(gated + n * D + i, y * gate * tl.sigmoid(gate), mask=real)


@launch.operator("diamond_fast::mamba_convolution", mutates_args=("new_past",))
def _convolution(u: Tensor, past: Tensor, taps: Tensor, taps_bias: Tensor, new_past: Tensor) -> Tensor:
    """v."""
    n, channels = u.shape
    v = u.new_empty(n, channels)
    num_blocks = launch.ceil_div(channels, BLOCK)
    _convolution_kernel[(n * num_blocks,)](
        u, past, taps.contiguous(), taps_bias.contiguous(), v, new_past, channels, num_blocks,
        u.stride(0), past.stride(0), new_past.stride(0),
        K=len(taps), BLOCK=BLOCK, num_warps=1, enable_fp_fusion=True,
    )  # fmt: skip
    return v


@_convolution.register_fake
def _(u, past, taps, taps_bias, new_past):
    return u.new_empty(u.shape)


@launch.operator("diamond_fast::mamba_scan", mutates_args=("new_h",))
def _scan(
    v: Tensor, z: Tensor, steering: Tensor, h: Tensor, dt_weight: Tensor, dt_bias: Tensor, a_log: Tensor, skip: Tensor,
    new_h: Tensor,
) -> Tensor:  # fmt: skip
    """gated, from v [N,D], steering = low, b and c [N,R+2S], and the rest."""
    (n, channels), size, rank = v.shape, a_log.size(1), dt_weight.size(1)
    gated = v.new_empty(n, channels)
    block_s = launch.next_power_of_2(size)
    block = max(1, min(SCAN_BLOCK, TILE_ELEMENTS // block_s))
    num_blocks = launch.ceil_div(channels, block)
    weights = (x.contiguous() for x in (dt_weight, dt_bias, a_log, skip))
    _scan_kernel[(n * num_blocks,)](
        v, z, steering, h, *weights, gated, new_h, channels, rank, num_blocks,
        z.stride(0), h.stride(0), new_h.stride(0),
        S=size, BLOCK=block, BLOCK_S=block_s, BLOCK_R=min(RANK_BLOCK, launch.next_power_of_2(rank)),
        num_warps=SCAN_WARPS, enable_fp_fusion=True,
    )  # fmt: skip
    return gated


@_scan.register_fake
def _(v, z, steering, h, dt_weight, dt_bias, a_log, skip, new_h):
    return v.new_empty(v.shape)


@torch.no_grad()
def mamba_step(
    u: Tensor,
    z: Tensor,
    state: Tensor,
    taps: Tensor,
    taps_bias: Tensor,
    x_proj: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    a_log: Tensor,
    skip: Tensor,
    *,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """One step of a Mamba layer, from behind its first product to before its last. No gradient.

    Args:
        u, z: [N,D], the halves of the first product; float32, or anything where torch computes.
        state: [N,D*(K-1+S)], the convolution's last inputs [K-1,D] and then h [D,S]. It stays as it is.
        taps, taps_bias: [K,D] and [D], of the convolution, oldest first.
        x_proj: [R+2S,D].
        dt_weight, dt_bias: [D,R] and [D].
        a_log: [D,S].
        skip: [D].
        impl: ``auto``, ``triton`` or ``torch``.

    Returns:
        gated [N,D] and the new state.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
    """
    weights = {"taps": taps, "taps_bias": taps_bias, "x_proj": x_proj, "dt_weight": dt_weight, "dt_bias": dt_bias,
               "a_log": a_log, "skip": skip}  # fmt: skip
    _check(u, z, state, weights)
    if not use_triton(impl, u) or (impl == "auto" and u.dtype != torch.float32):
        return mamba_step_reference(u, z, state, **weights)
    check_tensors("u", u, (torch.float32,), u=u, z=z, state=state, **weights)
    u, z, state = (x if x.stride(1) == 1 else x.contiguous() for x in (u, z, state))
    new = state.new_empty(state.shape)
    (past, h), (new_past, new_h) = (_parts(x, taps, a_log) for x in (state, new))
    v = _convolution(u, past, taps, taps_bias, new_past)
    return _scan(v, z, torch.mm(v, x_proj.t()), h, dt_weight, dt_bias, a_log, skip, new_h), new


def _check(u: Tensor, z: Tensor, state: Tensor, weights: dict[str, Tensor]) -> None:
    if u.dim() != 2 or u.numel() == 0:
        raise ValueError(f"u: expected shape [N,D] with no size of 0, got {tuple(u.shape)}")
    for name, dims in (("taps", 2), ("a_log", 2), ("dt_weight", 2)):
        if weights[name].dim() != dims or weights[name].numel() == 0:
            raise ValueError(f"{name}: expected 2 dimensions with no size of 0, got {tuple(weights[name].shape)}")
    n, channels = u.shape
    taps, size, rank = len(weights["taps"]), weights["a_log"].size(1), weights["dt_weight"].size(1)
    check_shape("z", z, (n, channels), "u's")
    check_shape("state", state, (n, channels * (taps - 1 + size)), "[N,D*(K-1+S)] like u, taps and a_log")
    shapes = {"taps": (taps, channels), "x_proj": (rank + 2 * size, channels), "dt_weight": (channels, rank),
              "a_log": (channels, size)}  # fmt: skip
    for name, x in weights.items():
        check_shape(name, x, shapes.get(name, (channels,)), "of as many channels as u")
