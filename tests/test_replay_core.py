"""The compiled core called directly, with sizes that do not fit: refused, and no byte outside is read or written."""

import numpy as np
import pytest

from diamond_fast import _replay
from diamond_fast.replay import Replay

FRAME_BYTES = 12
HUGE = [2**61, 2**62, 2**63 - 1, -(2**63)]


@pytest.fixture
def replay():
    replay, yes = Replay((2, 2, 3), capacity=10), np.array([True])
    frame = np.full((1, 2, 2, 3), 7, np.uint8)
    for t in range(3):
        replay.append(frame, np.array([t]), np.ones(1, np.float32), yes if t == 2 else ~yes, ~yes, frame)
    return replay


def options(batch_size=2):
    return _replay.SamplerOptions(batch_size, 2, [], False, 0, 0)


@pytest.mark.parametrize("size", HUGE)
def test_cuts_of_huge_sizes_are_refused(replay, size):
    with pytest.raises(ValueError, match="seq_length: "):
        replay.cut([(0, 0)], size)
    with pytest.raises(ValueError, match="start: "):
        replay.cut([(0, size)], 2)
    with pytest.raises(ValueError, match=r"start: |seq_length: |stop: "):
        replay.segment(0, size, size + 1)
    with pytest.raises(ValueError, match=r"seq_length: |stop: "):
        replay.segment(0, 0, size)
    with pytest.raises(TypeError, match=r"start: expected an integer, got 0\.5"):
        replay.cut([(0, 0.5)], 2)
    assert not replay.cut([(0, 2**60)], 2).pixel_mask.any()
    assert not replay.cut([(0, -(2**60))], 2).pixel_mask.any()


@pytest.mark.parametrize("size", [*HUGE, 0, -1])
def test_layouts_of_huge_sizes_are_refused(size):
    for sizes in ((size, 1, 1), (1, size, 1), (1, 1, 1, size), (size, size, size, size)):
        with pytest.raises(ValueError, match="batch_size, seq_length: "):
            _replay.BatchLayout(*sizes)


@pytest.mark.parametrize(
    "layout",
    [
        (3, 2, FRAME_BYTES),
        (1, 2, FRAME_BYTES),
        (2, 2, FRAME_BYTES + 1),
        (2, 2, 1),
        (2, 2, FRAME_BYTES, 7),
        (2, 2, FRAME_BYTES, 51),
    ],
)
def test_layouts_for_something_else_are_refused(replay, layout):
    layout = _replay.BatchLayout(*layout)
    block = np.zeros(layout.num_bytes, np.uint8)
    with pytest.raises(ValueError, match="layout: made for"):
        replay._store.draw_into(options(), 0, layout, block)
    with pytest.raises(ValueError, match="layout: made for"):
        replay._store.cut_into([(0, 0), (0, 1)], layout, block)
    prefetcher = _replay.Prefetcher(replay._store, options(), layout, 1)
    prefetcher.ask(0, block)
    with pytest.raises(ValueError, match="layout: made for"):
        prefetcher.take()
    assert not block.any()


def test_blocks_for_something_else_are_refused(replay):
    layout = _replay.BatchLayout(2, 2, FRAME_BYTES)
    prefetcher = _replay.Prefetcher(replay._store, options(), layout, 1)
    read_only = np.zeros(layout.num_bytes, np.uint8)
    read_only.flags.writeable = False
    for block, error in (
        (np.zeros(layout.num_bytes - 1, np.uint8), ValueError),
        (np.zeros(2 * layout.num_bytes, np.uint8)[::2], TypeError),
        (np.zeros(layout.num_bytes, np.int8), TypeError),
        (read_only, ValueError),
    ):
        with pytest.raises(error):
            replay._store.draw_into(options(), 0, layout, block)
        with pytest.raises(error):
            replay._store.cut_into([(0, 0), (0, 1)], layout, block)
        with pytest.raises(error):
            prefetcher.ask(0, block)
    with pytest.raises(RuntimeError, match="no batch was asked for"):
        prefetcher.take()


def test_places_outside_are_refused(replay):
    store = replay._store
    for slot, count in ((-1, 1), (0, 21), (20, 1), (2**62, 2**62), (0, -1), (19, 2)):
        with pytest.raises(IndexError):
            store.slots(slot, count)
    for env in (-1, 1, 2**62):
        for ask in (store.env_start, store.env_used):
            with pytest.raises(IndexError):
                ask(env)
        with pytest.raises(IndexError):
            store.check_flags(env, 1, 1)
    for num_steps, num_slots in ((-1, -1), (1, 2**62), (2**62, 2**62), (1, 30)):
        with pytest.raises(ValueError, match="not"):
            store.check_flags(0, num_steps, num_slots)
    for episode in (-1, 1, 2**62):
        with pytest.raises(IndexError):
            store.view().episode(episode)
        with pytest.raises(IndexError):
            store.cut_into([(episode, 0)], _replay.BatchLayout(1, 2, FRAME_BYTES), np.zeros(576, np.uint8))


def test_sizes_that_no_memory_has_are_refused():
    for size in (0, 2**63):
        with pytest.raises((ValueError, TypeError)):
            _replay.BlockPool(size)
    pool = _replay.BlockPool(100)
    for size in (4097, 2**62, -1):
        with pytest.raises(ValueError, match="a block holds 4096"):
            pool.take(size)
    for sizes in ((2**62, 1, 1), (1, 2**62, 1), (1, 1, 2**62), (1, 2**16 + 1, 1), (2**31, 2**31, 2**31)):
        with pytest.raises(ValueError, match=r"frame_shape|num_envs|capacity"):
            _replay.Store(*sizes)
    for act_bytes in (2**62, 0, -1):
        with pytest.raises(ValueError, match=r"capacity|action"):
            _replay.Store(1, 1, 1, act_bytes)
    with pytest.raises(TypeError):
        _replay.Prefetcher(None, options(), _replay.BatchLayout(2, 2, 1), 1)
