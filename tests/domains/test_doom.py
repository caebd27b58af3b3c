"""Doom: the match repeats itself, each action does what its name says, and it is recorded like any other game."""

import sys
from importlib.util import find_spec
from itertools import pairwise

import gymnasium
import numpy as np
import pytest

from diamond_fast.config import RunConfig
from diamond_fast.config_checks import checked
from diamond_fast.domains import domain_of
from diamond_fast.domains.doom import ENV_ID
from diamond_fast.domains.doom.player import Turner, Wanderer
from diamond_fast.domains.gym.adapter import GymSlot
from diamond_fast.envs.failure import EnvironmentFailedError
from diamond_fast.record import main
from diamond_fast.replay import load_recording
from diamond_fast.spec import Box, Mixed, MultiBinary

ACTION = Mixed(parts=(("clicks", MultiBinary(1)), ("keys", MultiBinary(4)), ("mouse_x", Box(1)), ("mouse_y", Box(1))))
needs_doom = pytest.mark.skipif(find_spec("vizdoom") is None, reason="needs pip install 'diamond_fast[doom]'")


class Found:
    """The game once the vest is found."""

    def __init__(self, game):
        self.game = game

    def is_episode_finished(self):
        return True

    def __getattr__(self, name):
        return getattr(self.game, name)


@pytest.fixture(scope="module")
def slot():
    slot = GymSlot(ENV_ID, (120, 160))
    yield slot
    slot.close()


def row(clicks=0, keys=(0, 0, 0, 0), right=0.0, down=0.0):
    return np.array([clicks, *keys, right, down], np.float32)


def frames(slot, seed, acts):
    """uint8 [len(acts)+1,H,W,3]"""
    seen = [slot.reset(seed)[0]]
    for act in acts:
        slot.send(act)
        seen.append(slot.recv().frame)
    return np.stack(seen)


def shift(before, after, axis, most=20):
    """How many pixels the picture moved along an axis: the shift under which the two differ least."""
    before, after = (np.moveaxis(frame.astype(float).mean(-1), axis, 0) for frame in (before, after))
    n = len(before)

    def difference(by):
        return np.abs(after[max(by, 0) : n + min(by, 0)] - before[max(-by, 0) : n + min(-by, 0)]).mean()

    return min(range(-most, most + 1), key=difference)


@needs_doom
def test_the_world(slot):
    assert slot.action == ACTION
    cfg = checked(RunConfig(domain="doom"))
    assert (cfg.env_id, domain_of(RunConfig(env_id=ENV_ID)).name) == (ENV_ID, "doom")
    with pytest.raises(ValueError, match="--domain doom is diamond_fast/Doom-v0, got CarRacing-v3"):
        checked(RunConfig(domain="doom", env_id="CarRacing-v3"))


@needs_doom
def test_a_match_repeats_itself(slot):
    rng = np.random.default_rng(0)
    acts = [row(i % 3 == 0, rng.integers(0, 2, 4), *rng.uniform(-1, 1, 2)) for i in range(30)]
    first, other, again = (frames(slot, seed, acts) for seed in (3, 4, 3))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5


@needs_doom
def test_the_mouse_turns_the_view(slot):
    """A turn to the right moves the picture to the left, a look down moves it up, by as much as the angle says."""
    settled = [row()] * 25  # the fog of the player's arrival has gone
    looks = [row(right=0.4), row(right=-0.4), row(down=0.3), row(down=-0.3), row(down=0.3)]
    seen = frames(slot, 3, [*settled, *looks])[25:, :80]  # above the weapon, which does not move with the view
    moved = [shift(*pair, axis) for pair, axis in zip(pairwise(seen), (1, 1, 0, 0, 0), strict=True)]
    degree = 80 / 45  # pixels, on average over half the picture; fewer near the middle
    assert -15 < moved[0] < -0.5 * 6 * degree
    assert 0.5 * 6 * degree < moved[1] < 15
    assert moved[4] < 0 < moved[3]


