"""Batches a second against a plain NumPy gather and the machine's memcpy limit; size and opening time on disk.

pytest benchmarks/test_replay.py --benchmark-only
"""

import ctypes
import itertools
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from workloads import PAPER, noise_replay

from diamond_fast.domains.environments import make_real_env
from diamond_fast.replay import Replay

NUM_STEPS = 100_000
EPISODE_STEPS = 1_000
FRAME_SHAPE = (64, 64, 3)
FRAME_BYTES = 64 * 64 * 3
BATCH_SIZE = 32
QUARTERS = (0.1, 0.1, 0.1, 0.7)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def full_replay(effort) -> Replay:
    return noise_replay(PAPER, 2_000 if effort == "tiny" else NUM_STEPS, EPISODE_STEPS)


@pytest.mark.parametrize("seq_length", [19, 6])
def test_batches(measure, full_replay, seq_length):
    """memcpy and the first gather move frames alone, the second a batch without masks and padding, ours whole batches.

    Two of ours: drawn when asked for, and by a thread that works ahead.
    """
    num_steps, episode = full_replay.num_steps, full_replay.episode(0)
    columns = [  # the whole buffer: episodes lie one after another
        np.lib.stride_tricks.as_strided(array, (num_steps, *array.shape[1:]), writeable=False)
        for array in (episode.obs, episode.act, episode.rew)
    ]
    slots, ends = columns[0], np.zeros(num_steps, bool)
    rng = np.random.default_rng(0)
    starts = itertools.cycle(rng.integers(0, num_steps - seq_length, (1000, BATCH_SIZE)))
    target = np.empty(BATCH_SIZE * seq_length * FRAME_BYTES, np.uint8)
    row_bytes = seq_length * FRAME_BYTES
    rows = [target.ctypes.data + row * row_bytes for row in range(BATCH_SIZE)]
    base, memmove = slots.ctypes.data, ctypes.memmove

    def memcpy() -> None:
        for row, start in zip(rows, next(starts).tolist(), strict=True):
            memmove(row, base + start * FRAME_BYTES, row_bytes)

    def numpy_frames() -> np.ndarray:
        return slots[next(starts)[:, None] + np.arange(seq_length)]

    def numpy_batch() -> list[torch.Tensor]:
        rows = next(starts)[:, None] + np.arange(seq_length)
        return [torch.from_numpy(array[rows]) for array in (*columns, ends, ends)]

    in_turn, ahead = (full_replay.segments(BATCH_SIZE, seq_length, QUARTERS, num_threads=n) for n in (0, 1))
    candidates = {
        "a thread ahead": lambda: next(ahead),
        "when asked": lambda: next(in_turn),
        "memcpy of frames": memcpy,
        "NumPy gather of frames": numpy_frames,
        "NumPy gather": numpy_batch,
    }
    turns = measure.take_turns(candidates)
    case = {"batch": BATCH_SIZE, "frames": seq_length}
    measure.row("replay batches", case, turns, "a thread ahead", work=1, unit="batches/s")


@pytest.mark.parametrize("num_steps", [1_000, 10_000, 100_000])
def test_over_buffer_size(measure, effort, num_steps):
    """Beyond the cache a batch costs the same however much there is to choose from."""
    segments = noise_replay(PAPER, num_steps, EPISODE_STEPS).segments(BATCH_SIZE, 6, QUARTERS, num_threads=0)
    turns = measure.take_turns({"when asked": lambda: next(segments)})
    measure.row("replay over buffer size", {"steps": num_steps}, turns, "when asked", work=1, unit="batches/s")


def test_append(measure):
    """A vector step of 8 environments, as the collector hands it over."""
    n, room = 8, 1_000
    replay, calls = None, 0
    obs = np.random.default_rng(0).integers(0, 256, (n, *FRAME_SHAPE), np.uint8)
    step = (obs, np.arange(n), np.zeros(n, np.float32), np.zeros(n, bool), np.zeros(n, bool), obs)

    def append() -> None:
        nonlocal replay, calls
        if calls % room == 0:
            replay = Replay(FRAME_SHAPE, n, capacity=n * room)
        calls += 1
        replay.append(*step)

    turns = measure.take_turns({"append": append})
    measure.row("replay append", {"environments": n}, turns, "append", work=n, unit="steps/s")


def boxing_journal(path: Path, num_steps: int) -> float:
    """Plays random Boxing into a journal, a commit every 100 steps; returns the seconds spent in commits."""
    env = make_real_env("Boxing", None, num_envs=2, frame_size=64, done_on_life_loss=True)
    replay, rng, seconds = Replay.open(path, FRAME_SHAPE, 2, num_steps), np.random.default_rng(0), 0.0
    obs, _ = env.reset(seed=0)
    for t in range(num_steps // 2):
        act = rng.integers(0, env.action.n, 2)
        next_obs, rew, end, trunc, info = env.step(act)
        replay.append(obs, act, rew, end, trunc, info["final_obs"])
        obs = next_obs
        if t % 50 == 49:
            start = time.perf_counter()
            replay.commit()
            seconds += time.perf_counter() - start
    env.close()
    replay.close()
    return seconds


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_boxing_on_disk(measure, effort, tmp_path):
    """Real Boxing: a tenth of what 100 000 steps may take is 10 MB on disk, 150 MB in memory, half a second to open."""
    num_steps = 200 if effort == "tiny" else 10_000
    path = tmp_path / "journal"
    commit_seconds = boxing_journal(path, num_steps)
    before, opened = resident_bytes(), []

    def reopen() -> None:
        for replay in opened:
            replay.close()
        opened[:] = [Replay.open(path, FRAME_SHAPE, 2, num_steps)]

    turns = measure.take_turns({"open": reopen})
    also = {
        "MB on disk": round(path.stat().st_size / 1e6, 1),
        "MB in memory": round((resident_bytes() - before) / 1e6),
        "compression": round(num_steps * FRAME_BYTES / path.stat().st_size, 1),
        "ms a commit of 100 steps": round(commit_seconds / (num_steps / 100) * 1e3, 2),
    }
    measure.row("replay on disk", {"steps": num_steps}, turns, "open", also=also)
    opened[0].close()
