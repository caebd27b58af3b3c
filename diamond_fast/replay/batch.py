"""A batch of segments."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diamond_fast import _replay
from diamond_fast.frames import to_float


@dataclass(frozen=True)
class Batch:
    """B segments of L steps. Outside an episode everything is 0 and both masks are False."""

    frames: Tensor
    """uint8 [B, L, H, W, C]: the frames the actions were taken at, and the final observation after a last step."""
    pixel_mask: Tensor
    """bool [B, L]: a frame is stored here, a step's or the final observation."""
    act: Tensor
    """int64 [B, L]."""
    rew: Tensor
    """float32 [B, L], as the environment gave them."""
    end: Tensor
    """bool [B, L]: the step ended the episode."""
    trunc: Tensor
    """bool [B, L]: the step cut the episode off."""
    mask_padding: Tensor
    """bool [B, L]: a real step."""
    episode: Tensor
    """int64 [B]: the episode a segment was cut from."""
    start: Tensor
    """int64 [B]: the segment's first step in its episode; below 0 where it begins with padding."""
    packed: tuple[Tensor, _replay.BatchLayout] | None = field(default=None, repr=False)
    """The one block of memory all arrays are views of, where there is one: it moves to a device in one copy."""

    @staticmethod
    def unpack(block: Tensor, layout: _replay.BatchLayout, frame_shape: tuple[int, int, int]) -> Batch:
        """Returns the batch whose arrays are views of block, uint8 [layout.num_bytes]."""
        length = layout.seq_length
        rows, steps = (layout.batch_size,), (layout.batch_size, length)
        shape = steps + frame_shape
        frame_strides = tuple(math.prod(shape[i + 1 :]) for i in range(5))
        # as_strided on one view per dtype: this runs for every batch, and slicing nine times takes three times as long
        as_bool, as_float, as_int = (block.view(dtype) for dtype in (torch.bool, torch.float32, torch.int64))

        return Batch(
            frames=block.as_strided(shape, frame_strides, layout.frames),
            pixel_mask=as_bool.as_strided(steps, (length, 1), layout.pixel_mask),
            act=as_int.as_strided(steps, (length, 1), layout.act // 8),
            rew=as_float.as_strided(steps, (length, 1), layout.rew // 4),
            end=as_bool.as_strided(steps, (length, 1), layout.end),
            trunc=as_bool.as_strided(steps, (length, 1), layout.trunc),
            mask_padding=as_bool.as_strided(steps, (length, 1), layout.mask_padding),
            episode=as_int.as_strided(rows, (1,), layout.episode // 8),
            start=as_int.as_strided(rows, (1,), layout.start // 8),
            packed=(block, layout),
        )

    def to(self, device: torch.device | str) -> Batch:
        """Returns the batch on a device; from pinned memory the copy does not wait."""
        if self.packed is not None:
            block, layout = self.packed
            return Batch.unpack(block.to(device, non_blocking=True), layout, tuple(self.frames.shape[2:]))
        return Batch(**{name: t.to(device, non_blocking=True) for name, t in vars(self).items() if name != "packed"})

    def obs(self) -> Tensor:
        """Returns float32 [B, L, C, H, W] in [-1, 1]; padding is exactly 0.0."""
        return to_float(self.frames, self.pixel_mask)
