"""``fused_conv`` for 3x3 in bfloat16 on Hopper GPUs (H100, H200): norm and SiLU in front, at any size of map.

What it computes is described in fused_conv.py. There the norm of large maps is a pass of its own, as every pixel would
be normalised several times. Here (hopper_conv.cu) a tile's pixels are normalised once, and multiplied where they lie in
shared memory. That takes instructions which only CUDA C++ reaches, so it is compiled on the user's machine by NVRTC,
the compiler that torch brings along. There are no gradients.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diamond_fast.kernels import launch
from diamond_fast.kernels._nvrtc import Function, compiled
from diamond_fast.kernels.dispatch import channels_last
from diamond_fast.kernels.fused_conv import (
    Norm,
    Projection,
    check,
    fused_conv_reference,
    parameter_rows,
    stats_of,
)

hopper_conv_reference = fused_conv_reference

CAPABILITY = 90
GROUP_CHANNELS = 32
CHANNELS = 64  # inputs and outputs have a multiple of it, or GROUP_CHANNELS all of them
SHARED_BYTES = 232_448 - 4096  # that a block of threads may have, but for what the kernel has itself
TAP_BYTES = CHANNELS * CHANNELS * 2
PIXEL_BYTES = CHANNELS * 2
FEW_PIXELS, SMALL_MAP = 4096, 1024  # with fewer in all, on maps smaller than this, an H200 does ``fused_conv`` faster
MIN_MULTIPROCESSORS = 7 / 8  # large tiles are taken if they give so many of them work


class Tiles(NamedTuple):
    """How work is cut: a warpgroup has ``pixels`` in eight columns, a unit of warpgroups a tile, a block some units."""

    pixels: int
    warpgroups: int
    units: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a tile."""
        return self.pixels // 8, 8 * self.warpgroups

    def in_image(self, height: int, width: int) -> int:
        h, w = self.size
        return launch.ceil_div(height, h) * launch.ceil_div(width, w)

    def shared_bytes(self, taps: int, residual: bool) -> int:
        """Weights of all taps, and for each unit a tile's inputs and, if a residual is given, its outputs."""
        h, w = self.size
        inputs = launch.ceil_div((h + 2) * (w + 2) * PIXEL_BYTES, 1024) * 1024
        return taps * TAP_BYTES + self.units * (inputs + residual * h * w * PIXEL_BYTES) + 1024


ONE_STEP = Tiles(128, 2, 2), Tiles(64, 2, 2), Tiles(64, 1, 1)
"""From large to small, as an H200 does them fastest."""
SEVERAL_STEPS = Tiles(128, 1, 3), Tiles(128, 1, 2), Tiles(64, 2, 2), Tiles(64, 1, 1)


def conv_tiles(n: int, height: int, width: int, steps: int, taps: int, residual: bool, num_sms: int) -> Tiles | None:
    """The largest tiles that leave few multiprocessors without work; None if not even the smallest have room.

    Args:
        n, height, width: of the output.
        steps: of 64 input channels or 32, those of a projection included; taps: of all of them.
    """
    fitting = [t for t in (ONE_STEP if steps == 1 else SEVERAL_STEPS) if t.shared_bytes(taps, residual) <= SHARED_BYTES]
    for tiles in fitting:
        if n * tiles.in_image(height, width) >= MIN_MULTIPROCESSORS * num_sms * tiles.units:
            return tiles
    return fitting[-1] if fitting else None


def _channels(*tensors: Tensor | None) -> list[int]:
    return [0 if t is None else t.size(1) for t in tensors]


def of_a_step(weight: Tensor) -> int:
    """Input channels that a step multiplies, and outputs of a block of threads."""
    return min(CHANNELS, len(weight))


