"""A copy of the stored frames on a device, so that frames cross the bus once and not in every batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diamond_fast import _replay
from diamond_fast.kernels.replay_gather import replay_gather


class DeviceMirror:
    """All frames of a buffer in the memory of a device, 12 kB each at 64x64x3; it grows as the buffer does.

    Give it to `Replay.segments`: batches then come without frames, and `Batch.obs` gathers and normalises them here.
    One consumer thread and one stream.
    """

    def __init__(self, store: _replay.Store, frame_shape: tuple[int, int, int], device: torch.device | str) -> None:
        """Made by `Replay.mirror`."""
        self._store = store
        self._mirrored = [0] * store.num_envs  # slots per environment
        self._row_of_slot = np.full(store.num_slots + 1, -1, np.int64)  # the last is what padding, slot -1, finds
        self._num_rows = 0
        self._frames = torch.empty((0, *frame_shape), dtype=torch.uint8, device=device)

    def update(self) -> None:
        """Takes over the frames stored since the last call."""
        for env, before in enumerate(self._mirrored):
            now = self._store.env_used(env)
            if now > before:
                first = self._store.env_start(env) + before
                self._append(first, self._store.slots(first, now - before)[0])
                self._mirrored[env] = now

    def to_rows(self, slots: Tensor) -> None:
        """Replaces slots of the buffer, int64 on the CPU, by rows of the mirror; -1 stays -1."""
        array = slots.numpy()
        array[...] = self._row_of_slot[array]

    def obs(self, rows: Tensor) -> Tensor:
        """Returns float32 [..., C, H, W]: the frames at rows, int64 [...], in [-1, 1]; 0.0 if a row is -1."""
        return replay_gather(self._frames, rows.to(self._frames.device, non_blocking=True))

    def _append(self, first_slot: int, frames: np.ndarray) -> None:
        first_row, self._num_rows = self._num_rows, self._num_rows + len(frames)
        if self._num_rows > len(self._frames):
            larger = self._frames.new_empty((max(2 * len(self._frames), self._num_rows), *self._frames.shape[1:]))
            larger[:first_row] = self._frames[:first_row]
            self._frames = larger
        rows = slice(first_row, self._num_rows)
        self._frames[rows] = torch.from_numpy(frames).view(-1, *self._frames.shape[1:]).to(self._frames.device)
        self._row_of_slot[first_slot : first_slot + len(frames)] = np.arange(first_row, self._num_rows)
