"""Actions of every kind: stored, committed, drawn ahead, exported and read back as they were."""

import json
from contextlib import closing
from itertools import pairwise

import numpy as np
import pytest
import torch
from replay_model import SHAPE, Model, append_steps, assert_same, random_actions, random_steps

from diamond_fast.replay import JournalError, Replay, load_recording
from diamond_fast.replay.__main__ import main
from diamond_fast.replay.fitting import check_fits
from diamond_fast.replay.formats import write_npz
from diamond_fast.replay.journal import Journal
from diamond_fast.spec import Action, Box, Discrete, Mixed, MultiBinary

BUTTONS_AND_CHOICE = Mixed(parts=(("keys", MultiBinary(3)), ("mouse", Discrete(4))))
BUTTONS_AND_NUMBERS = Mixed(parts=(("keys", MultiBinary(2)), ("mouse", Box(2))))
SINGLE = [None, Discrete(6), MultiBinary(1), MultiBinary(3), MultiBinary(51), Box(1), Box(3)]
ACTIONS = [*SINGLE, BUTTONS_AND_CHOICE, BUTTONS_AND_NUMBERS]
PRODUCTS = [action for action in ACTIONS if action is not None and action.shape]
FIELDS = ("frames", "pixel_mask", "act", "rew", "end", "trunc", "mask_padding", "episode", "start")

every_action = pytest.mark.parametrize("action", ACTIONS, ids=str)
every_product = pytest.mark.parametrize("action", PRODUCTS, ids=str)


def rgb_replay(action: Action | None) -> Replay:
    """Ended, cut off and unfinished episodes."""
    replay = Replay((2, 5, 3), action=action)
    random_steps(replay, np.random.default_rng(0), 60)
    replay.commit()
    return replay


@every_action
def test_against_plain_python(action):
    replay, model, rng = Replay(SHAPE, 3, capacity=300, action=action), Model(3), np.random.default_rng(0)
    for _ in range(10):
        for step in random_steps(replay, rng, 7):
            model.append(**step)
        replay.commit()
        model.commit()
        model.check(replay)
    for i, (steps, length) in enumerate(zip(model.episodes, model.visible, strict=True)):
        segment = replay.segment(i, -3, length + 2)
        assert segment.act.shape == (1, length + 5, *replay.episode(0).act.shape[1:])
        np.testing.assert_array_equal(segment.act[0, 3:-2], np.stack([act for _, act, *_ in steps[:length]]))
        assert not segment.act[~segment.mask_padding].any()


@every_action
def test_drawn_ahead_as_in_turn_and_from_a_saved_state(action):
    """What is drawn does not depend on the action: the same segments as of numbers."""
    replay, numbers = Replay(SHAPE, 2, action=action), Replay(SHAPE, 2)
    for each in (replay, numbers):
        random_steps(each, np.random.default_rng(0), 20)
        for index in range(5):
            ends = np.zeros((10, 2), bool)
            ends[-1, index % 2] = True
            append_steps(each, np.random.default_rng(index), ends, np.zeros((10, 2), bool))
        each.commit()
    assert replay.num_steps == numbers.num_steps
    in_turn, ahead = (replay.segments(8, 6, beyond_end=True, seed=5, num_threads=n) for n in (0, 2))
    for _ in range(20):
        ours, theirs = next(ahead), next(in_turn)
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        row = replay.cut(list(zip(theirs.episode.tolist(), theirs.start.tolist(), strict=True)), 6)
        np.testing.assert_array_equal(row.act, theirs.act)
        assert theirs.to("cpu").act.dtype == row.act.dtype
    resumed = replay.segments(8, 6, beyond_end=True)
    resumed.load_state_dict(json.loads(json.dumps(ahead.state_dict())))
    np.testing.assert_array_equal(next(resumed).act, next(ahead).act)


def test_batches_have_the_dtype_and_shape_of_the_action():
    for action, dtype in ((None, torch.int64), (MultiBinary(51), torch.uint8), (Box(3), torch.float32)):
        batch = next(iter(rgb_replay(action).segments(4, 5)))
        assert (batch.act.dtype, batch.act.shape) == (dtype, (4, 5, *(action.shape if action else ())))
        assert batch.to("meta").act.dtype == dtype


def test_mixed_actions_are_named_and_need_a_newer_format(tmp_path, capsys):
    path = tmp_path / "journal"
    with closing(Replay.open(path, (2, 5, 3), action=BUTTONS_AND_CHOICE)) as replay:
        random_steps(replay, np.random.default_rng(0), 9)
        replay.commit()
    assert path.read_bytes()[8] == 3
    assert main(["info", str(path)]) == 0
    assert "actions: mixed, n = 7 (keys: multi_binary 3, mouse: discrete 4)" in capsys.readouterr().out