def can_do(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: Norm | None = None,
    residual: Tensor | Projection | None = None,
    x2: Tensor | None = None,
    stride: int = 1,
    upsample: bool = False,
    groups: int = 1,
) -> bool:
    """Whether ``hopper_conv`` can compute this on the device of x; arguments as for it, and checked."""
    if not x.is_cuda or launch.chip_of(x.device).capability != CAPABILITY or x.dtype != torch.bfloat16:
        return False
    projection = residual if isinstance(residual, Projection) else None
    parameters = [bias, *(norm[:2] if norm else ()), *(projection[1:2] if projection else ())]
    pieces = [len(weight), *_channels(x, x2, *(projection[2:] if projection else ()))]
    return (
        weight.size(2) == 3
        and stride == 1
        and all(p is None or p.dtype == x.dtype for p in parameters)
        and (all(c % CHANNELS == 0 for c in pieces) or all(c in (0, GROUP_CHANNELS) for c in pieces))
        and len(weight) // groups == GROUP_CHANNELS
        and (norm is None or sum(_channels(x, x2)) // norm.groups == GROUP_CHANNELS)
        and _tiles_of(x, weight, residual, upsample, x2) is not None
    )


def pays(x: Tensor, upsample: bool = False) -> bool:
    """Whether x [N,C,H,W] is enough work for ``hopper_conv`` to be faster than ``fused_conv``."""
    pixels = x.size(2) * x.size(3) * (4 if upsample else 1)
    return pixels >= SMALL_MAP or len(x) * pixels >= FEW_PIXELS


def _tiles_of(
    x: Tensor, weight: Tensor, residual: Tensor | Projection | None, upsample: bool, x2: Tensor | None
) -> Tiles | None:
    conv = sum(_channels(x, x2)) // of_a_step(weight)
    projected = sum(_channels(*residual[2:])) // of_a_step(weight) if isinstance(residual, Projection) else 0
    height, width = (size * (2 if upsample else 1) for size in x.shape[2:])
    num_sms = launch.chip_of(x.device).num_sms // (len(weight) // of_a_step(weight)) or 1
    given = isinstance(residual, Tensor)
    return conv_tiles(len(x), height, width, conv + projected, 9 * conv + projected, given, num_sms)


# Compiling and launching


def source(pixels: int) -> str:
    """The kernel's source, with the product of 64 outputs and so many pixels written out."""
    count = pixels // 2  # float32 registers of a thread
    registers = ", ".join(f"%{i}" for i in range(count))
    held = ", ".join(f'"+f"(d[{i}])' for i in range(count))
    instruction = f"wgmma.mma_async.sync.aligned.m64n{pixels}k16.f32.bf16.bf16"
    product = (
        "__device__ __forceinline__ void product(float* d, u64 a, u64 b) {\n"
        f'    asm volatile("{instruction} {{{registers}}}, %{count}, %{count + 1}, 1, 1, 1, 0, 0;"\n'
        f'        : {held} : "l"(a), "l"(b));\n'
        "}\n"
    )
    hold = f'asm volatile("" : {held.replace("d[", "acc[")} :: "memory");'
    text = Path(__file__).with_suffix(".cu").read_text(encoding="utf-8")
    return text.replace("WGMMA", product, 1).replace("HOLD", hold, 1)


def constants(
    tiles: Tiles, channels: int, c: list[int], r: list[int], upsample: bool, norm: bool, adaptive: bool, residual: bool
) -> dict[str, object]:
    """What the kernel is compiled for."""
    return {
        "CH": channels, "C1": c[0], "C2": c[1], "R1": r[0], "R2": r[1], "NT": tiles.pixels,
        "WARPGROUPS": tiles.warpgroups, "UNITS": tiles.units,
        "ENLARGE": 2 if upsample else 1, "NORM": int(norm), "ADAPTIVE": f"{int(adaptive)}.0f",
        "RESIDUAL": int(residual),
    }  # fmt: skip


@cache
def _function(device: int, pixels: int, shared_bytes: int, given: tuple[tuple[str, object], ...]) -> Function:
    """The kernel on a device, which has to be the current one."""
    return Function(compiled(source(pixels), "sm_90a", dict(given)), "hopper_conv", shared_bytes)


def _aligned(x: Tensor) -> Tensor:
    """[N,C,H,W], channels last, beginning at an address that 16 bytes can be read from."""
    x = channels_last(x)
    return x if x.data_ptr() % 16 == 0 else x.clone()


def _pointer(x: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(0 if x is None else x.data_ptr())


@launch.operator("diamond_fast::hopper_conv")
def _hopper_conv(
    x: Tensor, x2: Tensor | None, weight: Tensor, bias: Tensor | None,
    scale: Tensor | None, shift: Tensor | None, stats: Tensor | None, stats2: Tensor | None, eps: float,
    residual: Tensor | None, r: Tensor | None, r2: Tensor | None,
    projection: Tensor | None, projection_bias: Tensor | None, upsample: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    added = residual if projection is None else Projection(projection, projection_bias, r, r2)
    tiles = _tiles_of(x, weight, added, upsample, x2)
    assert tiles is not None
    out, out_stats = _empty(x, weight, upsample, tiles)
    x, weight = _aligned(x), _aligned(weight)
    x2, residual, r, r2, projection = (None if t is None else _aligned(t) for t in (x2, residual, r, r2, projection))
    (scale, scale_stride), (shift, shift_stride) = parameter_rows(scale), parameter_rows(shift)
    c, projected = _channels(x, x2), _channels(r, r2)
    channels = of_a_step(weight)
    shared_bytes = tiles.shared_bytes((9 * sum(c) + sum(projected)) // channels, residual is not None)
    adaptive = scale is not None and scale.dim() == 2
    given = constants(tiles, channels, c, projected, upsample, scale is not None, adaptive, residual is not None)
    function = _function(x.device.index, tiles.pixels, shared_bytes, tuple(given.items()))
    tensors = (x, x2, weight, bias, scale, shift, stats, stats2, residual, r, r2, projection, projection_bias)
    parts = [1 if s is None else s.size(2) for s in (stats, stats2)]
    numbers = (len(x), *out.shape[2:], len(weight), *parts, scale_stride, shift_stride)
    arguments: list[Any] = [
        *map(_pointer, (*tensors, out, out_stats)),
        *map(ctypes.c_int, numbers),
        ctypes.c_float(eps),
    ]
    blocks = len(weight) // channels
    of_tiles = launch.ceil_div(len(x) * tiles.in_image(*out.shape[2:]), tiles.units)
    grid = min(of_tiles, max(1, launch.chip_of(x.device).num_sms // blocks)), blocks
    # A kernel that begins early reads weights before what is in front of it has ended. In a graph that is none that
    # writes weights.
    early = torch.cuda.is_current_stream_capturing()
    function.launch(grid, 128 * tiles.warpgroups * tiles.units, arguments, early=early)
    return out, out_stats


def _empty(x: Tensor, weight: Tensor, upsample: bool, tiles: Tiles) -> tuple[Tensor, Tensor]:
    """The output and its statistics, not filled yet."""
    n, o, (h, w) = len(x), len(weight), (size * (2 if upsample else 1) for size in x.shape[2:])
    stats = x.new_empty((n, o // GROUP_CHANNELS, tiles.in_image(h, w), 3), dtype=torch.float32)
    return x.new_empty((n, h, w, o)).permute(0, 3, 1, 2), stats


@_hopper_conv.register_fake
def _(
    x, x2, weight, bias, scale, shift, stats, stats2, eps, residual, r, r2, projection, projection_bias, upsample
):  # fmt: skip
    added = residual if projection is None else Projection(projection, projection_bias, r, r2)
    return _empty(x, weight, upsample, _tiles_of(x, weight, added, upsample, x2))


def hopper_conv(
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

    Arguments and results are those of ``fused_conv``, but for impl: ``auto``, ``cuda`` or ``torch``. ``auto`` takes the
    kernel where ``can_do`` says so.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
        OSError, RuntimeError: the kernel cannot be compiled or launched.
    """
    check(x, weight, bias, norm, residual, x2, stride, upsample, groups)
    if impl not in ("auto", "cuda", "torch"):
        raise ValueError(f"impl: expected 'auto', 'cuda' or 'torch', got {impl!r}")
    able = impl != "torch" and can_do(x, weight, bias, norm, residual, x2, stride, upsample, groups)
    if impl == "cuda" and not able:
        fits = "3x3 in bfloat16 on a Hopper GPU, 32 channels or multiples of 64, groups of 32"
        raise ValueError(f"impl: 'cuda' is for {fits}")
    if not able:
        return hopper_conv_reference(x, weight, bias, norm, residual, x2, stride, upsample, groups)
    p = residual if isinstance(residual, Projection) else None
    projected = (None,) * 4 if p is None else (p.r, p.r2, p.weight, p.bias)
    n: tuple = (None, None, None, None, 1e-5)
    with torch.no_grad():
        if norm is not None:
            n = (norm.scale, norm.shift, *stats_of(norm, x, x2, "auto"), float(norm.eps))
        return _hopper_conv(x, x2, weight, bias, *n, residual if p is None else None, *projected, upsample)
