"""A convolution with all that surrounds it in a network, in one kernel: norm and SiLU before, statistics after.

    a = silu(x_hat * gain + shift), or x if there is no norm;   x_hat, gain, shift: see ada_group_norm_silu.py
    y[n,p,o] = bias[o] + sum_{tap,c} a[n, q(p, tap), c] * weight[o,c,tap] + residual[n,p,o]
    stats[n,g,s] = (count, mean, sum of squared deviations) of y over the s-th tile of the pixels, channels of group g

q(p, tap): the input pixel under a tap of the kernel, 3x3 with padding 1 or 1x1. Outside the image a is 0. The stride is
1 or 2. The input may be enlarged twofold first (nearest neighbour), which is never written to memory. x may come in two
pieces as if concatenated on channels. The residual may be given, or be a projection: a 1x1 convolution of r and r2 with
weights and a bias of its own, which is summed in the same registers. So a residual block is two launches, and what lies
between them is written once.

An implicit matrix product: a program owns a tile of pixels of one sample and a block of output channels. It goes over
blocks of input channels and, within one, over the taps. The input is normalised and activated on its way from memory,
once for each tap: nine times the arithmetic of a pass of its own in exchange for its bytes and its launch. Which of the
two is faster depends on the chip. Inputs are rounded to x's dtype before the product, as such a pass would round them,
and products are summed in float32. There are no gradients.
"""

from math import gcd
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diamond_fast.kernels import launch
from diamond_fast.kernels._groups import block_channels, channel_mask, merge_stats, per_channel, sum_per_group
from diamond_fast.kernels._triton import tl, triton
from diamond_fast.kernels.ada_group_norm_silu import MAX_PARTS, ada_group_norm_silu_reference, check_norm
from diamond_fast.kernels.bias_residual_stats import bias_residual_stats_reference, check_groups, group_norm_stats
from diamond_fast.kernels.dispatch import channels_last, check_images, check_shape, check_tensors, use_triton
from diamond_fast.kernels.group_norm_silu import group_norm_silu_reference

MAX_GROUP_CHANNELS = 64
BLOCK_CHANNELS = 64  # output channels of a program, and input channels that it takes at a time
# Large tiles share a multiprocessor in twos, which is what hides the latency of their loads; small ones are alone on
# theirs, and have inputs and weights of so many taps on their way at a time.
SMALL_TILE_STAGES = 3
SMALL_TILE_REGISTERS = 168
LARGE_TILE_PIXELS = 128


class Norm(NamedTuple):
    """Group norm and SiLU in front of a convolution."""

    scale: Tensor  # [N,C] of an adaptive norm, or the weight [C]
    shift: Tensor  # likewise, or the bias [C]
    groups: int
    eps: float = 1e-5
    stats: Tensor | None = None  # of x, and of x2, as ``group_norm_stats`` gives them; computed if missing
    stats2: Tensor | None = None


class Projection(NamedTuple):
    """A 1x1 convolution that takes the place of a residual."""

    weight: Tensor  # [O,R,1,1]
    bias: Tensor | None  # [O]
    r: Tensor  # [N,R1,H,W], of the output's height and width
    r2: Tensor | None = None  # [N,R2,H,W], R = R1 + R2


