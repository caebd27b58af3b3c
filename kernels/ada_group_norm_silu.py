"""Group normalisation, a gain and shift that are conditioned or learned, and SiLU: one kernel forward, one or two back.

    mean, var: per sample n and group g, over the P = H*W pixels and the group's D channels
    x_hat = (x - mean) * rstd,  rstd = 1 / sqrt(var + eps)
    z = x_hat * gain + shift,   gain = 1 + scale[n,c] (adaptive) or weight[c] (affine)
    out = silu(z) = z * sigmoid(z), or z

    backward, from dout: dz = dout * silu'(z),  silu'(z) = sigmoid(z) * (1 + z * (1 - sigmoid(z)))
    S1[n,c] = sum_p dz = dshift,  S2[n,c] = sum_p dz * x_hat = dgain
    dx = rstd * (gain * dz - mean_g(gain * S1) - x_hat * mean_g(gain * S2)),  mean_g: over the group's P*D elements

x [N,C,H,W], channels last in memory. It may come in two pieces, x [N,C1,H,W] and x2 [N,C2,H,W], as if concatenated on
channels, as long as no group straddles the seam. Only x, mean and rstd are kept for the backward pass; everything
between load and store is float32. Groups small enough are held by one program as a whole; larger ones take the
statistics from a pass of their own, or from whoever wrote x (``bias_residual_stats``). Partial sums have one writer
each and are merged in a fixed order: the same bits on every run.
"""

from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor

from diamond_fast.kernels import launch
from diamond_fast.kernels._groups import (
    block_channels,
    channel_mask,
    gain_and_shift,
    merge_stats,
    per_channel,
    piece,
    sum_per_group,
    tile_mask,
)
from diamond_fast.kernels._triton import tl, triton
from diamond_fast.kernels.bias_residual_stats import check_groups, group_norm_stats
from diamond_fast.kernels.dispatch import (
    channels_last,
    check_images,
    check_shape,
    check_tensors,
    empty_channels_last,
    use_triton,
)

MAX_PARTS = 4096


def ada_group_norm_silu_reference(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    groups: int,
    eps: float = 1e-5,
    activation: str = "silu",
    x2: Tensor | None = None,
) -> Tensor:
    """What ``ada_group_norm_silu`` computes, in torch, at float32 or above."""
    x = x if x2 is None else torch.cat((x, x2), dim=1)
    dtype = torch.promote_types(x.dtype, torch.float32)
    x_hat = F.group_norm(x.to(dtype), groups, eps=eps)
    z = x_hat * (1 + scale.to(dtype))[:, :, None, None] + shift.to(dtype)[:, :, None, None]
    return (F.silu(z) if activation == "silu" else z).to(x.dtype)


# Kernels. A program's channels lie in x1 or in x2, never in both. Arguments they share:
#   x1 [N,P,C1], x2 [N,P,C2] or None; scale, shift: rows of C, scale_stride and shift_stride apart (0: one for all)
#   mean, rstd [N,G]; P pixels; tiles of BLOCK_P pixels x GROUPS groups of D channels (BLOCK_D in registers)