@every_action
def test_a_journal_that_is_resumed_goes_on_bit_for_bit(tmp_path, action):
    steps = random_steps(Replay(SHAPE, 2, action=action), np.random.default_rng(1), 40)

    def go_on(replay: Replay, first: int) -> int:
        for start in range(first, first + 20, 10):
            for step in steps[start : start + 10]:
                replay.append(**step)
            length = replay.commit()
        replay.close()
        return length

    whole, halves = tmp_path / "whole", tmp_path / "halves"
    with closing(Replay.open(whole, SHAPE, 2, action=action)) as replay:
        go_on(replay, 0)
    with closing(Replay.open(whole, SHAPE, 2, action=action)) as replay:
        go_on(replay, 20)
    torn = Replay.open(halves, SHAPE, 2, action=action)
    length = go_on(torn, 0)
    with open(halves, "ab") as file:
        file.write(b"RCRD" + bytes(30))
    resumed = Replay.open(halves, SHAPE, 2, length=length, action=action)
    go_on(resumed, 20)
    assert halves.read_bytes() == whole.read_bytes()
    loaded = Replay.load(whole)
    assert_same(loaded, resumed)
    follower = Replay(SHAPE, 2, action=action)
    follower.catch_up(whole, length)
    follower.catch_up(whole, whole.stat().st_size)
    assert_same(follower, loaded)


def test_a_journal_cut_off_anywhere(tmp_path):
    path, lengths = tmp_path / "journal", []
    with closing(Replay.open(path, SHAPE, action=MultiBinary(51))) as replay:
        lengths.append(replay.commit())
        for _ in range(3):
            random_steps(replay, np.random.default_rng(0), 9)
            lengths.append(replay.commit())
    content = path.read_bytes()
    for before, after in pairwise(lengths):
        for size in range(before, after, 7):
            path.write_bytes(content[:size])
            with closing(Replay.open(path, SHAPE, action=MultiBinary(51))) as replay:
                assert replay.num_steps == 9 * lengths.index(before)
            assert path.stat().st_size == before


def test_a_journal_of_one_action_is_none_of_another(tmp_path):
    """Numbers of one of several agree with those whose number nobody says, as in journals of version 1."""
    for name, action in (("numbers", None), ("six", Discrete(6)), ("buttons", MultiBinary(3)), ("box", Box(3))):
        Replay.open(tmp_path / name, SHAPE, action=action).close()
        with closing(Journal(tmp_path / name)) as journal:
            assert journal.meta.get("action") == (action and action.to_json())
        for other in ACTIONS:
            if action == other or (None in (action, other) and isinstance(action or other, Discrete)):
                with closing(Replay.open(tmp_path / name, SHAPE, action=other)) as replay:
                    assert replay.action == (action or other)
            else:
                with pytest.raises(JournalError, match=r"made for action .*, not"):
                    Replay.open(tmp_path / name, SHAPE, action=other)


@pytest.mark.parametrize(
    ("action", "value", "error", "message"),
    [
        (Discrete(6), np.array([0, 6]), ValueError, "act: expected 0 to 5, got 0 to 6"),
        (Discrete(6), np.array([-1, 0]), ValueError, "act: expected 0 to 5, got -1 to 0"),
        (Discrete(6), np.zeros(2), TypeError, "act: expected int64, got float64"),
        (MultiBinary(3), np.full((2, 3), 2, np.uint8), ValueError, "act: expected 0 and 1, got 2"),
        (MultiBinary(3), np.zeros((2, 3)), TypeError, "act: expected uint8, got float64"),
        (MultiBinary(3), np.zeros((2, 4), np.uint8), ValueError, r"act: expected shape \(2, 3\), got \(2, 4\)"),
        (MultiBinary(3), np.zeros(2, np.uint8), ValueError, r"act: expected shape \(2, 3\), got \(2,\)"),
        (Box(3), np.full((2, 3), np.nan), ValueError, "act: expected finite numbers"),
        (Box(3), np.zeros((2, 3), np.int64), TypeError, "act: expected float32, got int64"),
    ],
)
def test_bad_actions_are_named_and_not_taken(action, value, error, message):
    replay, no = Replay(SHAPE, num_envs=2, action=action), np.zeros(2, bool)
    frames = np.zeros((2, *SHAPE), np.uint8)
    with pytest.raises(error, match=message):
        replay.append(frames, value, np.zeros(2, np.float32), no, no, frames)
    replay.commit()
    assert replay.num_steps == 0


