"""Frames as bytes to what the models see, in one pass.

    out[n, p] = frames[n, p] / 255 * 2 - 1    if frame n is real
    out[n, p] = 0                             if it is padding

frames: uint8 [...,H,W,C]; n runs over the frames, p over the H*W*C bytes of each as they lie in memory. A byte is read
once, a float32 written once; torch takes five passes over the floats for the same. Nothing here has a gradient.
"""

import math

import torch
from torch import Tensor

from diamond_fast.frames import to_float as frames_to_float_reference
from diamond_fast.kernels import launch
from diamond_fast.kernels._triton import tl, triton
from diamond_fast.kernels.dispatch import check_shape, check_tensors, use_triton

BLOCK = 4096
NUM_WARPS = 8  # 16 bytes a thread: one 128-bit load, four 128-bit stores

# 2/255 in two parts. The first has so few bits that a level times it is exact, so the sum of the two products is the
# quotient rounded to nearest, fused or not; a division that rounds so takes a slow path for every black pixel.
HIGH, LOW = float.fromhex("0x1.0102p-7"), float.fromhex("-0x1.fdfdfep-24")


@triton.jit
def _frames_to_float_kernel(
    frames, mask, out, frame_bytes, HIGH: tl.constexpr, LOW: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """One program: BLOCK bytes of a frame. A mask that is None is left out at compile time."""
    frame = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    num_real = frame_bytes
    if mask is not None:
        num_real = tl.where(tl.load(mask + frame) != 0, frame_bytes, 0)
    levels = tl.load(frames + frame * frame_bytes + i, mask=i < num_real, other=0).to(tl.float32)
    obs = (levels * HIGH + levels * LOW) - 1.0
    tl.store(out + frame * frame_bytes + i, tl.where(i < num_real, obs, 0.0), mask=i < frame_bytes)


@launch.operator("diamond_fast::frames_to_float")
def _frames_to_float(frames: Tensor, mask: Tensor | None) -> Tensor:
    num_frames, frame_bytes = math.prod(frames.shape[:-3]), math.prod(frames.shape[-3:])
    out = torch.empty(frames.shape, dtype=torch.float32, device=frames.device)
    if frames.numel() > 0:
        _frames_to_float_kernel[(num_frames, launch.ceil_div(frame_bytes, BLOCK))](
            frames.contiguous(), None if mask is None else mask.contiguous().view(torch.uint8), out, frame_bytes,
            HIGH=HIGH, LOW=LOW, BLOCK=BLOCK, num_warps=NUM_WARPS,
        )  # fmt: skip
    return out


@_frames_to_float.register_fake
def _(frames, mask):
    return torch.empty(frames.shape, dtype=torch.float32, device=frames.device)


def frames_to_float(frames: Tensor, mask: Tensor | None = None, *, impl: str = "auto") -> Tensor:
    """Returns frames / 255 * 2 - 1, with frames outside the mask exactly 0.0. The same bits as ``frames.to_float``.

    Args:
        frames: uint8 [...,H,W,C]. If it is not contiguous, it is copied first.
        mask: bool [...], True if a frame is real; None if all are.
        impl: ``auto``, ``triton`` or ``torch``.

    Returns:
        float32 [...,C,H,W]; in memory the channels stay last.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
    """
    check_tensors("frames", frames, (torch.uint8,), frames=frames)
    check_tensors("frames", frames, (torch.bool,), mask=mask)
    if frames.dim() < 3:
        raise ValueError(f"frames: expected shape [...,H,W,C], got {tuple(frames.shape)}")
    check_shape("mask", mask, tuple(frames.shape[:-3]), "that of frames without H, W, C")
    if use_triton(impl, frames):
        return _frames_to_float(frames, mask).movedim(-1, -3)
    return frames_to_float_reference(frames, mask)
