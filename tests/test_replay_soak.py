"""A million samples: memory, file handles and threads stay as they are."""

import os
from pathlib import Path

import numpy as np
import pytest

from diamond_fast.replay import Replay

FRAME_SHAPE = (64, 64, 3)
BATCH_SIZE = 32


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def handles_and_threads() -> tuple[int, int]:
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_million_samples(tmp_path):
    """With a commit every 100 batches, a state saved and loaded, and now and then a reopened journal."""
    path, rng = tmp_path / "journal", np.random.default_rng(0)
    frames = rng.integers(0, 256, (16, 1, *FRAME_SHAPE), np.uint8)
    no, zero = np.array([False]), np.zeros(1, np.float32)
    replay = Replay.open(path, FRAME_SHAPE, capacity=10_000)
    steps = 0

    def collect(num_steps: int) -> None:
        nonlocal steps
        for _ in range(num_steps):
            end = np.array([steps % 97 == 96])
            replay.append(frames[steps % 16], np.array([steps]), zero, end, no, frames[0])
            steps += 1
        replay.commit()

    def sample(num_batches: int) -> None:
        for _ in range(num_batches):
            batch = next(segments)
            assert (batch.act[:, -1] < steps).all()
            assert batch.mask_padding.any()

    collect(4000)
    segments = replay.segments(BATCH_SIZE, 6, (0.1, 0.1, 0.1, 0.7), num_threads=2)
    sample(2000)
    memory, handles = resident_bytes(), handles_and_threads()
    for i in range(1_000_000 // BATCH_SIZE // 100):
        sample(100)
        segments.load_state_dict(segments.state_dict())
        if i % 10 == 0:
            collect(10)
        if i % 100 == 99:
            replay.close()
            replay = Replay.open(path, FRAME_SHAPE, capacity=10_000)
            segments = replay.segments(BATCH_SIZE, 6, (0.1, 0.1, 0.1, 0.7), num_threads=2)
            sample(10)
    new_frames = (steps - 4000) * 64 * 64 * 3
    assert handles_and_threads() == handles
    assert resident_bytes() - memory < new_frames + 64e6  # a reopened buffer beside the one it replaces, and slack
