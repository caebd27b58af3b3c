"""A convolution with all that surrounds it in a network, in one kernel: norm and SiLU before, statistics after.

    a = silu(x_hat * gain + shift), or x if there is no norm;   x_hat, gain, shift: see ada_group_norm_silu.py
    y[n,p,o] = bias[o] + sum_{tap,c} a[n, q(p, tap), c] * weight[o,c,tap] + residual[n,p,o]
    stats[n,g,s] = (count, mean, sum of squared deviations) of y over the s-th tile of the pixels, channels of group g

q(p, tap): the input pixel under a tap of the kernel, 3x3 with padding 1 or 1x1. Outside the image a is 0. The stride is
1 or 2. The input may be enlarged twofold first (nearest neighbour), which is never written to memory. x may come in two
pieces as if concatenated on channels. The residual may be given, or be a projection: a 1x1 convolution of r and r2 with
weights and a bias of its own, which is summed in the same registers. So a residual block is two launches, and what lies
between them is written once.

Three kernels share the work (see _conv.py). 3x3 with stride 1 on small maps is one launch: the norm is computed on the
way from memory, three times a pixel. On large maps that arithmetic costs more than it saves: a norm's own pass comes
first, and then a kernel that computes four neighbouring columns from six. Strides and 1x1 go tap by tap. Inputs are
rounded to x's dtype before the product, and products are summed in float32. There are no gradients.
"""

from math import gcd
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diamond_fast.kernels import launch
from diamond_fast.kernels._conv import any_conv_kernel, conv_by_columns_kernel, conv_by_rows_kernel
from diamond_fast.kernels.ada_group_norm_silu import (
    MAX_PARTS,
    ada_group_norm_silu,
    ada_group_norm_silu_reference,
    check_norm,
)
from diamond_fast.kernels.bias_residual_stats import bias_residual_stats_reference, check_groups, group_norm_stats
from diamond_fast.kernels.dispatch import channels_last, check_images, check_shape, check_tensors, use_triton
from diamond_fast.kernels.group_norm_silu import group_norm_silu, group_norm_silu_reference

MAX_GROUP_CHANNELS = 64
BLOCK_CHANNELS = 64  # output channels of a program, and input channels that it takes at a time
# What an H200 does fastest. A program of 4 warps shares its multiprocessor with one to three others, and has inputs and
# weights of so many steps on their way at a time: both hide the latency of its loads.
WARPS, STAGES = 4, 3
COLUMNS_TILE, ROWS_TILE, ANY_TILE = 256, 64, 128  # pixels
WARPGROUP_PRODUCTS = (90, 100, 103)  # capabilities whose tensor cores read inputs from shared memory
ROWS_REGISTERS = 255  # where they do not: left alone the assembler stops at 168 and spills one or two
COLUMNS_CHANNELS = 32  # input channels at a time: half as many, so that there is room for two such programs


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


# Launches


Kernel = Literal["columns", "rows", "any"]


class ConvLaunch(NamedTuple):
    """Which kernel does it, and how the output is cut into programs."""

    kernel: Kernel
    groups_per_block: int
    block_d: int
    block_p: int
    halo: int  # pixels by which neighbouring tiles overlap, on each side
    num_tiles: int  # of a sample's pixels


