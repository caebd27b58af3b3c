"""Recall: what its frames show, and what players with and without a memory get."""

import numpy as np
import pytest

from diamond_fast.config_checks import checked
from diamond_fast.domains import domain_of
from diamond_fast.domains.recall.env import HIDDEN, MOVES, STAYS, Recall, side_of
from diamond_fast.presets import PRESETS

BALL, PADDLE, CLOCK, LEFT = (255, 255, 255), (0, 255, 0), (255, 0, 0), (0, 0, 96)


def columns(frame, colour):
    """Those that have the colour, in order."""
    return np.nonzero((frame == colour).all(axis=2).any(axis=0))[0].tolist()


def play(player, seed):
    """Actions of player(side of the ball that the first frame shows, t). -> game, frames, rewards"""
    game = Recall()
    frame, _ = game.reset(seed=seed)
    seen = 2 * (columns(frame, BALL)[0] > 12)
    frames, rewards, over = [frame], [], False
    while not over:
        frame, reward, over, cut, _ = game.step(player(seen, len(rewards)))
        assert not cut
        frames.append(frame)
        rewards.append(reward)
    return game, np.stack(frames), rewards


def test_a_ball_is_seen_once_and_comes_back():
    sides = set()
    for seed in range(20):
        game, frames, rewards = play(lambda seen, t: seen, seed)
        ball = list(range(24))[side_of(game.ball)]
        sides.add(game.ball)
        shown = [columns(frame, BALL) for frame in frames]
        assert shown == [ball, *[[]] * (HIDDEN - 1), *[ball] * STAYS]
        assert columns(frames[-1], PADDLE) == ball
        assert [len(columns(frame, CLOCK)) for frame in frames] == list(range(HIDDEN + STAYS))
        assert rewards == [0.0] * (HIDDEN - 1) + [1.0] * STAYS
        assert all(columns(frame, LEFT) == list(range(12)) for frame in frames)
        assert frames.shape[1:] == (24, 24, 3)
    assert sides == {0, 2}


def test_between_the_balls_nothing_tells_the_side():
    """Frames 1 to 19 of two games with the ball on other sides are the same under the same actions."""
    games = {game.ball: frames for game, frames, _ in (play(lambda seen, t: 1, seed) for seed in range(20))}
    assert np.array_equal(games[0][1:HIDDEN], games[2][1:HIDDEN])
    assert not np.array_equal(games[0][HIDDEN], games[2][HIDDEN])


@pytest.mark.parametrize(
    ("player", "mean"),
    [
        (lambda seen, t: seen, 5.0),  # it remembers
        (lambda seen, t: seen if t == 0 else 1, 5.0),  # it goes there at once, and stays
        (lambda seen, t: 0, 0.0),  # always on the left
        (lambda seen, t: 1, 0.0),  # always in the middle
        (lambda seen, t: 1 if t < MOVES else seen, 0.0),  # too late: it stays in the middle
        (lambda seen, t: 2 - seen, -5.0),
    ],
)
def test_what_players_get(player, mean):
    returns = [sum(play(player, seed)[2]) for seed in range(200)]
    assert np.mean(returns) == pytest.approx(mean, abs=0.75 if mean == 0 else 0)


def test_the_preset_is_of_this_world():
    cfg = checked(PRESETS["recall"])
    assert domain_of(cfg).name == "recall"
    assert cfg.memory == "gru"
    assert cfg.world_model.horizon > HIDDEN  # an imagined episode that begins with the ball sees it come back
    with pytest.raises(ValueError, match="--env-id: --domain recall is"):
        domain_of(cfg).checked(PRESETS["catch"])
