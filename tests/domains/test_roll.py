"""Roll: what a perfect, a random and an idle player get, and what its frames show."""

import numpy as np
import pytest

from diamond_fast.config_checks import checked
from diamond_fast.domains import DOMAINS, domain_of
from diamond_fast.domains.roll.env import Roll, scripted_push
from diamond_fast.presets import PRESETS

BALL, CUP = (255, 255, 255), (0, 255, 0)


def play(push, seed):
    """Pushes of ``push(game)`` to the end. -> rewards, last frame"""
    game = Roll()
    game.reset(seed=seed)
    rewards, over = [], False
    while not over:
        frame, reward, over, cut, _ = game.step(np.array([push(game)], np.float32))
        assert not cut
        rewards.append(reward)
    return rewards, frame


def places(frame, colour):
    """First and last row, first and last column of what has that colour."""
    rows, columns = np.nonzero((frame == colour).all(axis=2))
    return rows.min(), rows.max(), columns.min(), columns.max()


def test_a_perfect_player_always_scores():
    for seed in range(200):
        rewards, frame = play(scripted_push, seed)
        assert rewards == [0.0] * 8 + [1.0, 0.0]
        (top, bottom, left, right), (cup_top, cup_bottom, cup_left, cup_right) = places(frame, BALL), places(frame, CUP)
        assert (top, bottom, cup_bottom) == (cup_top, 22, 23)
        assert cup_left < left
        assert right < cup_right


@pytest.mark.parametrize("player", ["random", "idle"])
def test_others_score_in_one_game_of_three(player):
    """The means that the test of learning counts from: -0.33 and -0.30 over 2000 games."""
    rng = np.random.default_rng(0)
    push = (lambda game: rng.uniform(-1, 1)) if player == "random" else (lambda game: 0.0)
    mean = np.mean([sum(play(push, seed)[0]) for seed in range(600)])
    assert -0.45 < mean < -0.2


def test_the_ball_has_speed_and_the_lane_has_walls():
    game = Roll()
    game.reset(seed=0)
    game.x = 10.0
    for push, x in ((1.0, 11.5), (0.0, 12.25), (-1.0, 11.125), (5.0, 12.0625)):
        game.step(np.array([push], np.float32))
        assert game.x == x
    game.x, game.speed = 20.5, 3.0
    frame, *_ = game.step(np.array([1.0], np.float32))
    assert (game.x, game.speed) == (21.0, 0.0)
    assert places(frame, BALL) == (12, 14, 21, 23)


def test_roll_by_its_name_is_roll_by_its_id():
    cfg = checked(PRESETS["roll"])
    assert domain_of(cfg) is DOMAINS["roll"]
    with pytest.raises(ValueError, match=r"^--env-id: --domain roll is diamond_fast/Roll-v0, got CarRacing-v3"):
        DOMAINS["roll"].checked(PRESETS["catch"].__class__(env_id="CarRacing-v3"))


def test_a_ball_that_has_arrived_stays_for_a_step_and_no_push_moves_it():
    game = Roll()
    game.reset(seed=3)
    for _ in range(9):
        frame, _, over, *_ = game.step(np.array([0.5], np.float32))
        assert not over
    last, reward, over, *_ = game.step(np.array([-1.0], np.float32))
    assert (reward, over) == (0.0, True)
    np.testing.assert_array_equal(last, frame)
