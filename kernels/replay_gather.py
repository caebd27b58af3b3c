"""Frames gathered from a device's copy of the replay, as the models see them.

    out[n, p] = slab[rows[n], p] / 255 * 2 - 1    where rows[n] >= 0
    out[n, p] = 0                                 where rows[n] < 0, the padding

slab: uint8 [S, H, W, C], every stored frame; rows: int64 [...]; p runs over the H*W*C bytes of a frame, as they lie in
memory. One pass: a byte is read once and written once as float32, bit for bit what `frames.to_float` gives.
"""

import math
from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from diamond_fast.frames import to_float

BLOCK = 4096
NUM_WARPS = 8  # 16 bytes a thread: one 128-bit load, four 128-bit stores

# 2/255 in two parts. The first has so few bits that a level times it is exact, so the sum of the two products is the
# quotient rounded to nearest, fused or not; a division that rounds so takes a slow path for every black pixel.
HIGH: tl.constexpr = tl.constexpr(float.fromhex("0x1.0102p-7"))
LOW: tl.constexpr = tl.constexpr(float.fromhex("-0x1.fdfdfep-24"))


def replay_gather_reference(slab: Tensor, rows: Tensor) -> Tensor:
    """The maths above, in torch: float32 [..., C, H, W]."""
    return to_float(slab[rows.clamp(min=0)], rows >= 0)


@triton.jit
def replay_gather_kernel(slab, rows, out, frame_bytes, BLOCK: tl.constexpr):
    frame = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + frame)
    is_stored = row >= 0
    offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    num_read = tl.where(is_stored, frame_bytes, 0)
    levels = tl.load(slab + row * frame_bytes + offsets, mask=offsets < num_read, other=0)
    levels = levels.to(tl.float32)
    obs = (levels * HIGH + levels * LOW) - 1.0
    tl.store(out + frame * frame_bytes + offsets, tl.where(is_stored, obs, 0.0), mask=offsets < frame_bytes)


@torch.library.custom_op("diamond_fast::replay_gather", mutates_args=())
def _replay_gather(slab: Tensor, rows: Tensor) -> Tensor:
    frame_bytes = math.prod(slab.shape[1:])
    out = torch.empty((*rows.shape, *slab.shape[1:]), dtype=torch.float32, device=slab.device)
    if rows.numel() > 0:
        grid = (rows.numel(), triton.cdiv(frame_bytes, BLOCK))
        replay_gather_kernel[grid](slab, rows, out, frame_bytes, BLOCK=BLOCK, num_warps=NUM_WARPS)
    return out


@_replay_gather.register_fake
def _(slab: Tensor, rows: Tensor) -> Tensor:
    return slab.new_empty((*rows.shape, *slab.shape[1:]), dtype=torch.float32)


def replay_gather(slab: Tensor, rows: Tensor, impl: Literal["auto", "triton", "torch"] = "auto") -> Tensor:
    """Returns the frames at rows, normalised; those at negative rows are exactly 0.0.

    Args:
        slab: uint8 [S, H, W, C], contiguous.
        rows: int64 [...], below S, contiguous, on the slab's device.
        impl: auto: triton on a GPU, torch elsewhere.

    Returns:
        float32 [..., C, H, W]; in memory the channels stay last.

    Raises:
        TypeError, ValueError: an argument has another dtype, layout or device.
    """
    if slab.dtype != torch.uint8 or rows.dtype != torch.int64:
        raise TypeError(f"slab, rows: expected uint8 and int64, got {slab.dtype} and {rows.dtype}")
    if slab.dim() != 4 or not slab.is_contiguous() or not rows.is_contiguous():
        raise ValueError(f"slab, rows: expected contiguous [S, H, W, C] and [...], got {list(slab.shape)}")
    if slab.device != rows.device:
        raise ValueError(f"rows: expected on {slab.device}, got {rows.device}")
    if impl == "torch" or (impl == "auto" and not slab.is_cuda):
        return replay_gather_reference(slab, rows)
    return _replay_gather(slab, rows).movedim(-1, -3)
