"""Batches a second beside a plain NumPy gather and the machine's memcpy limit; size and opening time on disk.

    pytest benchmarks/test_replay.py --benchmark-json=replay.json

The candidates of a comparison take turns in one process; `extra_info` holds the best turn of each (whatever else the
machine does can only slow one down), the median turn, batches per second of processor time (which other programs'
share of the cores leaves alone), and the ratios of each. Run it on a quiet machine: `load` says how quiet it was.
"""

import ctypes
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from diamond_fast.envs.real import make_real_env
from diamond_fast.replay import Replay

NUM_STEPS = 100_000
EPISODE_STEPS = 1_000
FRAME_SHAPE = (64, 64, 3)
FRAME_BYTES = 64 * 64 * 3
BATCH_SIZE = 32
QUARTERS = (0.1, 0.1, 0.1, 0.7)
ROUNDS = 30


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def noise_replay() -> Replay:
    """100k steps of noise: what is in the frames does not matter to a copy."""
    replay, rng = Replay(FRAME_SHAPE, capacity=NUM_STEPS), np.random.default_rng(0)
    frames = rng.integers(0, 256, (64, 1, *FRAME_SHAPE), np.uint8)
    flags, zero = np.array([[False], [True]]), np.zeros(1, np.float32)
    for t in range(NUM_STEPS):
        end = flags[int((t + 1) % EPISODE_STEPS == 0)]
        replay.append(frames[t % 64], np.array([t]), zero, end, flags[0], frames[0])
    return replay


def take_turns(candidates: dict[str, Callable[[], object]], calls: int) -> dict[str, dict[str, float]]:
    """Returns calls a second of each: the best and the median turn, and calls a second of processor time.

    Many calls a turn: a thread that works ahead has two batches ready when its turn begins.
    """
    wall, cpu = ({name: np.empty(ROUNDS) for name in candidates} for _ in range(2))
    for i in range(ROUNDS):
        for name, call in candidates.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            for _ in range(calls):
                call()
            wall[name][i] = calls / (time.perf_counter() - start)
            cpu[name][i] = calls / (time.process_time() - cpu_start)
    return {
        "best": {name: float(rates.max()) for name, rates in wall.items()},
        "median": {name: float(np.median(rates)) for name, rates in wall.items()},
        "cpu": {name: float(np.median(rates)) for name, rates in cpu.items()},
    }


@pytest.mark.parametrize("seq_length", [19, 6])
def test_batches(benchmark, noise_replay, seq_length):
    """memcpy and numpy_frames gather the frames alone, numpy a batch without masks and padding, ours whole batches."""
    episode = noise_replay.episode(0)
    columns = [  # the whole buffer: episodes lie one after another
        np.lib.stride_tricks.as_strided(array, (NUM_STEPS, *array.shape[1:]), writeable=False)
        for array in (episode.obs, episode.act, episode.rew)
    ]
    slots, ends = columns[0], np.zeros(NUM_STEPS, bool)
    rng = np.random.default_rng(0)
    starts = itertools.cycle(rng.integers(0, NUM_STEPS - seq_length, (1000, BATCH_SIZE)))
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

    in_turn, ahead = (noise_replay.segments(BATCH_SIZE, seq_length, QUARTERS, num_threads=n) for n in (0, 1))
    candidates = {
        "memcpy": memcpy,
        "numpy_frames": numpy_frames,
        "numpy": numpy_batch,
        "no_thread": lambda: next(in_turn),
        "one_thread": lambda: next(ahead),
    }
    rates = take_turns(candidates, calls=100 if seq_length > 10 else 300)
    for statistic, rate in rates.items():
        benchmark.extra_info |= {f"{name}_{statistic}_batches_per_s": round(value) for name, value in rate.items()}
        for name, other in itertools.product(("no_thread", "one_thread"), ("memcpy", "numpy", "numpy_frames")):
            benchmark.extra_info[f"{name}_over_{other}_{statistic}"] = round(rate[name] / rate[other], 3)
    benchmark.extra_info["load"] = round(os.getloadavg()[0], 2)
    benchmark(next, ahead)


def test_append(benchmark):
    """A vector step of 8 environments, as the collector hands it over."""
    n, calls = 8, 5_000
    replay = Replay(FRAME_SHAPE, n, capacity=n * calls)
    obs = np.random.default_rng(0).integers(0, 256, (n, *FRAME_SHAPE), np.uint8)
    step = (obs, np.arange(n), np.zeros(n, np.float32), np.zeros(n, bool), np.zeros(n, bool), obs)
    benchmark.pedantic(replay.append, step, rounds=calls, iterations=1)


def boxing_journal(path: Path, num_steps: int) -> float:
    """Plays random Boxing into a journal, a commit every 100 steps; returns the seconds spent in commits."""
    env = make_real_env("Boxing", None, num_envs=2, frame_size=64, done_on_life_loss=True)
    replay, rng, seconds = Replay.open(path, FRAME_SHAPE, 2, num_steps), np.random.default_rng(0), 0.0
    obs, _ = env.reset(seed=0)
    for t in range(num_steps // 2):
        act = rng.integers(0, env.num_actions, 2)
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


def test_boxing_on_disk(benchmark, tmp_path):
    """100k steps of real Boxing: at most 100 MB on disk, 1.5 GB in memory, 5 s to open."""
    path = tmp_path / "journal"
    commit_seconds = boxing_journal(path, NUM_STEPS)
    before = resident_bytes()
    replay = benchmark.pedantic(Replay.open, (path, FRAME_SHAPE, 2, NUM_STEPS), rounds=1)
    raw = replay.num_steps * FRAME_BYTES
    benchmark.extra_info |= {
        "disk_mb": round(path.stat().st_size / 1e6, 1),
        "memory_mb": round((resident_bytes() - before) / 1e6),
        "compression": round(raw / path.stat().st_size, 1),
        "commit_ms_per_100_steps": round(commit_seconds / (NUM_STEPS / 100) * 1e3, 2),
        "load": round(os.getloadavg()[0], 2),
    }