@triton.jit
def _forward_kernel(
    x1, x2, scale, shift, stats1, stats2, out, mean_out, rstd_out,
    P, num_splits, parts1, parts2, scale_stride, shift_stride, eps,
    C1: tl.constexpr, C2: tl.constexpr, D: tl.constexpr, GROUPS: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_PARTS: tl.constexpr, ADAPTIVE: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """One program: one tile. Without statistics the tile is the groups as a whole, and they are computed here."""
    C: tl.constexpr = C1 + C2
    WIDTH: tl.constexpr = GROUPS * D
    pid = tl.program_id(0)
    split = pid % num_splits
    block = pid // num_splits % (C // WIDTH)
    n = pid // num_splits // (C // WIDTH)
    c = block_channels(D, GROUPS, BLOCK_D)
    p = split * BLOCK_P + tl.arange(0, BLOCK_P)
    mask = tile_mask(p, P, D, GROUPS, BLOCK_D)
    start, pitch = piece(x1, x2, n, block, P, C1, C2, WIDTH)
    x = tl.load(start + (p[:, None] * pitch + c[None, :]), mask=mask, other=0.0).to(tl.float32)

    if stats1 is None:
        count = P * D * 1.0
        mean = sum_per_group(tl.sum(x, axis=0), GROUPS, BLOCK_D) / count
        deviation = tl.where(mask, x - per_channel(mean, GROUPS, BLOCK_D)[None, :], 0.0)
        var = sum_per_group(tl.sum(deviation * deviation, axis=0), GROUPS, BLOCK_D) / count
    else:
        row = n.to(tl.int64) * (C1 // D) + block * GROUPS
        stats = stats1 + row * parts1 * 3
        parts = parts1
        if stats2 is not None:
            in_second = block * WIDTH >= C1
            row2 = n.to(tl.int64) * (C2 // D) + (block * GROUPS - C1 // D)
            stats = tl.where(in_second, stats2 + row2 * parts2 * 3, stats)
            parts = tl.where(in_second, parts2, parts1)
        mean, var = merge_stats(stats, parts, GROUPS, BLOCK_PARTS)
    rstd = 1.0 / tl.sqrt(var + eps)

    gain, offset = gain_and_shift(
        scale, shift, n, block * WIDTH + c, scale_stride, shift_stride, D, GROUPS, BLOCK_D, ADAPTIVE
    )
    gain = gain * per_channel(rstd, GROUPS, BLOCK_D)
    z = (x - per_channel(mean, GROUPS, BLOCK_D)[None, :]) * gain[None, :] + offset[None, :]
    if SILU:
        z = z * tl.sigmoid(z)
    out_start = out + (n.to(tl.int64) * P * C + block * WIDTH)
    tl.store(out_start + (p[:, None] * C + c[None, :]), z.to(out.dtype.element_ty), mask=mask)
    if split == 0:
        g = n.to(tl.int64) * (C // D) + block * GROUPS + tl.arange(0, GROUPS)
        tl.store(mean_out + g, mean)
        tl.store(rstd_out + g, rstd)


@triton.jit
def _dz_and_x_hat(x, dout, mean, rstd, gain, offset, SILU: tl.constexpr):
    """Gradient before the activation, and the normalised input. dz is 0 wherever dout is."""
    x_hat = (x - mean[None, :]) * rstd[None, :]
    dz = dout
    if SILU:
        z = x_hat * gain[None, :] + offset[None, :]
        sigmoid = tl.sigmoid(z)
        dz = dout * (sigmoid * (1.0 + z * (1.0 - sigmoid)))
    return dz, x_hat


@triton.jit
def _backward_reduce_kernel(
    dout, x1, x2, scale, shift, mean_in, rstd_in, channel_sums, group_sums,
    P, num_splits, tiles_per_split, scale_stride, shift_stride,
    C1: tl.constexpr, C2: tl.constexpr, D: tl.constexpr, GROUPS: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_P: tl.constexpr, ADAPTIVE: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """One program: S1 and S2 over tiles_per_split tiles, per channel [N,S,2,C] and, times gain, per group [N,G,S,2]."""
    C: tl.constexpr = C1 + C2
    WIDTH: tl.constexpr = GROUPS * D
    pid = tl.program_id(0)
    split = pid % num_splits
    block = pid // num_splits % (C // WIDTH)
    n = pid // num_splits // (C // WIDTH)
    c = block_channels(D, GROUPS, BLOCK_D)
    start, pitch = piece(x1, x2, n, block, P, C1, C2, WIDTH)
    dout_start = dout + (n.to(tl.int64) * P * C + block * WIDTH)
    g = n.to(tl.int64) * (C // D) + block * GROUPS + tl.arange(0, GROUPS)
    mean = per_channel(tl.load(mean_in + g), GROUPS, BLOCK_D)
    rstd = per_channel(tl.load(rstd_in + g), GROUPS, BLOCK_D)
    gain, offset = gain_and_shift(
        scale, shift, n, block * WIDTH + c, scale_stride, shift_stride, D, GROUPS, BLOCK_D, ADAPTIVE
    )
    s1 = tl.zeros([GROUPS * BLOCK_D], tl.float32)
    s2 = tl.zeros([GROUPS * BLOCK_D], tl.float32)
    for tile in range(tiles_per_split):
        p = (split * tiles_per_split + tile) * BLOCK_P + tl.arange(0, BLOCK_P)
        mask = tile_mask(p, P, D, GROUPS, BLOCK_D)
        x = tl.load(start + (p[:, None] * pitch + c[None, :]), mask=mask, other=0.0).to(tl.float32)
        dy = tl.load(dout_start + (p[:, None] * C + c[None, :]), mask=mask, other=0.0).to(tl.float32)
        dz, x_hat = _dz_and_x_hat(x, dy, mean, rstd, gain, offset, SILU)
        s1 += tl.sum(dz, axis=0)
        s2 += tl.sum(dz * x_hat, axis=0)

    channels = channel_sums + ((n.to(tl.int64) * num_splits + split) * (2 * C) + block * WIDTH) + c
    tl.store(channels, s1, mask=channel_mask(D, GROUPS, BLOCK_D))
    tl.store(channels + C, s2, mask=channel_mask(D, GROUPS, BLOCK_D))
    sums = group_sums + (g * num_splits + split) * 2
    tl.store(sums, sum_per_group(gain * s1, GROUPS, BLOCK_D))
    tl.store(sums + 1, sum_per_group(gain * s2, GROUPS, BLOCK_D))


@triton.jit
def _backward_kernel(
    dout, x1, x2, scale, shift, mean_in, rstd_in, channel_sums, group_sums, dx1, dx2, dscale, dshift,
    P, num_tiles, num_parts, scale_stride, shift_stride,
    C1: tl.constexpr, C2: tl.constexpr, D: tl.constexpr, GROUPS: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_PARTS: tl.constexpr, ADAPTIVE: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """One program: dx of one tile. Without partial sums the tile is the groups as a whole, and S1, S2 are summed here.

    The program of a sample's first tile writes dscale and dshift [N,C].
    """
    C: tl.constexpr = C1 + C2
    WIDTH: tl.constexpr = GROUPS * D
    pid = tl.program_id(0)
    tile = pid % num_tiles
    block = pid // num_tiles % (C // WIDTH)
    n = pid // num_tiles // (C // WIDTH)
    c = block_channels(D, GROUPS, BLOCK_D)
    c_mask = channel_mask(D, GROUPS, BLOCK_D)
    p = tile * BLOCK_P + tl.arange(0, BLOCK_P)
    mask = tile_mask(p, P, D, GROUPS, BLOCK_D)
    start, pitch = piece(x1, x2, n, block, P, C1, C2, WIDTH)
    dout_start = dout + (n.to(tl.int64) * P * C + block * WIDTH)
    g = n.to(tl.int64) * (C // D) + block * GROUPS + tl.arange(0, GROUPS)
    mean = per_channel(tl.load(mean_in + g), GROUPS, BLOCK_D)
    rstd = per_channel(tl.load(rstd_in + g), GROUPS, BLOCK_D)
    gain, offset = gain_and_shift(
        scale, shift, n, block * WIDTH + c, scale_stride, shift_stride, D, GROUPS, BLOCK_D, ADAPTIVE
    )
    x = tl.load(start + (p[:, None] * pitch + c[None, :]), mask=mask, other=0.0).to(tl.float32)
    dy = tl.load(dout_start + (p[:, None] * C + c[None, :]), mask=mask, other=0.0).to(tl.float32)
    dz, x_hat = _dz_and_x_hat(x, dy, mean, rstd, gain, offset, SILU)

    at = n.to(tl.int64) * C + block * WIDTH + c
    if channel_sums is None:
        s1 = tl.sum(dz, axis=0)
        s2 = tl.sum(dz * x_hat, axis=0)
        sum1 = sum_per_group(gain * s1, GROUPS, BLOCK_D)
        sum2 = sum_per_group(gain * s2, GROUPS, BLOCK_D)
        tl.store(dshift + at, s1.to(dshift.dtype.element_ty), mask=c_mask)
        tl.store(dscale + at, s2.to(dscale.dtype.element_ty), mask=c_mask)
    else:
        part = tl.arange(0, BLOCK_PARTS)[None, :]
        sums = group_sums + (g[:, None] * num_parts + part) * 2
        sum1 = tl.sum(tl.load(sums, mask=part < num_parts, other=0.0), axis=1)
        sum2 = tl.sum(tl.load(sums + 1, mask=part < num_parts, other=0.0), axis=1)
        if tile == 0:
            s1 = tl.zeros([GROUPS * BLOCK_D], tl.float32)
            s2 = tl.zeros([GROUPS * BLOCK_D], tl.float32)
            row = channel_sums + (n.to(tl.int64) * num_parts * (2 * C) + block * WIDTH) + c
            for i in range(num_parts):
                s1 += tl.load(row + i * (2 * C), mask=c_mask, other=0.0)
                s2 += tl.load(row + i * (2 * C) + C, mask=c_mask, other=0.0)
            tl.store(dshift + at, s1.to(dshift.dtype.element_ty), mask=c_mask)
            tl.store(dscale + at, s2.to(dscale.dtype.element_ty), mask=c_mask)

    count = P * D * 1.0
    m1 = per_channel(sum1 / count, GROUPS, BLOCK_D)
    m2 = per_channel(sum2 / count, GROUPS, BLOCK_D)
    dx = rstd[None, :] * (gain[None, :] * dz - m1[None, :] - x_hat * m2[None, :])
    dx_start, _ = piece(dx1, dx2, n, block, P, C1, C2, WIDTH)
    tl.store(dx_start + (p[:, None] * pitch + c[None, :]), dx.to(dx1.dtype.element_ty), mask=mask)


# Launches


def _shape(x: Tensor, x2: Tensor | None, groups: int) -> tuple[int, int, int, int, int, int, int]:
    """N, P, C1, C2, G, D, and the number of groups that blocks of channels may be made of: none straddles the seam."""
    n, c1, h, w = x.shape
    c2 = 0 if x2 is None else x2.size(1)
    d = (c1 + c2) // groups
    return n, h * w, c1, c2, groups, d, gcd(c1 // d, c2 // d)


def _rows(parameter: Tensor) -> tuple[Tensor, int]:
    """scale or shift, [N,C] or [C], with neighbouring channels side by side, and the distance between samples."""
    parameter = parameter if parameter.stride(-1) == 1 else parameter.contiguous()
    return parameter, parameter.stride(0) if parameter.dim() == 2 else 0


def whole_groups_fit(x: Tensor, x2: Tensor | None, groups: int) -> bool:
    """Whether one program can hold a group as a whole, so that statistics handed in would save nothing."""
    _, p, _, _, _, d, g = _shape(x, x2, groups)
    return launch.whole_group_launch(p, d, g, x.element_size()) is not None


def _forward(
    x: Tensor, x2: Tensor | None, scale: Tensor, shift: Tensor, stats: Tensor | None, stats2: Tensor | None,
    groups: int, eps: float, silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    n, p, c1, c2, g, d, block_groups = _shape(x, x2, groups)
    if stats is None:
        config = launch.whole_group_launch(p, d, block_groups, x.element_size())
    else:
        config = launch.split_launch(n, p, d, block_groups, x.element_size(), launch.chip_of(x.device))
    out = empty_channels_last(x, c1 + c2)
    mean, rstd = (x.new_empty((n, g), dtype=torch.float32) for _ in range(2))
    (scale, scale_stride), (shift, shift_stride) = _rows(scale), _rows(shift)
    parts = [1 if s is None else s.size(2) for s in (stats, stats2)]
    _forward_kernel[(n * (g // config.groups_per_block) * config.num_splits,)](
        x, x2, scale, shift, stats, stats2, out, mean, rstd,
        p, config.num_splits, *parts, scale_stride, shift_stride, eps,
        C1=c1, C2=c2, D=d, GROUPS=config.groups_per_block, BLOCK_D=config.block_d, BLOCK_P=config.block_p,
        BLOCK_PARTS=launch.next_power_of_2(max(parts)), ADAPTIVE=scale.dim() == 2, SILU=silu,
        num_warps=config.num_warps, enable_fp_fusion=True,
    )  # fmt: skip
    return out, mean, rstd


def _backward(
    dout: Tensor, x: Tensor, x2: Tensor | None, scale: Tensor, shift: Tensor, mean: Tensor, rstd: Tensor,
    groups: int, silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    n, p, c1, c2, g, d, block_groups = _shape(x, x2, groups)
    chip, c, adaptive = launch.chip_of(x.device), c1 + c2, scale.dim() == 2
    dx = empty_channels_last(x, c1)
    dx2 = None if x2 is None else empty_channels_last(x, c2)
    dscale = x.new_empty((n, c), dtype=scale.dtype if adaptive else torch.float32)
    dshift = x.new_empty((n, c), dtype=shift.dtype if adaptive else torch.float32)
    (scale, scale_stride), (shift, shift_stride) = _rows(scale), _rows(shift)
    constants = {"C1": c1, "C2": c2, "D": d}
    channel_sums, group_sums, num_parts = None, None, 1
    config = launch.whole_group_launch(p, d, block_groups, x.element_size())
    if config is None:
        config = launch.split_launch(n, p, d, block_groups, x.element_size(), chip)
        columns = n * (g // config.groups_per_block)
        reduce = launch.split_launch(n, p, d, block_groups, x.element_size(), chip, launch.enough_splits(columns, chip))
        num_parts = reduce.num_splits
        channel_sums = x.new_empty((n, num_parts, 2, c), dtype=torch.float32)
        group_sums = x.new_empty((n, g, num_parts, 2), dtype=torch.float32)
        _backward_reduce_kernel[(columns * num_parts,)](
            dout, x, x2, scale, shift, mean, rstd, channel_sums, group_sums,
            p, num_parts, reduce.tiles_per_split, scale_stride, shift_stride,
            **constants, GROUPS=reduce.groups_per_block, BLOCK_D=reduce.block_d, BLOCK_P=reduce.block_p,
            ADAPTIVE=adaptive, SILU=silu,
            num_warps=launch.reduce_warps(reduce.num_warps), maxnreg=launch.LOOP_REGISTERS, enable_fp_fusion=True,
        )  # fmt: skip
    _backward_kernel[(n * (g // config.groups_per_block) * config.num_splits,)](
        dout, x, x2, scale, shift, mean, rstd, channel_sums, group_sums, dx, dx2, dscale, dshift,
        p, config.num_splits, num_parts, scale_stride, shift_stride,
        **constants, GROUPS=config.groups_per_block, BLOCK_D=config.block_d, BLOCK_P=config.block_p,
        BLOCK_PARTS=launch.next_power_of_2(num_parts), ADAPTIVE=adaptive, SILU=silu,
        num_warps=config.num_warps, enable_fp_fusion=True,
    )  # fmt: skip
    if not adaptive:
        dscale, dshift = dscale.sum(0).to(scale.dtype), dshift.sum(0).to(shift.dtype)
    return dx, x.new_empty(0) if dx2 is None else dx2, dscale, dshift


# Custom operations


@launch.operator("diamond_fast::ada_group_norm_silu")
def _ada_group_norm_silu(
    x: Tensor,
    x2: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    stats: Tensor | None,
    stats2: Tensor | None,
    groups: int,
    eps: float,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    x, x2 = channels_last(x), None if x2 is None else channels_last(x2)
    return _forward(x, x2, scale, shift, stats, stats2, groups, eps, silu)


@_ada_group_norm_silu.register_fake
def _(x, x2, scale, shift, stats, stats2, groups, eps, silu):
    out = empty_channels_last(x, x.size(1) + (0 if x2 is None else x2.size(1)))
    mean, rstd = (x.new_empty((x.size(0), groups), dtype=torch.float32) for _ in range(2))
    return out, mean, rstd


@launch.operator("diamond_fast::ada_group_norm_silu_backward")
def _ada_group_norm_silu_backward(
    dout: Tensor,
    x: Tensor,
    x2: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    rstd: Tensor,
    groups: int,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, x2 = channels_last(x), None if x2 is None else channels_last(x2)
    return _backward(channels_last(dout), x, x2, scale, shift, mean, rstd, groups, silu)


@_ada_group_norm_silu_backward.register_fake
def _(dout, x, x2, scale, shift, mean, rstd, groups, silu):
    dx2 = x.new_empty(0) if x2 is None else empty_channels_last(x, x2.size(1))
    return empty_channels_last(x, x.size(1)), dx2, scale.new_empty(scale.shape), shift.new_empty(shift.shape)


def _setup_context(ctx, inputs, output):
    x, x2, scale, shift, _, _, groups, _, silu = inputs
    _, mean, rstd = output
    ctx.set_materialize_grads(False)  # mean and rstd have no gradient: no zeros for them
    ctx.save_for_backward(x, x2, scale, shift, mean, rstd)
    ctx.groups, ctx.silu = groups, silu


def _autograd(ctx, dout, _dmean, _drstd):
    if dout is None:
        return (None,) * 9
    x, x2, scale, shift, mean, rstd = ctx.saved_tensors
    dx, dx2, dscale, dshift = _ada_group_norm_silu_backward(dout, x, x2, scale, shift, mean, rstd, ctx.groups, ctx.silu)
    return dx, None if x2 is None else dx2, dscale, dshift, None, None, None, None, None


_ada_group_norm_silu.register_autograd(_autograd, setup_context=_setup_context)


# Public functions


def check_norm(
    x: Tensor, x2: Tensor | None, groups: int, eps: float, activation: str, stats: Tensor | None, stats2: Tensor | None
) -> None:
    """Checks what the adaptive and the affine norm have in common.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
    """
    check_tensors("x", x, x=x, x2=x2)
    check_tensors("x", x, (torch.float32,), stats=stats, stats2=stats2)
    check_images("x", x)
    if x2 is not None:
        check_images("x2", x2)
        check_shape("x2", x2, (x.size(0), x2.size(1), *x.shape[2:]), "[N,C2,H,W] like x")
        if x2.dtype != x.dtype:
            raise TypeError(f"x2: expected x's dtype {x.dtype}, got {x2.dtype}")
    channels = x.size(1) + (0 if x2 is None else x2.size(1))
    check_groups(channels, groups)
    group_channels = channels // groups
    if x.size(1) % group_channels:
        raise ValueError(
            f"x2: groups of {group_channels} channels straddle the seam after x's {x.size(1)}; concatenate instead"
        )
    if activation not in ("silu", "identity"):
        raise ValueError(f"activation: expected 'silu' or 'identity', got {activation!r}")
    if not eps > 0:
        raise ValueError(f"eps: must be positive, got {eps}")
    if stats2 is not None and x2 is None:
        raise ValueError("stats2: given without x2")
    for name, of, s in (("stats", x, stats), ("stats2", x2, stats2)):
        if s is not None and of is not None:
            shape = (x.size(0), of.size(1) // group_channels, s.size(2) if s.dim() == 4 else 1, 3)
            check_shape(name, s, shape, "[N, groups of its input, parts, 3]")
            if s.size(2) > MAX_PARTS:
                raise ValueError(f"{name}: at most {MAX_PARTS} parts, got {s.size(2)}")


def normalise(
    x: Tensor, scale: Tensor, shift: Tensor, groups: int, eps: float, activation: str,
    x2: Tensor | None, stats: Tensor | None, stats2: Tensor | None,
) -> Tensor:  # fmt: skip
    """The Triton path, for rows [N,C] or single rows [C] of scale and shift: completes the statistics it needs."""
    complete = stats is not None and (x2 is None or stats2 is not None)
    if not complete and whole_groups_fit(x, x2, groups):
        stats = stats2 = None
    elif not complete:
        group_channels = scale.size(-1) // groups
        stats = group_norm_stats(x, x.size(1) // group_channels, impl="triton") if stats is None else stats
        if x2 is not None and stats2 is None:
            stats2 = group_norm_stats(x2, x2.size(1) // group_channels, impl="triton")
    stats, stats2 = (s if s is None else s.detach().contiguous() for s in (stats, stats2))
    return _ada_group_norm_silu(x, x2, scale, shift, stats, stats2, groups, float(eps), activation == "silu")[0]


def ada_group_norm_silu(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    groups: int,
    eps: float = 1e-5,
    activation: str = "silu",
    *,
    x2: Tensor | None = None,
    stats: Tensor | None = None,
    stats2: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """silu(group_norm(x) * (1 + scale) + shift), differentiable once in x, x2, scale and shift.

    Args:
        x: [N,C1,H,W] bfloat16, float16 or float32. Channels last in memory, or it is copied first.
        scale, shift: [N,C], C = C1 (+ C2); rows of a larger matrix will do.
        groups: over all C channels.
        activation: ``silu`` or ``identity``.
        x2: [N,C2,H,W], further channels, as if concatenated behind x's.
        stats, stats2: what ``bias_residual_stats`` or ``group_norm_stats`` said of exactly x and x2, with as many
            channels a group as here. They save a pass over the input and change nothing else; the torch
            implementation has no use for them.
        impl: ``auto``, ``triton`` or ``torch``.

    Returns:
        [N,C,H,W] of x's dtype, channels last in memory.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
    """
    check_norm(x, x2, groups, eps, activation, stats, stats2)
    shape = (x.size(0), x.size(1) + (0 if x2 is None else x2.size(1)))
    check_tensors("x", x, scale=scale, shift=shift)
    check_shape("scale", scale, shape, "[N,C]")
    check_shape("shift", shift, shape, "[N,C]")
    if use_triton(impl, x):
        return normalise(x, scale, shift, groups, eps, activation, x2, stats, stats2)
    return ada_group_norm_silu_reference(x, scale, shift, groups, eps, activation, x2)
