"""Draws bit-equal with the published rules, transcribed in plain Python over NumPy's global generator."""

import numpy as np
import pytest
from numpy_order import NumpyOrderSegments
from replay_model import SHAPE, random_steps

from diamond_fast.replay import Replay

QUARTERS = [0.1, 0.1, 0.1, 0.7]


def transcription(lengths: list[int], batch_size: int, seq_length: int, weights, beyond_end: bool) -> list[tuple]:
    """One batch of (episode, start, stop), drawn from np.random as the rules say, cut one row at a time."""
    n = len(lengths)
    if weights is None or n < len(weights):
        p = [length / sum(lengths) for length in lengths]
    else:
        quarter = n // len(weights)
        sizes = [quarter] * (len(weights) - 1) + [quarter + n % len(weights)]
        p = [weights[k] / sizes[k] for k in range(len(weights)) for _ in range(sizes[k])]
    total = np.array(p).sum()
    episodes = np.random.choice(np.arange(n), size=batch_size, replace=True, p=[x / total for x in p])
    steps = np.random.randint(low=0, high=[lengths[e] for e in episodes])
    offsets = np.random.randint(0, seq_length, batch_size)
    segments = []
    for e, t, u in zip(episodes.tolist(), steps.tolist(), offsets.tolist(), strict=True):
        if beyond_end:
            segments.append((e, t - u, t - u + seq_length))
        else:
            stop = min(lengths[e], t + 1 + u)
            segments.append((e, stop - seq_length, stop))
    return segments


@pytest.mark.parametrize(
    ("weights", "beyond_end", "seq_length"), [(None, False, 6), (QUARTERS, False, 6), (QUARTERS, True, 19)]
)
def test_equal_with_the_transcription(weights, beyond_end, seq_length):
    """34k draws each, the buffer growing from fewer than four episodes on."""
    replay, rng = Replay(SHAPE), np.random.default_rng(0)
    segments = NumpyOrderSegments(replay, 32, seq_length, weights, beyond_end, seed=11)
    saved = np.random.get_state()
    np.random.seed(11)
    try:
        for i in range(1063):
            if i % 10 == 0:
                random_steps(replay, rng, 3)
                replay.commit()
            expected = transcription(replay.lengths.tolist(), 32, seq_length, weights, beyond_end)
            batch = next(segments)
            starts = batch.start.tolist()
            assert list(zip(batch.episode.tolist(), starts, (s + seq_length for s in starts), strict=True)) == expected
    finally:
        np.random.set_state(saved)
    assert replay.num_episodes > 20


def test_state_continues_where_it_was_saved():
    replay = Replay(SHAPE)
    random_steps(replay, np.random.default_rng(0), 50)
    replay.commit()
    segments = NumpyOrderSegments(replay, 7, 5, seed=1)
    next(segments)
    state = segments.state_dict()
    expected = [next(segments) for _ in range(3)]
    resumed = NumpyOrderSegments(replay, 7, 5)
    resumed.load_state_dict(state)
    for batch in expected:
        again = next(resumed)
        np.testing.assert_array_equal(again.frames, batch.frames)
        np.testing.assert_array_equal(again.start, batch.start)


def test_nothing_stored():
    with pytest.raises(RuntimeError, match="nothing stored yet"):
        next(NumpyOrderSegments(Replay(SHAPE), 4, 4))
