"""Maze: what its frames show, and what players with and without a memory get."""

import numpy as np
import pytest

from diamond_fast.config_checks import checked
from diamond_fast.domains import domain_of
from diamond_fast.domains.maze.env import CORRIDOR, STAYS, TRIP, TRIPS, Maze
from diamond_fast.presets import PRESETS

CONTEXT = 4  # frames that a denoiser sees
GOOD, BAD, CLOCK = (0, 255, 0), (255, 0, 0), (255, 255, 0)
AT_THE_FORK = [1, 7, 13, 19]
IN_A_ROOM = [0, 5, 6, 11, 12, 17, 18, 23, 24]


def play(player, seed):
    """Actions of player(good room, trips so far). -> game, frames, rewards, one a frame from the second on"""
    game = Maze()
    frame, _ = game.reset(seed=seed)
    good = what_the_first_frame_says(frame)
    frames, rewards, trips, over = [frame], [], 0, False
    while not over:
        action = player(good, trips)
        trips += len(rewards) in AT_THE_FORK
        frame, reward, over, cut, _ = game.step(action)
        assert not cut
        frames.append(frame)
        rewards.append(reward)
    return game, np.stack(frames), rewards


def what_the_first_frame_says(frame):
    """Where the good room is: a room reaches to the window's edge on its own side."""
    here = 0 if tuple(frame[20, 2]) in (GOOD, BAD) else 1
    return here if tuple(frame[20, 12]) == GOOD else 1 - here


def alternates(good, trips):
    return trips % 2


def test_rooms_last_for_an_episode_and_frames_tell_them():
    seen = set()
    for seed in range(40):
        game, frames, rewards = play(alternates, seed)
        seen.add((game.good, tuple(frames[0, 20, 12])))
        assert frames.shape == (1 + TRIPS * TRIP, 24, 24, 3)
        arms = [arm for arm in (0, 1, 0, 1) for _ in range(STAYS)]
        told = [1.0 if arm == game.good else -1.0 for arm in arms]
        assert [rewards[t - 1] for t in IN_A_ROOM[1:]] == told
        assert sum(map(abs, rewards)) == TRIPS * STAYS
        assert [tuple(frames[t, 20, 12]) for t in IN_A_ROOM[1:]] == [GOOD if r > 0 else BAD for r in told]
        clock = (frames[:, 0] == CLOCK).all(-1).sum(-1)
        assert clock.tolist() == list(range(25))
    assert len(seen) == 4


def test_what_a_denoiser_sees_does_not_tell_the_room():
    """Under the same actions, what lies between two rooms is the same whichever is good, and as long as a context."""
    games = {game.good: frames for game, frames, _ in (play(alternates, seed) for seed in range(20))}
    differs = [t for t in range(25) if t and not np.array_equal(games[0][t], games[1][t])]
    assert differs == IN_A_ROOM[1:]
    assert 1 + CORRIDOR == CONTEXT


def test_frames_tell_where_the_player_went():
    left, right = (play(lambda good, trips, arm=arm: arm, 0)[1] for arm in (0, 1))
    same = [t for t in range(1, 25) if np.array_equal(left[t], right[t])]
    assert same == AT_THE_FORK


@pytest.mark.parametrize(
    ("player", "returns"),
    [
        (lambda good, trips: good, {8.0}),
        (lambda good, trips: 1 - good, {-8.0}),
        (lambda good, trips: 0, {8.0, -8.0}),
        (alternates, {0.0}),
    ],
)
def test_what_players_get(player, returns):
    found = [sum(play(player, seed)[2]) for seed in range(200)]
    assert set(found) == returns
    assert np.mean(found) == pytest.approx(np.mean(list(returns)), abs=2)


def test_the_preset_is_of_this_world():
    cfg = checked(PRESETS["maze"])
    assert domain_of(cfg).name == "maze"
    assert cfg.memory == "gru"
    assert cfg.world_model.horizon >= TRIPS * TRIP  # from the first frame to the last
    with pytest.raises(ValueError, match="--env-id: --domain maze is"):
        domain_of(cfg).checked(PRESETS["catch"])
