import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import diamond_fast.domains.catch.env  # noqa: F401 (registers it)
from diamond_fast.domains.catch.env import BALLS_PER_EPISODE, Catch

WHITE, GREEN, RED = (255, 255, 255), (0, 255, 0), (255, 0, 0)


def where(frame, colour):
    """Rows and columns of the pixels of a colour."""
    return np.nonzero((frame == colour).all(axis=2))


def perfect_action(frame):
    """Reads the frame alone: go under the ball."""
    ball, paddle = where(frame, WHITE)[1].min(), where(frame, GREEN)[1].min()
    return 1 + np.sign(ball - paddle) * (not paddle <= ball <= paddle + 3)


def play(env, choose, seed):
    frame, _ = env.reset(seed=seed)
    frames, rewards, done = [frame], [], False
    while not done:
        frame, reward, done, truncated, _ = env.step(choose(frame))
        assert not truncated
        frames.append(frame)
        rewards.append(reward)
    return frames, rewards


def test_gymnasium_accepts_it():
    check_env(gymnasium.make("diamond_fast/Catch-v0").unwrapped, skip_render_check=True)


def test_a_perfect_player_catches_all_balls():
    env = Catch()
    for seed in range(100):
        _, rewards = play(env, perfect_action, seed)
        assert sum(rewards) == BALLS_PER_EPISODE
        assert len(rewards) == 10 * BALLS_PER_EPISODE - 1


def test_every_ball_can_be_reached_from_everywhere():
    env = Catch()
    for ball_x in range(0, 24, 3):
        for paddle_x in range(0, 19, 3):
            frame, _ = env.reset(seed=0)
            env._ball_x, env._paddle_x = ball_x, paddle_x
            frame, rewards = env.render(), []
            while not any(rewards):
                frame, reward, *_ = env.step(perfect_action(frame))
                rewards.append(reward)
            assert rewards == [0] * 8 + [1]


@pytest.mark.parametrize("choose", [lambda frame: 0, lambda frame: 1, lambda frame: hash(frame.tobytes()[-72:]) % 3])
def test_a_player_who_does_not_look_scores_minus_2_5(choose):
    env, num_episodes = Catch(), 800
    rewards = np.concatenate([play(env, choose, seed)[1] for seed in range(num_episodes)])
    landed = rewards != 0
    assert landed.sum() == num_episodes * BALLS_PER_EPISODE
    caught = (rewards == 1).sum() / landed.sum()
    assert abs(caught - 0.25) < 4 * np.sqrt(0.25 * 0.75 / landed.sum())


def test_the_frame_shows_all_there_is_to_know():
    frames, rewards = play(Catch(), lambda frame: 2, seed=3)
    for t, frame in enumerate(frames):
        rows, columns = where(frame, WHITE)
        assert len(rows) == 9
        assert rows.min() == 3 + 2 * (t % 10)
        if t % 10:  # straight down
            assert columns.min() == where(frames[t - 1], WHITE)[1].min()
        assert len(where(frame, RED)[0]) == 4 * (BALLS_PER_EPISODE - 1 - t // 10)
        if t > 0:
            assert (rewards[t - 1] != 0) == (rows.min() == 21)
