"""A batch of segments."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diamond_fast import _replay
from diamond_fast.frames import to_float

if TYPE_CHECKING:  # the mirror needs Triton, a batch alone does not
    from diamond_fast.replay.mirror import DeviceMirror


@dataclass(frozen=True)
class Batch:
    """B segments of L steps. Outside an episode everything is 0 and both masks are False."""

    frames: Tensor | None
    """uint8 [B, L, H, W, C]: the frames the actions were taken at, and the final observation after a last step.
    None where a device mirror holds them."""
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
    slot: Tensor
    """int64 [B, L]: where each frame is stored, in the device mirror if there is one; -1 at padding."""
    block: Tensor = field(repr=False)
    """uint8: the one piece of memory all arrays are views of, so that it moves to a device in one copy."""
    layout: _replay.BatchLayout = field(repr=False)
    mirror: DeviceMirror | None = field(default=None, repr=False)

    @staticmethod
    def unpack(
        block: Tensor,
        layout: _replay.BatchLayout,
        frame_shape: tuple[int, int, int],
        mirror: DeviceMirror | None = None,
    ) -> Batch:
        """Returns the batch whose arrays are views of block, uint8 [layout.num_bytes]."""
        length = layout.seq_length
        rows, steps = (layout.batch_size,), (layout.batch_size, length)
        shape = steps + frame_shape
        frame_strides = tuple(math.prod(shape[i + 1 :]) for i in range(5))
        # as_strided on one view per dtype: this runs for every batch, and slicing nine times takes three times as long
        as_bool, as_float, as_int = (block.view(dtype) for dtype in (torch.bool, torch.float32, torch.int64))

        return Batch(
            frames=block.as_strided(shape, frame_strides, layout.frames) if layout.frame_bytes else None,
            pixel_mask=as_bool.as_strided(steps, (length, 1), layout.pixel_mask),
            act=as_int.as_strided(steps, (length, 1), layout.act // 8),
            rew=as_float.as_strided(steps, (length, 1), layout.rew // 4),
            end=as_bool.as_strided(steps, (length, 1), layout.end),
            trunc=as_bool.as_strided(steps, (length, 1), layout.trunc),
            mask_padding=as_bool.as_strided(steps, (length, 1), layout.mask_padding),
            episode=as_int.as_strided(rows, (1,), layout.episode // 8),
            start=as_int.as_strided(rows, (1,), layout.start // 8),
            slot=as_int.as_strided(steps, (length, 1), layout.slot // 8),
            block=block,
            layout=layout,
            mirror=mirror,
        )

    def to(self, device: torch.device | str) -> Batch:
        """Returns the batch on a device; from pinned memory the copy does not wait."""
        frame_shape = () if self.frames is None else tuple(self.frames.shape[2:])
        return Batch.unpack(self.block.to(device, non_blocking=True), self.layout, frame_shape, self.mirror)

    def obs(self) -> Tensor:
        """Returns float32 [B, L, C, H, W] in [-1, 1]; padding is exactly 0.0."""
        if self.mirror is not None:
            return self.mirror.obs(self.slot)
        return to_float(self.frames, self.pixel_mask)