@every_product
def test_npz_there_and_back(tmp_path, action, capsys):
    """Whatever the values look like: buttons of which one is held at each step, and whole numbers."""
    replay, no = rgb_replay(action), np.zeros(1, bool)
    frame = np.full((1, 2, 5, 3), 7, np.uint8)
    for made in (replay, Replay((2, 5, 3), action=action)):
        act = np.zeros((1, action.n), action.dtype)
        act[0, 0] = 1
        made.append(frame, act, np.ones(1, np.float32), no, ~no, frame)
        made.commit()
        write_npz(made, tmp_path / "a.npz")
        assert_same(load_recording(tmp_path / "a.npz"), made)
    assert main(["import", str(tmp_path / "a.npz"), str(tmp_path / "journal")]) == 0
    assert_same(Replay.load(tmp_path / "journal"), made)
    assert main(["info", str(tmp_path / "journal")]) == 0
    assert f"actions: {action.kind}, n = {action.n}" in capsys.readouterr().out


def test_how_many_actions_there_are_to_choose_from_is_kept(tmp_path, capsys):
    """Also of those that were never chosen: from journal to .npz and back."""
    replay, no = Replay.open(tmp_path / "first", (2, 5, 3), action=Discrete(6)), np.zeros(1, bool)
    frame = np.full((1, 2, 5, 3), 7, np.uint8)
    replay.append(frame, np.array([2]), np.ones(1, np.float32), no, ~no, frame)
    replay.commit()
    replay.close()
    assert main(["export", str(tmp_path / "first"), str(tmp_path / "a.npz")]) == 0
    for source in ("first", "a.npz"):
        assert main(["import", str(tmp_path / source), str(tmp_path / f"{source}.journal")]) == 0
        assert_same(Replay.load(tmp_path / f"{source}.journal"), load_recording(tmp_path / source))
        assert main(["info", str(tmp_path / f"{source}.journal")]) == 0
        assert "actions: discrete, n = 6" in capsys.readouterr().out


@pytest.mark.parametrize("said", [[2], [6.5], [], [6, 6], [-1]])
def test_a_number_of_actions_that_cannot_be_is_refused(tmp_path, said):
    np.savez(tmp_path / "a.npz", **arrays(np.array([0, 2, 1])), num_actions=np.array(said))
    with pytest.raises(ValueError, match=r"a\.npz: num_actions: expected one integer above 2, got \["):
        load_recording(tmp_path / "a.npz")


def arrays(actions) -> dict[str, np.ndarray]:
    ended = np.zeros(len(actions), bool)
    ended[-1] = True
    return {
        "observations": np.full((len(actions), 2, 2, 3), 7, np.uint8),
        "actions": actions,
        "rewards": np.zeros(len(actions), np.float32),
        "terminations": ended,
        "truncations": np.zeros(len(actions), bool),
        "final_observations": np.zeros((1, 2, 2, 3), np.uint8),
    }


@pytest.mark.parametrize(
    ("actions", "action"),
    [
        (np.array([0, 5, 2]), None),
        (np.array([[0], [5], [2]], np.int32), None),
        (np.eye(3), None),
        (np.eye(3, dtype=bool), None),
        (np.array([[0, 0], [1, 0], [1, 1]], np.int8), MultiBinary(2)),
        (np.array([[0, 0], [1, 0], [1, 1]], bool), MultiBinary(2)),
        (np.array([[0, 0], [1, 0], [1, 1]], np.float64), MultiBinary(2)),
        (np.array([[0.5, -1], [0, 0], [1, 1]]), Box(2)),
        (np.array([[0.5], [0], [1]], np.float32), Box(1)),
    ],
    ids=repr,
)
def test_what_dtype_and_values_say(tmp_path, actions, action):
    np.savez(tmp_path / "a.npz", **arrays(actions))
    replay = load_recording(tmp_path / "a.npz")
    assert replay.action == action
    stored = replay.episode(0).act
    if action is not None:
        np.testing.assert_array_equal(stored, actions.astype(action.dtype))
    else:
        assert stored.tolist() == ([0, 5, 2] if actions.max() == 5 else [0, 1, 2])