def fused_conv_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: Norm | None = None,
    residual: Tensor | Projection | None = None,
    x2: Tensor | None = None,
    stride: int = 1,
    upsample: bool = False,
    groups: int = 1,
) -> tuple[Tensor, Tensor]:
    """What ``fused_conv`` computes, in torch, with all pixels in one part."""
    if norm is None:
        a = x if x2 is None else torch.cat((x, x2), dim=1)
    else:
        reference = ada_group_norm_silu_reference if norm.scale.dim() == 2 else group_norm_silu_reference
        a = reference(x, norm.scale, norm.shift, norm.groups, norm.eps, "silu", x2)
    if upsample:
        a = F.interpolate(a, scale_factor=2.0, mode="nearest")
    y = F.conv2d(a, weight, None, stride, weight.size(2) // 2)
    if isinstance(residual, Projection):
        r = residual.r if residual.r2 is None else torch.cat((residual.r, residual.r2), dim=1)
        residual = F.conv2d(r, residual.weight, residual.bias)
    return bias_residual_stats_reference(y, bias, residual, groups)


# The kernel. Pointers that are None are left out at compile time.


@triton.jit
def _piece(x1, x2, n, block, pixels, C1: tl.constexpr, C2: tl.constexpr, WIDTH: tl.constexpr):
    """A block of input channels: where sample n has it, its first channel and the channels of its piece."""
    BLOCKS1: tl.constexpr = (C1 + WIDTH - 1) // WIDTH
    sample = n.to(tl.int64) * pixels
    if x2 is None:
        return x1 + sample * C1, block * WIDTH, C1
    else:
        in_second = block >= BLOCKS1
        start = tl.where(in_second, x2 + sample * C2, x1 + sample * C1)
        first = tl.where(in_second, (block - BLOCKS1) * WIDTH, block * WIDTH)
        return start, first, tl.where(in_second, C2, C1)


@triton.jit
def _spread(v, GROUPS: tl.constexpr, BLOCK_D: tl.constexpr):
    """``per_channel`` as a sum with one term: what comes of a reshape, Triton keeps once for every pixel."""
    mine = tl.arange(0, GROUPS)[:, None] == (tl.arange(0, GROUPS * BLOCK_D) // BLOCK_D)[None, :]
    return tl.sum(tl.where(mine, v[:, None], 0.0), axis=0)


@triton.jit
def _fused_conv_kernel(
    x1, x2, weight, bias, scale, shift, stats1, stats2, residual, r1, r2, projection, projection_bias, out, stats,
    height, width, out_width, P, num_tiles, parts1, parts2, scale_stride, shift_stride, eps,
    C1: tl.constexpr, C2: tl.constexpr, D: tl.constexpr, GROUPS: tl.constexpr, BLOCK_D: tl.constexpr,
    R1: tl.constexpr, R2: tl.constexpr, BLOCK_R: tl.constexpr,
    OUT_C: tl.constexpr, OUT_D: tl.constexpr, OUT_GROUPS: tl.constexpr, OUT_BLOCK_D: tl.constexpr,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, ENLARGE: tl.constexpr, ADAPTIVE: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_P output pixels of a sample x OUT_GROUPS groups of OUT_D output channels."""
    WIDTH: tl.constexpr = GROUPS * D
    BLOCKS1: tl.constexpr = (C1 + WIDTH - 1) // WIDTH
    BLOCKS: tl.constexpr = BLOCKS1 + (C2 + WIDTH - 1) // WIDTH
    RAGGED: tl.constexpr = D != BLOCK_D or C1 % WIDTH != 0 or C2 % WIDTH != 0
    OUT_WIDTH: tl.constexpr = OUT_GROUPS * OUT_D
    OUT_RAGGED: tl.constexpr = OUT_D != OUT_BLOCK_D or OUT_C % OUT_WIDTH != 0
    pid = tl.program_id(0)
    tile = pid % num_tiles
    out_block = pid // num_tiles % ((OUT_C + OUT_WIDTH - 1) // OUT_WIDTH)
    n = pid // num_tiles // ((OUT_C + OUT_WIDTH - 1) // OUT_WIDTH)
    p = tile * BLOCK_P + tl.arange(0, BLOCK_P)
    p_mask = p < P
    o = out_block * OUT_WIDTH + block_channels(OUT_D, OUT_GROUPS, OUT_BLOCK_D)
    o_mask = channel_mask(OUT_D, OUT_GROUPS, OUT_BLOCK_D) & (o < OUT_C)
    top = p // out_width * STRIDE - KERNEL // 2
    left = p % out_width * STRIDE - KERNEL // 2
    pixels = height * width
    i = block_channels(D, GROUPS, BLOCK_D)

    acc = tl.zeros([BLOCK_P, OUT_GROUPS * OUT_BLOCK_D], tl.float32)
    for block in range(BLOCKS):
        start, first, pitch = _piece(x1, x2, n, block, pixels, C1, C2, WIDTH)
        c = first + i  # within the piece
        c_mask = channel_mask(D, GROUPS, BLOCK_D) & (c < pitch)
        joint = c
        if x2 is not None:
            joint = tl.where(block >= BLOCKS1, C1 + c, c)  # as if concatenated
        if stats1 is not None:
            row = n.to(tl.int64) * (C1 // D) + block * GROUPS
            part_stats = stats1 + row * parts1 * 3
            parts = parts1
            if stats2 is not None:
                row2 = n.to(tl.int64) * (C2 // D) + (block - BLOCKS1) * GROUPS
                part_stats = tl.where(block >= BLOCKS1, stats2 + row2 * parts2 * 3, part_stats)
                parts = tl.where(block >= BLOCKS1, parts2, parts1)
            mean, var = merge_stats(part_stats, parts, GROUPS, BLOCK_PARTS)
            rstd = 1.0 / tl.sqrt(var + eps)
            gain = tl.load(scale + n.to(tl.int64) * scale_stride + joint, mask=c_mask, other=0.0).to(tl.float32)
            if ADAPTIVE:
                gain += 1.0
            gain = gain * _spread(rstd, GROUPS, BLOCK_D)
            offset = tl.load(shift + n.to(tl.int64) * shift_stride + joint, mask=c_mask, other=0.0).to(tl.float32)
            offset -= gain * _spread(mean, GROUPS, BLOCK_D)  # registers for two rows, not three

        for tap in range(KERNEL * KERNEL):
            y = top + tap // KERNEL
            x = left + tap % KERNEL
            mask = (p_mask & (y >= 0) & (y < height * ENLARGE) & (x >= 0) & (x < width * ENLARGE))[:, None]
            if RAGGED:
                mask = mask & c_mask[None, :]
            q = y // ENLARGE * width + x // ENLARGE
            a = tl.load(start + (q[:, None] * pitch + c[None, :]), mask=mask, other=0.0)
            if stats1 is not None:
                z = a.to(tl.float32) * gain[None, :] + offset[None, :]
                a = tl.where(mask, z * tl.sigmoid(z), 0.0).to(a.dtype)
            at_weight = o[None, :] * (KERNEL * KERNEL * (C1 + C2)) + (tap * (C1 + C2) + joint)[:, None]
            if RAGGED or OUT_RAGGED:
                b = tl.load(weight + at_weight, mask=c_mask[:, None] & o_mask[None, :], other=0.0)
            else:
                b = tl.load(weight + at_weight)
            acc = tl.dot(a, b, acc, input_precision=PRECISION)

    if projection is not None:
        R_BLOCKS1: tl.constexpr = (R1 + BLOCK_R - 1) // BLOCK_R
        for block in range(R_BLOCKS1 + (R2 + BLOCK_R - 1) // BLOCK_R):
            start, first, pitch = _piece(r1, r2, n, block, P, R1, R2, BLOCK_R)
            c = first + tl.arange(0, BLOCK_R)
            joint = c
            if r2 is not None:
                joint = tl.where(block >= R_BLOCKS1, R1 + c, c)
            at_weight = o[None, :] * (R1 + R2) + joint[:, None]
            if R1 % BLOCK_R != 0 or R2 % BLOCK_R != 0 or OUT_RAGGED:
                a_mask = p_mask[:, None] & (c < pitch)[None, :]
                b = tl.load(projection + at_weight, mask=(c < pitch)[:, None] & o_mask[None, :], other=0.0)
            else:
                a_mask = p_mask[:, None]
                b = tl.load(projection + at_weight)
            a = tl.load(start + (p[:, None] * pitch + c[None, :]), mask=a_mask, other=0.0)
            acc = tl.dot(a, b, acc, input_precision=PRECISION)

    mask = p_mask[:, None]
    if OUT_RAGGED:
        mask = mask & o_mask[None, :]
    at = n.to(tl.int64) * P * OUT_C + (p[:, None] * OUT_C + o[None, :])
    if bias is not None:
        acc += tl.load(bias + o, mask=o_mask, other=0.0).to(tl.float32)[None, :]
    if projection_bias is not None:
        acc += tl.load(projection_bias + o, mask=o_mask, other=0.0).to(tl.float32)[None, :]
    if residual is not None:
        acc += tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
    rounded = acc.to(out.dtype.element_ty)
    tl.store(out + at, rounded, mask=mask)

    count = (tl.minimum(P - tile * BLOCK_P, BLOCK_P) * OUT_D).to(tl.float32)
    v = tl.where(mask, rounded.to(tl.float32), 0.0)
    out_mean = sum_per_group(tl.sum(v, axis=0), OUT_GROUPS, OUT_BLOCK_D) / count
    deviation = tl.where(mask, v - per_channel(out_mean, OUT_GROUPS, OUT_BLOCK_D)[None, :], 0.0)
    m2 = sum_per_group(tl.sum(deviation * deviation, axis=0), OUT_GROUPS, OUT_BLOCK_D)
    g = n.to(tl.int64) * (OUT_C // OUT_D) + out_block * OUT_GROUPS + tl.arange(0, OUT_GROUPS)
    at_stats = stats + (g * num_tiles + tile) * 3
    tl.store(at_stats, tl.zeros([OUT_GROUPS], tl.float32) + count)
    tl.store(at_stats + 1, out_mean)
    tl.store(at_stats + 2, m2)


# Launches


class ConvLaunch(NamedTuple):
    """How the output is cut into programs."""

    groups_per_block: int
    block_d: int
    block_p: int
    num_tiles: int  # of a sample's pixels


def conv_launch(
    n: int, pixels: int, channels: int, groups: int, itemsize: int, further: bool, chip: launch.Chip
) -> ConvLaunch:
    """Tiles as large as registers allow, small enough to give every multiprocessor one.

    Args:
        n, pixels, channels, groups: of the output.
        further: whether there are inputs beside x: x2, or a projection's.
    """
    d = channels // groups
    block_d = _block(d)
    count = 1
    while groups % (2 * count) == 0 and 2 * count * block_d <= BLOCK_CHANNELS:
        count *= 2
    largest = 2 * LARGE_TILE_PIXELS // itemsize
    if further and chip.capability >= 120:  # there they take a few registers more than two large tiles leave them
        largest //= 2
    block_p = min(largest, max(16, launch.next_power_of_2(pixels)))
    while n * launch.ceil_div(pixels, block_p) * (groups // count) < chip.num_sms * 3 // 4:
        if block_p > 64 or (count == 1 and block_p > 16):
            block_p //= 2
        elif count > 1:
            count //= 2
        else:
            break
    return ConvLaunch(count, block_d, block_p, launch.ceil_div(pixels, block_p))


def _block(channels: int) -> int:
    """A block that holds so many channels: matrix products take 16 at least."""
    return max(16, launch.next_power_of_2(channels))


def _out_size(x: Tensor, stride: int, upsample: bool) -> tuple[int, int]:
    """Height and width of the output."""
    height, width = (size * (2 if upsample else 1) for size in x.shape[2:])
    return (height - 1) // stride + 1, (width - 1) // stride + 1


def _launch_of(x: Tensor, weight: Tensor, further: bool, stride: int, upsample: bool, groups: int) -> ConvLaunch:
    h, w = _out_size(x, stride, upsample)
    return conv_launch(x.size(0), h * w, len(weight), groups, x.element_size(), further, launch.chip_of(x.device))


def _input_blocks(c1: int, c2: int, norm_groups: int, itemsize: int) -> tuple[int, int, int]:
    """Channels a group, groups a block, and the block's size for a group, over the input channels."""
    widest = 2 * BLOCK_CHANNELS // itemsize
    if not norm_groups:  # any cut will do
        block = min(widest, _block(max(c1, c2)))
        return block, 1, block
    d = (c1 + c2) // norm_groups
    count, groups = 1, gcd(c1 // d, c2 // d)
    while groups % (2 * count) == 0 and 2 * count * _block(d) <= widest:
        count *= 2
    return d, count, _block(d)


def _rows(parameter: Tensor | None) -> tuple[Tensor | None, int]:
    """scale or shift with neighbouring channels side by side, and the distance between samples."""
    if parameter is None:
        return None, 0
    parameter = parameter if parameter.stride(-1) == 1 else parameter.contiguous()
    return parameter, parameter.stride(0) if parameter.dim() == 2 else 0


@launch.operator("diamond_fast::fused_conv")
def _fused_conv(
    x: Tensor, x2: Tensor | None, weight: Tensor, bias: Tensor | None,
    scale: Tensor | None, shift: Tensor | None, stats: Tensor | None, stats2: Tensor | None,
    norm_groups: int, eps: float,
    residual: Tensor | None, r: Tensor | None, r2: Tensor | None,
    projection: Tensor | None, projection_bias: Tensor | None, stride: int, upsample: bool, groups: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    config = _launch_of(x, weight, x2 is not None or projection is not None, stride, upsample, groups)
    out, out_stats = _empty(x, weight, config, stride, upsample, groups)
    x, weight = channels_last(x), channels_last(weight)
    x2, residual, r, r2 = (None if t is None else channels_last(t) for t in (x2, residual, r, r2))
    (n, c1, h, w), c2 = x.shape, 0 if x2 is None else x2.size(1)
    r_channels = [0 if t is None else t.size(1) for t in (r, r2)]
    d, in_groups, block_d = _input_blocks(c1, c2, norm_groups, x.element_size())
    (scale, scale_stride), (shift, shift_stride) = _rows(scale), _rows(shift)
    parts = [1 if s is None else s.size(2) for s in (stats, stats2)]
    widest = 2 * BLOCK_CHANNELS // x.element_size()
    full = config.block_p * config.groups_per_block * config.block_d == LARGE_TILE_PIXELS * BLOCK_CHANNELS
    large = config.block_p >= LARGE_TILE_PIXELS
    exact = x.dtype == torch.float32 and not torch.backends.cudnn.allow_tf32
    # left alone, the assembler stops at a step of occupancy and spills a register; with full tiles it is the reverse
    registers = None if full else launch.LOOP_REGISTERS if large else SMALL_TILE_REGISTERS
    _fused_conv_kernel[(n * (groups // config.groups_per_block) * config.num_tiles,)](
        x, x2, weight, bias, scale, shift, stats, stats2, residual, r, r2, projection, projection_bias, out, out_stats,
        h, w, out.size(3), out.size(2) * out.size(3), config.num_tiles, *parts, scale_stride, shift_stride, eps,
        C1=c1, C2=c2, D=d, GROUPS=in_groups, BLOCK_D=block_d,
        R1=r_channels[0], R2=r_channels[1], BLOCK_R=min(widest, _block(max(r_channels))),
        OUT_C=len(weight), OUT_D=len(weight) // groups, OUT_GROUPS=config.groups_per_block, OUT_BLOCK_D=config.block_d,
        KERNEL=weight.size(2), STRIDE=stride, ENLARGE=2 if upsample else 1,
        ADAPTIVE=scale is not None and scale.dim() == 2, BLOCK_P=config.block_p,
        BLOCK_PARTS=launch.next_power_of_2(max(parts)), PRECISION="ieee" if exact else "tf32",
        num_warps=8 if large else 4, num_stages=1 if large else SMALL_TILE_STAGES,
        maxnreg=registers, enable_fp_fusion=True,
    )  # fmt: skip
    return out, out_stats


def _empty(
    x: Tensor, weight: Tensor, config: ConvLaunch, stride: int, upsample: bool, groups: int
) -> tuple[Tensor, Tensor]:
    """The output and its statistics, not filled yet."""
    n, o, (h, w) = len(x), len(weight), _out_size(x, stride, upsample)
    stats = x.new_empty((n, groups, config.num_tiles, 3), dtype=torch.float32)
    return x.new_empty((n, h, w, o)).permute(0, 3, 1, 2), stats


@_fused_conv.register_fake
def _(
    x, x2, weight, bias, scale, shift, stats, stats2, norm_groups, eps, residual, r, r2, projection, projection_bias,
    stride, upsample, groups,
):  # fmt: skip
    config = _launch_of(x, weight, x2 is not None or projection is not None, stride, upsample, groups)
    return _empty(x, weight, config, stride, upsample, groups)


# Public functions


def fits(channels: int, groups: int) -> bool:
    """Whether groups of so many channels are narrow enough for one program."""
    return channels % groups == 0 and channels // groups <= MAX_GROUP_CHANNELS


def fused_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: Norm | None = None,
    residual: Tensor | Projection | None = None,
    x2: Tensor | None = None,
    stride: int = 1,
    upsample: bool = False,
    groups: int = 1,
    *,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """conv(silu(norm(x ‖ x2))) + bias + residual, and its statistics for the norm that follows. Without gradients.

    Args:
        x: [N,C1,H,W] bfloat16, float16 or float32. Channels last in memory, or it is copied first, as all images are.
        weight: [O,C,K,K] of x's dtype, C = C1 (+ C2), K = 1 or 3; padded by K // 2 pixels.
        bias: [O], or None.
        norm: group norm, gain, shift and SiLU in front; None: none of them.
        residual: [N,O,H',W'] like the output, or a projection of other values onto it, or None.
        x2: [N,C2,H,W], further channels, as if concatenated behind x's.
        stride: 1 or 2.
        upsample: whether the input is doubled in height and width first, by nearest neighbour.
        groups: of the norm that follows; at most 64 channels each, as in ``norm``.
        impl: ``auto``, ``triton`` or ``torch``.

    Returns:
        [N,O,H',W'] of x's dtype, channels last in memory, and statistics [N,groups,S,3] float32.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
    """
    _check(x, weight, bias, norm, residual, x2, stride, upsample, groups)
    if not use_triton(impl, x):
        return fused_conv_reference(x, weight, bias, norm, residual, x2, stride, upsample, groups)
    projection = residual if isinstance(residual, Projection) else None
    kept = None if isinstance(residual, Projection) else residual
    p = (None,) * 4 if projection is None else (projection.r, projection.r2, projection.weight, projection.bias)
    n: tuple = (None, None, None, None, 0, 1e-5)
    if norm is not None:
        stats, stats2 = norm.stats, norm.stats2
        size = (x.size(1) + (0 if x2 is None else x2.size(1))) // norm.groups
        stats = group_norm_stats(x, x.size(1) // size, impl="triton") if stats is None else stats.contiguous()
        if x2 is not None:
            stats2 = group_norm_stats(x2, x2.size(1) // size, impl="triton") if stats2 is None else stats2.contiguous()
        n = (norm.scale, norm.shift, stats, stats2, norm.groups, float(norm.eps))
    with torch.no_grad():
        return _fused_conv(x, x2, weight, bias, *n, kept, *p, stride, upsample, groups)


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, norm: Norm | None, residual: Tensor | Projection | None,
    x2: Tensor | None, stride: int, upsample: bool, groups: int,
) -> None:  # fmt: skip
    check_tensors("x", x, x=x)
    check_tensors("x", x, (x.dtype,), weight=weight, x2=x2)
    check_tensors("x", x, bias=bias)
    check_images("x", x)
    channels = x.size(1)
    if x2 is not None:
        check_images("x2", x2)
        check_shape("x2", x2, (x.size(0), x2.size(1), *x.shape[2:]), "[N,C2,H,W] like x")
        channels += x2.size(1)
    check_images("weight", weight)
    k = weight.size(2)
    check_shape("weight", weight, (len(weight), channels, k, k), "[O,C,K,K]")
    if k not in (1, 3):
        raise ValueError(f"weight: the kernel must be 1x1 or 3x3, got {k}x{k}")
    if stride not in (1, 2):
        raise ValueError(f"stride: expected 1 or 2, got {stride}")
    check_shape("bias", bias, (len(weight),), "[O]")
    check_groups(len(weight), groups)
    if len(weight) // groups > MAX_GROUP_CHANNELS:
        raise ValueError(f"groups: at most {MAX_GROUP_CHANNELS} channels each, got {len(weight) // groups}")
    out = (len(x), len(weight), *_out_size(x, stride, upsample))
    if out[2] * out[3] > 16 * MAX_PARTS:
        raise ValueError(f"x: at most {16 * MAX_PARTS} pixels in an output, got {out[2] * out[3]}")
    if norm is not None:
        check_norm(x, x2, norm.groups, norm.eps, "silu", norm.stats, norm.stats2)
        check_tensors("x", x, scale=norm.scale, shift=norm.shift)
        shape = (len(x), channels) if norm.scale.dim() == 2 else (channels,)
        check_shape("scale", norm.scale, shape, "[N,C] or [C]")
        check_shape("shift", norm.shift, shape, "scale's")
        if channels // norm.groups > MAX_GROUP_CHANNELS:
            raise ValueError(f"norm: at most {MAX_GROUP_CHANNELS} channels a group, got {channels // norm.groups}")
    if isinstance(residual, Projection):
        r, r2 = residual.r, residual.r2
        check_tensors("x", x, (x.dtype,), projection=residual.weight, r=r, r2=r2)
        check_tensors("x", x, projection_bias=residual.bias)
        check_shape("r", r, (out[0], r.size(1), *out[2:]), "[N,R1,H,W] as large as the output")
        check_shape("r2", r2, (out[0], 0 if r2 is None else r2.size(1), *out[2:]), "[N,R2,H,W] as large as the output")
        width = r.size(1) + (0 if r2 is None else r2.size(1))
        check_shape("projection", residual.weight, (out[1], width, 1, 1), "[O,R,1,1]")
        check_shape("projection_bias", residual.bias, (out[1],), "[O]")
    elif residual is not None:
        check_tensors("x", x, (x.dtype,), residual=residual)
        check_shape("residual", residual, out, "the output's")
