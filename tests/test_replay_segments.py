"""What is drawn: the golden distributions, reproducibility, state."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diamond_fast import _replay
from diamond_fast.replay import Replay

GOLDEN = Path(__file__).parent / "golden"
QUARTERS = (0.1, 0.1, 0.1, 0.7)


def replay_of_lengths(lengths, ended: bool = True) -> Replay:
    replay = Replay((1, 1, 1), capacity=int(sum(lengths)))
    frame = np.zeros((1, 1, 1, 1), np.uint8)
    for length in lengths:
        for t in range(length):
            end = np.array([ended and t == length - 1])
            replay.append(frame, np.array([t]), np.zeros(1, np.float32), end, np.array([False]), frame)
        replay.close_episodes()
    return replay


def draws(segments, num_batches: int) -> np.ndarray:
    """Returns int64 [num_batches * B, 2] of (episode, start)."""
    batches = [next(segments) for _ in range(num_batches)]
    return np.concatenate([np.stack([b.episode.numpy(), b.start.numpy()], axis=1) for b in batches])


def test_philox_reproduces_the_published_vectors():
    """Known answers of Random123 (Salmon et al. 2011), Philox4x32 with 10 rounds."""
    ones = 0xFFFFFFFF
    assert _replay.philox4x32([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert _replay.philox4x32([ones] * 4, [ones] * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    pi = ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0])
    assert _replay.philox4x32(*pi) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


def two_sample_z(ours: np.ndarray, golden: np.ndarray) -> float:
    """Chi-square that two count vectors come from one distribution, as standard deviations above its mean."""
    total, n, m = ours + golden, ours.sum(), golden.sum()
    chi2 = ((np.sqrt(m / n) * ours - np.sqrt(n / m) * golden) ** 2 / total).sum()
    freedom = len(total) - 1
    return (chi2 - freedom) / np.sqrt(2 * freedom)


@pytest.mark.parametrize(
    ("name", "sample_weights", "beyond_end"),
    [
        ("uniform", None, False),
        ("quarters", QUARTERS, False),
        ("quarters_cond", QUARTERS, False),
        ("quarters_beyond", QUARTERS, True),
    ],
)
def test_draws_follow_the_golden_counts(name, sample_weights, beyond_end):
    golden = dict(np.load(GOLDEN / f"sampler_{name}.npz"))
    replay = replay_of_lengths(np.load(GOLDEN / "segments.npz")["lengths"])
    seq_length = int(golden["seq_length"])
    segments = replay.segments(1000, seq_length, sample_weights, beyond_end, seed=3)
    keys, counts = np.unique(draws(segments, 200), axis=0, return_counts=True)
    assert (golden["keys"][:, 2] - golden["keys"][:, 1] == seq_length).all()
    expected = {(e, start): n for (e, start, _), n in zip(golden["keys"].tolist(), golden["counts"], strict=True)}
    ours = {tuple(key): n for key, n in zip(keys.tolist(), counts, strict=True)}
    assert set(ours) <= set(expected)
    z = two_sample_z(np.array([ours.get(key, 0) for key in expected]), np.array(list(expected.values())))
    assert -4 < z < 4
    wrong = replay.segments(1000, seq_length, sample_weights, not beyond_end, seed=3)  # the check notices a wrong rule
    assert not {tuple(row) for row in draws(wrong, 20).tolist()} <= set(expected) or beyond_end


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    seq_length=st.integers(1, 40),
    beyond_end=st.booleans(),
    weighted=st.booleans(),
    ended=st.booleans(),
    seed=st.integers(0, 2**64 - 1),
)
def test_every_draw_is_within_the_rules(lengths, seq_length, beyond_end, weighted, ended, seed):
    replay = replay_of_lengths(lengths, ended)
    if seq_length > sum(lengths):
        with pytest.raises(RuntimeError, match=r"seq_length: .* is longer than all"):
            next(replay.segments(4, seq_length))
        return
    batch = next(replay.segments(64, seq_length, QUARTERS if weighted else None, beyond_end, seed, stream=1))
    for row in range(64):
        episode, start = batch.episode[row].item(), batch.start[row].item()
        length, stop = lengths[episode], batch.start[row].item() + seq_length
        steps = np.arange(start, stop)
        real = (steps >= 0) & (steps < length)
        np.testing.assert_array_equal(batch.mask_padding[row], real)
        np.testing.assert_array_equal(batch.pixel_mask[row], real | (ended & (steps == length)))
        np.testing.assert_array_equal(batch.act[row], np.where(real, steps, 0))
        assert real.any()
        assert beyond_end or stop <= length


def test_quarters_are_by_index_with_the_remainder_in_the_last():
    replay = replay_of_lengths([1] * 11)  # parts of 2, 2, 2 and 5 episodes
    counts = np.bincount(draws(replay.segments(1000, 1, QUARTERS), 200)[:, 0], minlength=11)
    expected = 200_000 * np.array([0.05] * 6 + [0.14] * 5)
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_without_enough_episodes_for_the_weights_length_decides():
    replay = replay_of_lengths([1, 2, 7])
    counts = np.bincount(draws(replay.segments(1000, 1, QUARTERS), 100)[:, 0])
    expected = np.array([10_000, 20_000, 70_000])
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_a_part_without_weight_is_never_drawn():
    replay = replay_of_lengths([1] * 8)
    assert set(draws(replay.segments(1000, 1, (0.5, 0, 0.5, 0)), 20)[:, 0]) == {0, 1, 4, 5}


def test_batches_depend_on_seed_and_stream_only():
    replay = replay_of_lengths([9] * 9)

    def first(seed, stream, batch_size=32):
        return draws(replay.segments(batch_size, 6, QUARTERS, seed=seed, stream=stream), 3)

    np.testing.assert_array_equal(first(1, 2), first(1, 2))
    assert (first(1, 2) != first(1, 3)).any()
    assert (first(1, 2) != first(2, 2)).any()
    assert (first(1, 2) != first(1 + 2**32, 2)).any()


def test_batches_and_rows_are_independent():
    """No draw repeats within or between batches more often than chance has it."""
    replay = replay_of_lengths([1000] * 10)
    ids = draws(replay.segments(100, 1, seed=5), 100) @ [1000, 1]
    counts = np.bincount(ids, minlength=10_000)
    assert abs((counts == 0).mean() - np.exp(-1)) < 0.02  # Poisson with mean 1
    assert abs(np.corrcoef(ids[:-1], ids[1:])[0, 1]) < 0.05


def test_state_continues_where_it_was_saved():
    replay = replay_of_lengths([9] * 9)
    segments = replay.segments(8, 6, QUARTERS, beyond_end=True, seed=7, stream=3)
    draws(segments, 5)
    state = segments.state_dict()
    following = draws(segments, 5)
    resumed = replay.segments(8, 6, QUARTERS, beyond_end=True)
    resumed.load_state_dict(state)
    np.testing.assert_array_equal(draws(resumed, 5), following)
    assert state == {"seed": 7, "stream": 3, "next_batch": 5}
    with pytest.raises(ValueError, match="state: expected the keys"):
        resumed.load_state_dict({"seed": 1})


def test_new_steps_are_drawn_once_visible():
    replay = replay_of_lengths([5])
    segments = replay.segments(100, 1)
    frame = np.zeros((1, 1, 1, 1), np.uint8)
    big = Replay((1, 1, 1))
    growing = big.segments(100, 1)
    for t in range(50):
        no = np.array([False])
        big.append(frame, np.array([t]), np.zeros(1, np.float32), no, no, frame)
        if t == 24:
            big.commit()
    assert next(growing).act.max() == 24
    big.commit()
    assert next(growing).act.max() > 24
    assert next(segments).act.max() == 4


def test_errors():
    replay = Replay((1, 1, 1))
    with pytest.raises(RuntimeError, match="replay: nothing stored yet, or not committed"):
        next(replay.segments(4, 2))
    for arguments, message in [
        ({"batch_size": 0}, r"batch_size: expected 1 \.\. 1048576, got 0"),
        ({"seq_length": 0}, r"seq_length: expected 1 \.\. 1048576, got 0"),
        ({"sample_weights": (0.5, 0.6)}, r"sample_weights: expected a sum of 1, got 1\.1"),
        ({"sample_weights": (1.5, -0.5)}, "sample_weights: expected none below 0"),
        ({"sample_weights": (float("nan"), 0.5)}, "sample_weights: expected none below 0"),
        ({"seed": -1}, r"seed: expected 0 \.\. 18446744073709551615, got -1"),
        ({"seed": 2**64}, r"seed: expected 0 \.\. 18446744073709551615"),
        ({"stream": 2**32}, r"stream: expected 0 \.\. 4294967295"),
    ]:
        with pytest.raises(ValueError, match=message):
            replay.segments(**{"batch_size": 4, "seq_length": 2} | arguments)
    with pytest.raises(TypeError, match=r"seq_length: expected an integer, got 6\.0"):
        replay.segments(4, 6.0)


def replay_with_events(lengths, rewarded) -> Replay:
    """rewarded: (episode, step) of steps that are worth -1."""
    replay = Replay((1, 1, 1), capacity=int(sum(lengths)))
    frame = np.zeros((1, 1, 1, 1), np.uint8)
    for episode, length in enumerate(lengths):
        for t in range(length):
            rew = -np.array([(episode, t) in rewarded], np.float32)
            replay.append(frame, np.array([t]), rew, np.array([t == length - 1]), np.array([False]), frame)
    return replay


def test_a_share_of_the_sequences_holds_an_event():
    """Events are the rewarded step 5 of an episode of 40, and the last steps of all ten, equally often."""
    replay = replay_with_events([40] * 10, {(3, 5)})
    batch = next(replay.segments(8192, 1, beyond_end=True, event_share=0.25, seed=2))
    first, rest = drawn_for_events(batch)
    events = {(3, 5)} | {(e, 39) for e in range(10)}
    assert {tuple(row) for row in first.tolist()} == events
    counts = np.unique(first, axis=0, return_counts=True)[1]
    assert (np.abs(counts - 2048 / 11) < 5 * np.sqrt(2048 / 11)).all()
    # the others are drawn as without: 11 of 400 steps are events
    by_chance = np.mean([tuple(row) in events for row in rest.tolist()])
    assert abs(by_chance - 11 / 400) < 5 * np.sqrt(11 / 400 / 6144)


def test_an_event_may_stand_anywhere_in_its_sequence():
    replay = replay_with_events([40] * 10, {(3, 5)})
    drawn = draws(replay.segments(2000, 4, beyond_end=True, event_share=1.0), 1)
    events = {(3, s) for s in range(2, 6)} | {(e, s) for e in range(10) for s in range(36, 40)}
    assert {tuple(row) for row in drawn.tolist()} == events


def drawn_for_events(batch) -> tuple[np.ndarray, np.ndarray]:
    """(episode, start) of the rows, one in four, that hold an event, and of the other ones."""
    pairs = np.stack([batch.episode.numpy(), batch.start.numpy()], axis=1)
    fourth = np.arange(len(pairs)) % 4 == 3
    return pairs[fourth], pairs[~fourth]


def test_events_are_drawn_by_the_weights_of_age():
    replay = replay_with_events([20] * 8, {(e, 7) for e in range(8)})
    batch = next(replay.segments(4000, 1, QUARTERS, beyond_end=True, event_share=1.0))
    assert set(batch.start.numpy()) == {7, 19}
    shares = np.bincount(batch.episode.numpy() // 2, minlength=4) / 4000
    assert np.abs(shares - QUARTERS).max() < 0.04


def test_without_any_event_a_share_of_them_changes_nothing():
    replay = replay_of_lengths([9] * 9, ended=False)
    plain, events = (draws(replay.segments(32, 6, seed=4, event_share=share), 3) for share in (0.0, 1.0))
    np.testing.assert_array_equal(plain, events)


def test_without_a_share_of_events_batches_are_as_before():
    """Where the first try is an event, or none is asked for, a row is the one that has always been drawn."""
    replay = replay_with_events([40] * 10, {(3, 5)})
    plain, events = (draws(replay.segments(64, 4, seed=4, event_share=share), 3) for share in (0.0, 0.5))
    np.testing.assert_array_equal(plain[::2], events[::2])
    assert (plain[1::2] != events[1::2]).any()


def test_a_share_of_the_sequences_ends_with_a_first_frame():
    """Of rows drawn equally often from ten episodes, one in four; the others are those of a share of 0."""
    replay = replay_of_lengths([9] * 10)
    plain, batch = (next(replay.segments(4000, 4, seed=3, first_share=share)) for share in (0.0, 0.25))
    last_is_first = batch.start.numpy() == -3
    fourth = np.arange(4000) % 4 == 3
    assert last_is_first[fourth].all()
    assert batch.pixel_mask[fourth].numpy().tolist() == [[False, False, False, True]] * 1000
    np.testing.assert_array_equal(batch.episode, plain.episode)
    np.testing.assert_array_equal(batch.start[~fourth], plain.start[~fourth])
    # elsewhere by chance: t = 0 and u = 0
    assert abs(last_is_first[~fourth].mean() - 1 / 36) < 5 * np.sqrt(1 / 36 / 3000)


@pytest.mark.parametrize("name", ["event_share", "first_share"])
@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(name, share):
    with pytest.raises(ValueError, match=f"{name}: expected a number from 0 to 1, got"):
        replay_of_lengths([9]).segments(4, 2, **{name: share})