def conv_launch(
    n: int, height: int, width: int, channels: int, groups: int, kernel_size: int, stride: int, chip: launch.Chip
) -> ConvLaunch:
    """Tiles as large as registers allow, small enough to give every multiprocessor two.

    Args:
        n, height, width, channels, groups: of the output.
    """
    pixels, block_d = height * width, _block(channels // groups)
    count = 1
    while groups % (2 * count) == 0 and 2 * count * block_d <= BLOCK_CHANNELS:
        count *= 2
    kernel: Kernel = "rows" if kernel_size == 3 and stride == 1 else "any"
    # elsewhere inputs take registers as well, and a large tile leaves too few
    tile = COLUMNS_TILE if chip.capability in WARPGROUP_PRODUCTS else COLUMNS_TILE // 2
    if kernel == "rows" and n * pixels * (groups // count) >= tile * chip.num_sms * 3 // 4:
        num_tiles = launch.ceil_div(height * launch.ceil_div(width, 4), tile // 4)
        return ConvLaunch("columns", count, block_d, tile, 0, num_tiles)
    largest = ROWS_TILE if kernel == "rows" else ANY_TILE
    block_p = min(largest, max(16, launch.next_power_of_2(pixels)))
    while n * launch.ceil_div(pixels, block_p) * (groups // count) < chip.num_sms * 7 // 4:
        if block_p > 16:
            block_p //= 2
        elif count > 1:
            count //= 2
        else:
            break
    halo = int(kernel == "rows" and block_p % width != 0 and block_p < pixels)
    return ConvLaunch(kernel, count, block_d, block_p, halo, launch.ceil_div(pixels, block_p - 2 * halo))


def _block(channels: int) -> int:
    """A block that holds so many channels: matrix products take 16 at least."""
    return max(16, launch.next_power_of_2(channels))


def _out_size(x: Tensor, stride: int, upsample: bool) -> tuple[int, int]:
    """Height and width of the output."""
    height, width = (size * (2 if upsample else 1) for size in x.shape[2:])
    return (height - 1) // stride + 1, (width - 1) // stride + 1


def _launch_of(x: Tensor, weight: Tensor, stride: int, upsample: bool, groups: int) -> ConvLaunch:
    size = _out_size(x, stride, upsample)
    return conv_launch(len(x), *size, len(weight), groups, weight.size(2), stride, launch.chip_of(x.device))


def _input_blocks(c1: int, c2: int, norm_groups: int, widest: int) -> tuple[int, int, int]:
    """Channels a group, groups a block, and the block's size for a group, over the input channels."""
    if not norm_groups:  # any cut will do
        block = min(widest, _block(max(c1, c2)))
        return block, 1, block
    d = (c1 + c2) // norm_groups
    count, groups = 1, gcd(c1 // d, c2 // d)
    while groups % (2 * count) == 0 and 2 * count * _block(d) <= widest:
        count *= 2
    return d, count, _block(d)


def parameter_rows(parameter: Tensor | None) -> tuple[Tensor | None, int]:
    """scale or shift with neighbouring channels side by side, and the distance between samples."""
    if parameter is None:
        return None, 0
    parameter = parameter if parameter.stride(-1) == 1 else parameter.contiguous()
    return parameter, parameter.stride(0) if parameter.dim() == 2 else 0


def stats_of(norm: Norm, x: Tensor, x2: Tensor | None, impl: str) -> list[Tensor | None]:
    """Statistics of x and of x2 for the norm: those that it has, the others computed; None if there is no x2."""
    size = (x.size(1) + (0 if x2 is None else x2.size(1))) // norm.groups
    stats = []
    for given, value in ((norm.stats, x), (norm.stats2, x2)):
        if given is None and value is not None:
            given = group_norm_stats(value, value.size(1) // size, impl=impl)
        stats.append(None if given is None else given.contiguous())
    return stats


@launch.operator("diamond_fast::fused_conv")
def _fused_conv(
    x: Tensor, x2: Tensor | None, weight: Tensor, bias: Tensor | None,
    scale: Tensor | None, shift: Tensor | None, stats: Tensor | None, stats2: Tensor | None,
    norm_groups: int, eps: float,
    residual: Tensor | None, r: Tensor | None, r2: Tensor | None,
    projection: Tensor | None, projection_bias: Tensor | None, stride: int, upsample: bool, groups: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    config = _launch_of(x, weight, stride, upsample, groups)
    out, out_stats = _empty(x, weight, config, stride, upsample, groups)
    x, weight = channels_last(x), channels_last(weight)
    x2, residual, r, r2 = (None if t is None else channels_last(t) for t in (x2, residual, r, r2))
    (_, c1, h, w), c2 = x.shape, 0 if x2 is None else x2.size(1)
    r_channels = [0 if t is None else t.size(1) for t in (r, r2)]
    columns = config.kernel == "columns"
    widest = (COLUMNS_CHANNELS if columns else BLOCK_CHANNELS) * 2 // x.element_size()
    d, in_groups, block_d = _input_blocks(c1, c2, norm_groups, widest)
    further = (residual, r, r2, projection, projection_bias, out, out_stats)
    sizes = (h, w, out.size(3), out.size(2) * out.size(3), config.num_tiles)
    outputs = {
        "R1": r_channels[0], "R2": r_channels[1], "BLOCK_R": min(widest, _block(max(r_channels))),
        "OUT_C": len(weight), "OUT_D": len(weight) // groups, "OUT_GROUPS": config.groups_per_block,
        "OUT_BLOCK_D": config.block_d, "BLOCK_P": config.block_p, "ENLARGE": 2 if upsample else 1,
        "PRECISION": "ieee" if x.dtype == torch.float32 and not torch.backends.cudnn.allow_tf32 else "tf32",
    }  # fmt: skip
    grid = (len(x) * (groups // config.groups_per_block) * config.num_tiles,)
    if columns:
        conv_by_columns_kernel[grid](
            x, x2, weight, bias, *further, *sizes, C1=c1, C2=c2, WIDTH=in_groups * block_d, **outputs,
            num_warps=WARPS, num_stages=STAGES, enable_fp_fusion=True,
        )  # fmt: skip
        return out, out_stats
    (scale, scale_stride), (shift, shift_stride) = parameter_rows(scale), parameter_rows(shift)
    parts = [1 if s is None else s.size(2) for s in (stats, stats2)]
    kernel, constants = any_conv_kernel, {"KERNEL": weight.size(2), "STRIDE": stride}
    if config.kernel == "rows":
        kernel, constants = conv_by_rows_kernel, {"HALO": config.halo}
        if launch.chip_of(x.device).capability not in WARPGROUP_PRODUCTS:
            constants["maxnreg"] = ROWS_REGISTERS
    kernel[grid](
        x, x2, weight, bias, scale, shift, stats, stats2, *further, *sizes, *parts, scale_stride, shift_stride, eps,
        C1=c1, C2=c2, D=d, GROUPS=in_groups, BLOCK_D=block_d, **outputs,
        ADAPTIVE=scale is not None and scale.dim() == 2, BLOCK_PARTS=launch.next_power_of_2(max(parts)), **constants,
        num_warps=WARPS, num_stages=STAGES, enable_fp_fusion=True,
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
    config = _launch_of(x, weight, stride, upsample, groups)
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
    check(x, weight, bias, norm, residual, x2, stride, upsample, groups)
    if not use_triton(impl, x):
        return fused_conv_reference(x, weight, bias, norm, residual, x2, stride, upsample, groups)
    projection = residual if isinstance(residual, Projection) else None
    kept = None if isinstance(residual, Projection) else residual
    p = (None,) * 4 if projection is None else (projection.r, projection.r2, projection.weight, projection.bias)
    n: tuple = (None, None, None, None, 0, 1e-5)
    with torch.no_grad():
        if norm is not None and _launch_of(x, weight, stride, upsample, groups).kernel == "columns":
            normalise = ada_group_norm_silu if norm.scale.dim() == 2 else group_norm_silu
            more = {} if x2 is None else {"x2": x2, "stats2": norm.stats2}
            x = normalise(x, norm.scale, norm.shift, norm.groups, norm.eps, "silu", stats=norm.stats, impl=impl, **more)
            x2 = None
        elif norm is not None:
            n = (norm.scale, norm.shift, *stats_of(norm, x, x2, "triton"), norm.groups, float(norm.eps))
        return _fused_conv(x, x2, weight, bias, *n, kept, *p, stride, upsample, groups)


def check(
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
