"""Batches filled ahead: the same ones, whatever the threads, and nothing hangs."""

import gc
import multiprocessing
import subprocess
import sys
import threading
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter

import numpy as np
import pytest
import torch
from replay_model import SHAPE, random_steps

from diamond_fast.replay import Replay

WEIGHTS = (0.1, 0.1, 0.1, 0.7)
FIELDS = ("frames", "pixel_mask", "act", "rew", "end", "trunc", "mask_padding", "episode", "start")


def growing_replay() -> tuple[Replay, np.random.Generator]:
    replay, rng = Replay(SHAPE, num_envs=2, capacity=100_000), np.random.default_rng(0)
    random_steps(replay, rng, 20)
    replay.commit()
    return replay, rng


def assert_equal(ours, theirs) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)


@pytest.mark.parametrize("num_threads", [1, 2, 8])
@pytest.mark.parametrize("beyond_end", [False, True])
def test_the_number_of_threads_changes_nothing(num_threads, beyond_end):
    """Also while the buffer grows between batches, by commits and by episodes that end."""
    replay, rng = growing_replay()
    plain = replay.segments(16, 6, WEIGHTS, beyond_end, seed=5, num_threads=0)
    ahead = replay.segments(16, 6, WEIGHTS, beyond_end, seed=5, num_threads=num_threads)
    for i in range(200):
        assert_equal(next(ahead), next(plain))
        if i % 7 == 0:
            random_steps(replay, rng, 5)
        if i % 14 == 0:
            replay.commit()


@pytest.mark.parametrize("num_threads", [0, 1, 8])
def test_state_in_the_middle_loses_and_repeats_nothing(num_threads):
    replay, _ = growing_replay()
    plain = replay.segments(16, 6, seed=5, num_threads=0)
    expected = [next(plain) for _ in range(30)]
    segments = replay.segments(16, 6, seed=5, num_threads=num_threads)
    taken = [next(segments) for _ in range(10)]
    state = segments.state_dict()
    taken += [next(segments) for _ in range(10)]
    resumed = replay.segments(16, 6, num_threads=num_threads)
    next(resumed)
    resumed.load_state_dict(state)
    for ours, theirs in zip(taken + [next(segments) for _ in range(10)], expected, strict=True):
        assert_equal(ours, theirs)
    for theirs in expected[10:]:
        assert_equal(next(resumed), theirs)


def test_errors_surface_in_the_consumer_and_pass():
    replay = Replay(SHAPE, num_envs=2)
    segments = replay.segments(16, 25, num_threads=2)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="nothing stored yet"):
            next(segments)
    rng = np.random.default_rng(0)
    random_steps(replay, rng, 10)
    replay.commit()
    with pytest.raises(RuntimeError, match="seq_length: 25 is longer than all 20 visible steps together"):
        next(segments)
    random_steps(replay, rng, 10)
    replay.commit()
    assert_equal(next(segments), next(replay.segments(16, 25, num_threads=0)))
    assert segments.state_dict()["next_batch"] == 1


def test_an_interrupt_loses_no_batch(monkeypatch):
    replay, _ = growing_replay()
    segments, plain = replay.segments(16, 6, num_threads=2), replay.segments(16, 6, num_threads=0)
    assert_equal(next(segments), next(plain))
    for interrupted_after in range(4):
        calls = iter(range(100))
        ask = segments._ask

        def interrupt(batch, ask=ask, calls=calls, interrupted_after=interrupted_after):
            if next(calls) == interrupted_after:
                raise KeyboardInterrupt
            ask(batch)

        with monkeypatch.context() as patch:
            patch.setattr(segments, "_ask", interrupt)
            try:
                for _ in range(interrupted_after + 2):
                    assert_equal(next(segments), next(plain))
            except KeyboardInterrupt:
                plain.load_state_dict(segments.state_dict())
        assert_equal(next(segments), next(plain))


def test_readers_beside_a_writer_see_whole_steps():
    """Every frame tells its episode and step; batches drawn while a thread appends must agree with themselves."""
    replay = Replay((2, 2, 2), num_envs=3, capacity=60_000)
    stop = threading.Event()

    def write() -> None:
        rng = np.random.default_rng(0)
        episode, step = np.arange(3), np.zeros(3, np.int64)
        for t in range(20_000):
            frames = np.stack([episode % 251, step % 251], axis=1).astype(np.uint8)[:, None, None, :]
            frames = np.broadcast_to(frames, (3, 2, 2, 2))
            end = rng.random(3) < 0.05
            replay.append(frames, episode * 1000 + step, step.astype(np.float32), end, np.zeros(3, bool), frames)
            episode, step = np.where(end, episode + 3, episode), np.where(end, 0, step + 1)
            if t % 50 == 0:
                replay.commit()
        stop.set()

    writer = threading.Thread(target=write)
    segments = replay.segments(8, 5, WEIGHTS, beyond_end=True, num_threads=3)
    writer.start()
    batches = 0
    while not stop.is_set() or batches < 100:
        try:
            batch = next(segments)
        except RuntimeError:
            continue  # nothing there yet
        batches += 1
        steps = batch.mask_padding
        assert (batch.act[steps] // 1000 % 251 == batch.frames[steps][:, 0, 0, 0]).all()
        assert (batch.act[steps] % 1000 % 251 == batch.frames[steps][:, 1, 1, 1]).all()
        assert (batch.act[steps] % 1000 == batch.rew[steps]).all()
        assert (batch.frames[~batch.pixel_mask] == 0).all()
        assert (batch.act[:, 1:] - batch.act[:, :-1])[steps[:, 1:] & steps[:, :-1]].eq(1).all()
    writer.join()


def num_threads_alive() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("Threads:"))