@needs_doom
def test_rooms(monkeypatch):
    """They repeat themselves, turn as matches do, and are over with the vest."""
    rooms = GymSlot(ENV_ID, (120, 160), {"scene": "rooms"})
    try:
        acts = [row(right=0.3)] * 10
        first, again = (frames(rooms, 3, acts) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert np.median([shift(*pair, axis=1) for pair in pairwise(first)]) < -3
        monkeypatch.setattr(rooms._env.unwrapped, "_game", Found(rooms._env.unwrapped._game))
        rooms.send(row())
        last = rooms.recv()
        assert (last.reward, last.terminated, last.truncated) == (1.0, True, False)
    finally:
        rooms.close()
    with pytest.raises(EnvironmentFailedError, match="scene: expected one of deathmatch, rooms, got space"):
        GymSlot(ENV_ID, 64, {"scene": "space"})


@needs_doom
def test_a_shot_is_seen_by_who_is_armed():
    """Before a wall, standing still: only a gun changes anything."""
    still, shoots = [row()] * 12, [row(clicks=1)] * 4
    changed = {}
    for armed in (False, True):
        rooms = GymSlot(ENV_ID, (120, 160), {"scene": "rooms", "armed": armed})
        try:
            seen = frames(rooms, 1, still + shoots)[len(still) :].astype(float)
        finally:
            rooms.close()
        changed[armed] = np.abs(seen[1:] - seen[0])[:, :, 60:100].mean()
    assert changed[False] < 1
    assert changed[True] > 5


@needs_doom
def test_a_full_turn_leads_back():
    """The player of ``turn_round`` turns twice, and sees the second time what it saw the first."""
    rooms, player, rng = GymSlot(ENV_ID, (120, 160), {"scene": "rooms"}), Turner(), np.random.default_rng(0)
    try:
        seen, acts = [rooms.reset(3)[0].astype(float)], []
        for _ in range(Turner.WALKS + Turner.STANDS + Turner.TURNS):
            acts.append(player(seen[-1].astype(np.uint8), rng))
            rooms.send(acts[-1])
            seen.append(rooms.recv().frame.astype(float))
    finally:
        rooms.close()
    turn = np.stack(acts[-Turner.TURNS :])
    assert (turn == row(right=1.0)).all()
    assert Turner.TURNS * 15 == 2 * 360
    once = Turner.TURNS // 2
    second, first = np.stack(seen[-1 - once :]), np.stack(seen[-1 - 2 * once : -once])
    assert np.abs(second - first).mean() < 1
    assert np.abs(seen[-1] - seen[-1 - once // 2]).mean() > 10


@needs_doom
def test_recorded_in_two_sizes(tmp_path):
    player = ("--player", "diamond_fast.domains.doom.player:wander")
    sizes = ("--full-size", "120", "160", "--frame-size", "30", "40", "--episodes", "2", "--max-steps", "12")
    assert main(["--env", "doom", *player, *sizes, "--out", str(tmp_path / "out"), "--test", "0.5"]) == 0
    replay = load_recording(tmp_path / "out" / "train")
    assert (replay.action, replay.frame_shape, replay.full_shape) == (ACTION, (30, 40, 3), (120, 160, 3))
    assert replay.lengths.tolist() == [12]


def test_without_the_game_one_line_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    monkeypatch.delitem(sys.modules, "diamond_fast.domains.doom.deathmatch", raising=False)
    with pytest.raises(SystemExit) as stopped:
        main(["--env", "doom", "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "ViZDoom is missing; pip install 'diamond_fast[doom]'" in printed
    assert printed.count("\n") == 1
    assert ENV_ID in gymnasium.registry


def test_the_player_tries_everything_and_depends_on_its_frames_and_numbers_alone():
    shown = np.random.default_rng(0).integers(0, 256, (1500, 6, 8, 3), np.uint8)
    shown[1000:1100] = shown[1000]  # a wall

    def play(player, seed):
        rng = np.random.default_rng(seed)
        return np.stack([player(frame, rng) for frame in shown])

    player = Wanderer()
    acts = play(player, 1)
    assert ACTION.why_not(acts) is None
    assert (acts[:, :5].mean(axis=0) > 0.05).all()
    assert np.abs(acts[:, 5:]).max() <= 1
    assert (acts[:, 5] > 0.2).mean() > 0.1
    assert (acts[:, 5] < -0.2).mean() > 0.1
    assert np.abs(acts[:, 6].cumsum()).max() <= 1.0001  # the view never goes far from level
    assert np.abs(acts[1005:1100, 5]).mean() > 0.4  # turns away
    play(player, 2)
    np.testing.assert_array_equal(play(player, 1), acts)
