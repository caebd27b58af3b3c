"""Imagined trajectories against real ones, frame by frame, keeping errors and a few frames only."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from diamond_fast.engine.imagination import Sampler
from diamond_fast.evaluation.open_loop import imagined_frames, pixel_errors, seeded_randn
from diamond_fast.frames import to_float, to_uint8
from diamond_fast.replay import Replay
from diamond_fast.runs.durable import write_durably


class Trajectories(NamedTuple):
    errors: np.ndarray
    """float32 [S,K]: mean absolute difference of each imagined frame from the real one, in grey levels."""
    strip: np.ndarray
    """uint8 [P,H,W,C]: frames of the first trajectory at the pictured times."""

    def save(self, path: Path) -> None:
        """In full or not at all, errors in half precision (to a part in 2,000). Raises OSError."""
        content = io.BytesIO()
        np.savez_compressed(content, errors=self.errors.astype(np.float16), strip=self.strip)
        write_durably(path, content.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Trajectories":
        with np.load(path) as arrays:
            return cls(arrays["errors"].astype(np.float32), arrays["strip"])


def imagine(
    sampler: Sampler | None,
    replay: Replay,
    starts: list[tuple[int, int]],
    context: int,
    horizon: int,
    times: list[int],
    seed: int,
    batch_size: int,
    device: torch.device,
    advance: Callable[[int], None] = lambda frames: None,
) -> tuple[Trajectories, np.ndarray]:
    """Follow recorded actions from each start, and compare.

    Args:
        sampler: draws next frames; None: the last real frame is repeated, the baseline.
        starts: (episode, first step of the context).
        times: steps to picture, from 1 to ``horizon``.
        seed: of the noise.
        batch_size: trajectories imagined together; part of what decides the noise of each.
        advance: told how many frames are imagined, whenever some are.

    Returns:
        what was imagined, and the real frames [P,H,W,C] of its strip.
    """
    randn = seeded_randn(device, seed)
    errors, strip, real_strip = [], [], []
    for first in range(0, len(starts), batch_size):
        batch = replay.cut(starts[first : first + batch_size], context + horizon)
        real, act = batch.frames.numpy(), batch.act.to(device)
        seen = batch.frames[:, :context].to(device)
        if sampler is None:
            imagined = (real[:, context - 1] for _ in range(horizon))
        else:
            drawn = imagined_frames(sampler, to_float(seen), act, randn)
            imagined = (to_uint8(frame).cpu().numpy() for frame in drawn)
        errors.append(np.empty((len(real), horizon), np.float32))
        for k, frames in enumerate(imagined):
            errors[-1][:, k] = pixel_errors(real[:, context + k], frames)[0]
            if first == 0 and k + 1 in times:
                strip.append(frames[0])
                real_strip.append(real[0, context + k])
            advance(len(real))
    return Trajectories(np.concatenate(errors), np.stack(strip)), np.stack(real_strip)


def pictured_times(horizon: int) -> list[int]:
    """1, 10, 100 and so on, and what lies between: 8 steps at most, evenly on a logarithmic scale."""
    return sorted({round(t) for t in np.geomspace(1, horizon, min(8, horizon))})
