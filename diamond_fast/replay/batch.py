"""A batch of segments."""

from __future__ import annotations

import math
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diamond_fast import _replay
from diamond_fast.frames import to_float
from diamond_fast.spec import Action


class Form(NamedTuple):
    """What the batches that are drawn from a buffer with the same sizes have in common."""

    layout: _replay.BatchLayout
    frame_shape: tuple[int, int, int]
    action: Action
    full_shape: tuple[int, int, int] | None = None


class Batch:
    """B segments of L steps. Outside an episode everything is 0 and both masks are False.

    All arrays are views, made when first asked for, of one block of memory, so that a batch moves to a device in one
    copy. The block is used again for a later batch once nothing refers to it any more.
    """

    def __init__(self, block: Tensor, form: Form, part: slice = slice(None)) -> None:
        """Wraps a filled block, uint8 [layout.num_bytes], of which ``part`` says which segments count."""
        self._block, self._form, self._part = block, form, part
        self._layout = layout = form.layout
        self._rows = (layout.batch_size,)
        self._steps = (layout.batch_size, layout.seq_length)

    @cached_property
    def frames(self) -> Tensor:
        """uint8 [B, L, H, W, C]: the frames the actions were taken at, and the final observation after a last step."""
        return self._view(self._layout.frames, torch.uint8, self._steps + self._form.frame_shape)

    @cached_property
    def full_frames(self) -> Tensor | None:
        """uint8 [B, L, H, W, C]: the same frames in the recording's other size; None if they were not asked for."""
        if self._layout.full_bytes == 0 or self._form.full_shape is None:
            return None
        return self._view(self._layout.full, torch.uint8, self._steps + self._form.full_shape)

    @cached_property
    def pixel_mask(self) -> Tensor:
        """bool [B, L]: a frame is stored here, a step's or the final observation."""
        return self._view(self._layout.pixel_mask, torch.bool, self._steps)

    @cached_property
    def act(self) -> Tensor:
        """[B, L, ...] of the dtype and shape of the replay's action: int64 [B, L] if one of several is chosen."""
        dtype = torch.from_numpy(np.empty(0, self._form.action.dtype)).dtype
        return self._view(self._layout.act, dtype, self._steps + self._form.action.shape)

    @cached_property
    def rew(self) -> Tensor:
        """float32 [B, L], as the environment gave them."""
        return self._view(self._layout.rew, torch.float32, self._steps)

    @cached_property
    def end(self) -> Tensor:
        """bool [B, L]: the step ended the episode."""
        return self._view(self._layout.end, torch.bool, self._steps)

    @cached_property
    def trunc(self) -> Tensor:
        """bool [B, L]: the step cut the episode off."""
        return self._view(self._layout.trunc, torch.bool, self._steps)

    @cached_property
    def mask_padding(self) -> Tensor:
        """bool [B, L]: a real step."""
        return self._view(self._layout.mask_padding, torch.bool, self._steps)

    @cached_property
    def episode(self) -> Tensor:
        """int64 [B]: the episode a segment was cut from."""
        return self._view(self._layout.episode, torch.int64, self._rows)

    @cached_property
    def start(self) -> Tensor:
        """int64 [B]: the segment's first step in its episode; below 0 if it begins with padding."""
        return self._view(self._layout.start, torch.int64, self._rows)

    @property
    def num_bytes(self) -> int:
        """What moves to a device."""
        return self._layout.num_bytes

    def to(self, device: torch.device | str) -> Batch:
        """Returns the batch on a device; from pinned memory the copy does not wait."""
        return Batch(self._block.to(device, non_blocking=True), self._form, self._part)

    def obs(self) -> Tensor:
        """Returns float32 [B, L, C, H, W] in [-1, 1]; padding is exactly 0.0."""
        return to_float(self.frames, self.pixel_mask)

    def full_obs(self) -> Tensor:
        """Returns float32 [B, L, C, H, W] in [-1, 1] of ``full_frames``, as `obs` does.

        Raises:
            ValueError: they were not asked for.
        """
        if self.full_frames is None:
            raise ValueError("full: the batch was drawn without frames of the other size")
        return to_float(self.full_frames, self.pixel_mask)

    def _view(self, offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        return self._block[offset : offset + math.prod(shape) * dtype.itemsize].view(dtype).view(shape)[self._part]
