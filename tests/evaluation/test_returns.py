import math

import numpy as np
import pytest
import torch

from diamond_fast.domains.environments import make_real_env
from diamond_fast.envs.real import RealEnv
from diamond_fast.envs.slot import SlotStep
from diamond_fast.evaluation.intervals import ci95
from diamond_fast.evaluation.returns import Evaluation, evaluate
from diamond_fast.replay import Replay
from diamond_fast.spec import Discrete, Frame


class UniformPolicy:
    lstm_dim = 1

    def __init__(self):
        self.device = torch.device("cpu")

    def predict_act_value(self, obs, hx_cx):
        return torch.zeros(len(obs), 3), torch.zeros(len(obs)), hx_cx


class CoinSlot:
    """A game is won (+1, 40 steps) or lost (-1, 4 steps) with equal chances: the short games are the lost ones."""

    action = Discrete(3)
    frame = Frame(1, 1, 3)
    seed_lasts = 0

    def reset(self, seed):
        self.won = bool(seed % 2)
        self.left = 40 if self.won else 4
        return self.picture(), 0

    def picture(self):
        return np.full(self.frame.shape, self.left, np.uint8)

    def send(self, action):
        pass

    def recv(self):
        self.left -= 1
        over = self.left == 0
        return SlotStep(self.picture(), over * (1.0 if self.won else -1.0), over, False, 0, None)

    def close(self):
        pass


class CountingEnv(RealEnv):
    """Counts the games' own steps."""

    def _step(self, actions, stepped):
        self.num_steps = getattr(self, "num_steps", 0) + len(stepped)
        super()._step(actions, stepped)


def test_short_games_are_not_favoured():
    """Of the games that end first among 8 environments, most would be lost ones."""
    env = CountingEnv(CoinSlot, 8, done_on_life_loss=False)
    won, first = [], []
    for index in range(50):
        result = evaluate(UniformPolicy(), env, num_episodes=10, seed=1, index=index)
        assert len(result.returns) == 10
        np.testing.assert_array_equal(result.lengths, np.where(result.returns > 0, 40, 4))
        won.append((result.returns > 0).mean())
        # What taking the first ten to end would have given: each environment's games follow one another in time.
        times = np.concatenate([np.cumsum(result.lengths[i::8]) for i in range(8)])
        outcomes = np.concatenate([result.returns[i::8] for i in range(8)])
        first.append((outcomes[np.argsort(times)[:5]] > 0).mean())
    env.close()
    assert abs(np.mean(won) - 0.5) < 4 * np.sqrt(0.25 / 500)
    assert np.mean(first) < 0.3


def test_environments_that_are_done_stand_still():
    env = CountingEnv(CoinSlot, 8, done_on_life_loss=False)
    for num_episodes in (1, 5, 8, 19):
        env.num_steps = 0
        result = evaluate(UniformPolicy(), env, num_episodes, seed=0)
        assert env.num_steps == result.lengths.sum()
        assert env.active.all()
    env.close()