def test_threads_end_with_their_iterator():
    replay, _ = growing_replay()
    gc.collect()
    before = num_threads_alive()
    segments = [replay.segments(16, 6, num_threads=4) for _ in range(3)]
    next(segments[0])
    del replay  # the iterators keep the stored steps alive
    next(segments[1])
    assert num_threads_alive() == before + 12
    segments.clear()
    gc.collect()
    assert num_threads_alive() == before


PROGRAM = """
import numpy as np
from diamond_fast.replay import Replay
frame, no = np.zeros((1, 64, 64, 3), np.uint8), np.array([False])
replay = Replay(capacity=500)
for t in range(500):
    replay.append(frame, np.array([t]), np.zeros(1, np.float32), no, no, frame)
replay.commit()
segments = replay.segments(32, 19, num_threads=8)
next(segments)
"""


@pytest.mark.parametrize("end", ["", "keep = [segments]; keep.append(keep); raise SystemExit(0)"])
def test_the_interpreter_exits(end):
    done = subprocess.run([sys.executable, "-c", PROGRAM + end], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_forked_process_neither_hangs_nor_waits_for_threads_it_has_not():
    replay, _ = growing_replay()
    segments = replay.segments(16, 6, num_threads=2)
    next(segments)

    def child(result) -> None:
        nonlocal segments
        try:
            next(segments)
        except RuntimeError as error:
            result.put(str(error))
        segments = None
        gc.collect()
        result.put("alive")

    context = multiprocessing.get_context("fork")
    result = context.SimpleQueue()
    process = context.Process(target=child, args=(result,))
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert "threads are in the parent process" in result.get()
    assert result.get() == "alive"


def test_bad_number_of_threads():
    with pytest.raises(ValueError, match=r"num_threads: expected 0 \.\. 64, got -1"):
        Replay(SHAPE).segments(4, 4, num_threads=-1)


@pytest.mark.parametrize("num_threads", [0, 2])
def test_threads_that_share_segments_get_every_batch_once(num_threads):
    replay, _ = growing_replay()
    segments = replay.segments(4, 6, seed=5, num_threads=num_threads)
    with ThreadPoolExecutor(4) as pool:
        batches = list(pool.map(lambda _: next(segments), range(400)))
    plain = replay.segments(4, 6, seed=5, num_threads=0)
    key = attrgetter("episode", "start")
    taken = Counter(str(key(batch)) for batch in batches)
    assert taken == Counter(str(key(next(plain))) for _ in range(400))
    assert segments.state_dict()["next_batch"] == 400


def test_a_fork_in_the_middle_of_another_threads_turn():
    replay, _ = growing_replay()
    segments = replay.segments(4, 6, num_threads=0)
    inside, go_on = threading.Event(), threading.Event()
    fill = segments._fill_now

    def slow_fill():
        inside.set()
        go_on.wait(60)
        return fill()

    segments._fill_now = slow_fill
    thread = threading.Thread(target=next, args=(segments,))
    thread.start()
    inside.wait(60)

    def child() -> None:
        segments._fill_now = fill
        next(segments)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(30)
    go_on.set()
    thread.join()
    assert process.exitcode == 0


def test_memory_being_filled_stays_until_the_threads_have_left_it():
    """Whoever asked for a batch may forget it, as happens when a state is loaded."""
    replay, _ = growing_replay()
    segments = replay.segments(16, 6, num_threads=2)
    next(segments)
    memory = np.empty(segments._layout.num_bytes, np.uint8)
    alive = weakref.ref(memory)
    segments._prefetcher.ask(99, memory)
    del memory
    assert alive() is not None
    segments._restart(**segments.state_dict())
    assert alive() is None


def test_memory_is_pinned_only_if_the_process_uses_a_gpu(monkeypatch):
    """Not on a machine with a GPU that the run leaves alone."""
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    empty = torch.empty

    def pinned(*args, pin_memory=False, **kwargs):
        asked.append(pin_memory)
        return empty(*args, **kwargs)

    monkeypatch.setattr(torch, "empty", pinned)
    replay, _ = growing_replay()
    batch = next(replay.segments(16, 6, seed=5, num_threads=1))
    assert not any(asked)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert_equal(next(replay.segments(16, 6, seed=5, num_threads=1)), batch)
    assert all(asked)
    assert asked