@pytest.mark.parametrize(
    ("actions", "more", "message"),
    [
        (np.array([[0, 2], [1, 0]]), {}, "actions: expected integers .*, nor rows of 0 and 1"),
        (np.array([[0, 2], [1, 0.0]]), {}, "actions: expected integers .*, nor of floats that are not whole"),
        (np.array([[0, np.inf], [1, 0.5]]), {}, "episode 0: act: expected finite numbers"),
        (np.array([[0, 1e300], [1, 0.5]]), {}, "episode 0: act: expected finite numbers"),
        (np.array([[0, np.nan], [1, 0.5]]), {}, "episode 0: act: expected finite numbers"),
        (np.array([0.5, 1]), {}, "episode 0: act: expected integers, got float64"),
        (np.array([[0.0], [1]]), {}, "episode 0: act: expected integers, got float64"),
        (np.zeros((2, 0)), {}, "actions: expected integers"),
        (np.zeros((2, 2, 2)), {}, "episode 0: act: expected one action a step"),
        (np.full((2, 2), 2, np.uint8), {"action_kind": b"multi_binary"}, "episode 0: act: expected 0 and 1, got 2"),
        (np.zeros((2, 2), np.uint8), {"action_kind": b"box"}, r"action_kind: is not that of actions uint8 \[2, 2\]"),
        (np.zeros((2, 2)), {"action_kind": b"multi_binary"}, "action_kind: is not that of actions float64"),
        (np.zeros(2, np.int64), {"action_kind": b"discrete"}, "action_kind: is not that of actions int64"),
    ],
    ids=repr,
)
def test_actions_that_could_be_anything_are_refused(tmp_path, actions, more, message):
    more = {name: np.frombuffer(value, np.uint8) for name, value in more.items()}
    np.savez(tmp_path / "a.npz", **arrays(actions) | more)
    with pytest.raises(ValueError, match=message) as caught:
        load_recording(tmp_path / "a.npz")
    assert "\n" not in str(caught.value)


def test_which_actions_fit(tmp_path):
    """Choices are of the number that is known, the networks' first; other kinds are what they are."""
    frame = np.full((1, 2, 2, 3), 9, np.uint8)

    def fits(recorded: Action | None, act: np.ndarray, networks: Action | None) -> Action:
        replay, no = Replay((2, 2, 3), action=recorded), np.zeros(1, bool)
        replay.append(frame, act[None], np.zeros(1, np.float32), no, no, frame)
        replay.commit()
        return check_fits("--held-out", "it", replay, (2, 2, 3), networks)

    three, pressed, moved = np.array(3), np.ones(3, np.uint8), np.ones(3, np.float32)
    assert fits(None, three, None) == Discrete(4)
    assert fits(Discrete(6), three, None) == Discrete(6)
    assert fits(Discrete(6), three, Discrete(5)) == Discrete(5)
    assert fits(MultiBinary(3), pressed, None) == MultiBinary(3)
    assert fits(MultiBinary(3), pressed, MultiBinary(3)) == MultiBinary(3)
    assert fits(Box(3), moved, None) == Box(3)
    for recorded, act, networks, message in (
        (None, three, Discrete(3), "--held-out it: its actions go from 3 to 3, expected 0 to 2"),
        (None, three, MultiBinary(3), r"its actions are Discrete\(n=4\), the networks' MultiBinary\(n=3\)"),
        (MultiBinary(3), pressed, Discrete(3), r"its actions are MultiBinary\(n=3\), the networks' Discrete\(n=3\)"),
        (MultiBinary(3), pressed, MultiBinary(4), r"its actions are MultiBinary\(n=3\), the networks' MultiB"),
        (Box(3), moved, MultiBinary(3), r"its actions are Box\(n=3\), the networks' MultiBinary\(n=3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            fits(recorded, act, networks)


def test_published_episodes_of_buttons(tmp_path):
    """CS:GO's: float64 of 0 and 1, no final observation, no end. Another kind of action in between is refused."""
    rng = np.random.default_rng(0)
    acts = [random_actions(MultiBinary(51), rng, 4) for _ in range(2)]
    stored = {
        "obs": torch.full((4, 3, 2, 2), 7, dtype=torch.uint8),
        "rew": torch.zeros(4),
        "end": torch.zeros(4, dtype=torch.uint8),
        "trunc": torch.zeros(4, dtype=torch.uint8),
        "info": {"original_file_id": "hdf5_dm_july2021_1.hdf5"},
    }
    for i, act in enumerate(acts):
        torch.save(stored | {"act": torch.tensor(act, dtype=torch.float64)}, tmp_path / f"{i}.pt")
    replay = load_recording(tmp_path)
    assert replay.action == MultiBinary(51)
    assert [replay.episode(i).final_obs for i in range(2)] == [None, None]
    for i, act in enumerate(acts):
        np.testing.assert_array_equal(replay.episode(i).act, act)
    torch.save(stored | {"act": torch.eye(4, dtype=torch.float64)}, tmp_path / "2.pt")
    with pytest.raises(ValueError, match=r"episode 2: act: expected MultiBinary\(n=51\) as before, got integers"):
        load_recording(tmp_path)
