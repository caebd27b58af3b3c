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
        rows, steps = (layout.batch_size,), (layout.batch_size, layout.seq_length)

        def view(offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
            return block[offset : offset + math.prod(shape) * dtype.itemsize].view(dtype).view(shape)

        return Batch(
            frames=view(layout.frames, torch.uint8, steps + frame_shape),
            pixel_mask=view(layout.pixel_mask, torch.bool, steps),
            act=view(layout.act, torch.int64, steps),
            rew=view(layout.rew, torch.float32, steps),
            end=view(layout.end, torch.bool, steps),
            trunc=view(layout.trunc, torch.bool, steps),
            mask_padding=view(layout.mask_padding, torch.bool, steps),
            episode=view(layout.episode, torch.int64, rows),
            start=view(layout.start, torch.int64, rows),
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