def test_games_are_dealt_out_in_turn():
    env = RealEnv(CoinSlot, 3, done_on_life_loss=False)
    result = evaluate(UniformPolicy(), env, 11, seed=4, index=2)
    env.reset(seed=int(np.random.SeedSequence((4, 2)).generate_state(2)[0]))
    played = [[], [], []]
    while min(map(len, played)) < 4:
        _, rewards, ends, *_ = env.step(np.zeros(3, int))
        for i in np.flatnonzero(ends):
            played[i].append(rewards[i])
    env.close()
    assert result.returns.tolist() == [played[game % 3][game // 3] for game in range(11)]


def catch(num_envs):
    return make_real_env(None, "diamond_fast/Catch-v0", num_envs, 24, done_on_life_loss=False)


def test_results_depend_on_seed_and_index_alone():
    env = catch(4)
    a, b, c, d = (evaluate(UniformPolicy(), env, 10, seed, index) for seed, index in ((0, 1), (0, 1), (0, 2), (1, 1)))
    env.close()
    np.testing.assert_array_equal(a.returns, b.returns)
    assert (a.returns != c.returns).any()
    assert (a.returns != d.returns).any()
    assert set(a.lengths) == {49}


def test_an_untrained_policy_scores_as_catch_says():
    env = catch(8)
    result = evaluate(UniformPolicy(), env, 200, seed=7)
    env.close()
    assert abs(result.mean + 2.5) < 4 * math.sqrt(5 * 4 * 0.25 * 0.75 / 200)
    assert result.std == pytest.approx(np.std(result.returns, ddof=1))


def test_games_are_stored_whole():
    env, replay = catch(3), Replay((24, 24, 3), num_envs=1, capacity=1000)
    result = evaluate(UniformPolicy(), env, 7, seed=0, replay=replay)
    again = evaluate(UniformPolicy(), env, 2, seed=0, index=1, replay=replay)
    env.close()
    assert replay.num_episodes == 9
    np.testing.assert_array_equal(replay.lengths, [49] * 9)
    stored = [replay.episode(i) for i in range(9)]
    # Games of equal length end in the order they were dealt out.
    assert [episode.rew.sum() for episode in stored] == [*result.returns, *again.returns]
    for episode in stored:
        assert episode.end.tolist() == [False] * 48 + [True]
        ball = (episode.obs == 255).all(axis=3)
        rows = [np.nonzero(frame)[0].min() for frame in ball]
        assert rows == [3 + 2 * (t % 10) for t in range(49)]
        assert np.nonzero((episode.final_obs == 255).all(axis=2))[0].min() == 21
        paddle = [np.nonzero((frame[23] == (0, 255, 0)).all(axis=1))[0].min() for frame in episode.obs[:9]]
        moved = np.clip(paddle[:-1] + 3 * (episode.act[:8] - 1), 0, 18)
        np.testing.assert_array_equal(moved, paddle[1:])


def test_only_the_first_games_are_stored():
    env, whole, part = catch(3), *(Replay((24, 24, 3), num_envs=1, capacity=1000) for _ in range(2))
    result = evaluate(UniformPolicy(), env, 7, seed=0, replay=whole)
    again = evaluate(UniformPolicy(), env, 7, seed=0, replay=part, num_stored=4)
    env.close()
    np.testing.assert_array_equal(result.returns, again.returns)
    assert part.num_episodes == 4
    for i in range(4):
        np.testing.assert_array_equal(part.episode(i).obs, whole.episode(i).obs)


def test_arguments_are_checked():
    env = catch(1)
    with pytest.raises(ValueError, match=r"^num_episodes: expected at least 1, got 0"):
        evaluate(UniformPolicy(), env, 0, seed=0)
    with pytest.raises(ValueError, match=r"^replay: expected one made for num_envs=1, got 2"):
        evaluate(UniformPolicy(), env, 1, seed=0, replay=Replay((24, 24, 3), num_envs=2, capacity=10))
    env.close()
    env = make_real_env(None, "diamond_fast/Catch-v0", 1, 24, done_on_life_loss=True)
    with pytest.raises(ValueError, match=r"^env: expected full games"):
        evaluate(UniformPolicy(), env, 1, seed=0)
    env.close()


def test_the_interval_is_that_of_the_returns():
    returns = np.array([1.0, 2.0, 6.0])
    assert Evaluation(returns, np.ones(3)).ci95 == ci95(returns)


def test_a_single_game_has_no_deviation():
    result = Evaluation(np.array([4.0]), np.array([10]))
    assert result.mean == 4
    assert math.isnan(result.std)
    assert math.isnan(result.ci95)
    assert str(result) == "4.0 (1 episode)"
    assert str(Evaluation(np.array([1.0, 2.0]), np.ones(2))) == "1.5 +- 6.4 (95 % interval, 2 episodes)"
