"""Frames gathered from a device's copy of the replay, as the models see them.

    out[n, p] = slab[rows[n], p] / 255 * 2 - 1    where rows[n] >= 0
    out[n, p] = 0                                 where rows[n] < 0, the padding

slab: uint8 [S,H,W,C], every stored frame; rows: int64, any shape; p runs over the H*W*C bytes of a frame as they lie in
memory. One pass: a byte is read once and written once as float32, as `frames.to_float` gives it.
Nothing here has a gradient.
"""

import math

import torch
from torch import Tensor

from diamond_fast.frames import to_float
from diamond_fast.kernels import launch
from diamond_fast.kernels._triton import tl, triton
from diamond_fast.kernels.dispatch import check_tensors, use_triton

BLOCK = 4096
NUM_WARPS = 8  # 16 bytes a thread: one 128-bit load, four 128-bit stores

# 2/255 in two parts. The first has so few bits that a level times it is exact, so the sum of the two products is the
# quotient rounded to nearest, fused or not; a division that rounds so takes a slow path for every black pixel.
HIGH, LOW = float.fromhex("0x1.0102p-7"), float.fromhex("-0x1.fdfdfep-24")


def replay_gather_reference(slab: Tensor, rows: Tensor) -> Tensor:
    """What ``replay_gather`` computes, in torch."""
    return to_float(slab[rows.clamp(min=0)], rows >= 0)


@triton.jit
def _replay_gather_kernel(
    slab, rows, out, frame_bytes, HIGH: tl.constexpr, LOW: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """One program: BLOCK bytes of a frame."""
    frame = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + frame)
    is_stored = row >= 0
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    num_read = tl.where(is_stored, frame_bytes, 0)
    levels = tl.load(slab + row * frame_bytes + i, mask=i < num_read, other=0).to(tl.float32)
    obs = (levels * HIGH + levels * LOW) - 1.0
    tl.store(out + frame * frame_bytes + i, tl.where(is_stored, obs, 0.0), mask=i < frame_bytes)


@launch.operator("diamond_fast::replay_gather")
def _replay_gather(slab: Tensor, rows: Tensor) -> Tensor:
    frame_bytes = math.prod(slab.shape[1:])
    out = torch.empty((*rows.shape, *slab.shape[1:]), dtype=torch.float32, device=slab.device)
    if rows.numel() > 0:
        grid = (rows.numel(), launch.ceil_div(frame_bytes, BLOCK))
        _replay_gather_kernel[grid](
            slab, rows, out, frame_bytes, HIGH=HIGH, LOW=LOW, BLOCK=BLOCK, num_warps=NUM_WARPS
        )  # fmt: skip
    return out


@_replay_gather.register_fake
def _(slab, rows):
    return slab.new_empty((*rows.shape, *slab.shape[1:]), dtype=torch.float32)


def replay_gather(slab: Tensor, rows: Tensor, *, impl: str = "auto") -> Tensor:
    """The frames at rows, normalised; those at negative rows are exactly 0.0.

    Args:
        slab: uint8 [S,H,W,C], contiguous.
        rows: int64 [...], each below S (not checked on a GPU), contiguous.
        impl: ``auto``, ``triton`` or ``torch``.

    Returns:
        float32 [...,C,H,W]; in memory the channels stay last.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
    """
    check_tensors("slab", slab, (torch.uint8,), slab=slab)
    check_tensors("slab", slab, (torch.int64,), rows=rows)
    if slab.dim() != 4 or not slab.is_contiguous():
        raise ValueError(f"slab: expected a contiguous [S,H,W,C], got shape {tuple(slab.shape)}")
    if not rows.is_contiguous():
        raise ValueError(f"rows: expected to be contiguous, got strides {rows.stride()}")
    if use_triton(impl, slab):
        return _replay_gather(slab, rows).movedim(-1, -3)
    return replay_gather_reference(slab, rows)
