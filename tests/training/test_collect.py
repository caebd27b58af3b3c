"""Collection against a plain-Python account of what a policy that can be computed by hand must do."""

import numpy as np
import pytest
import torch
from worlds import world

from diamond_fast.config import ActorCriticConfig
from diamond_fast.domains.environments import make_real_env
from diamond_fast.networks.actor_critic.model import ActorCritic
from diamond_fast.replay import Replay
from diamond_fast.training.collect import Collector


@pytest.fixture(autouse=True)
def one_thread():
    """The networks are too small for two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class CountingPolicy:
    """Counts the steps since an episode's start in its LSTM state, and prefers the action count % 3 by ``margin``."""

    lstm_dim = 2
    device = torch.device("cpu")

    def __init__(self, margin=100.0):
        self.margin = margin
        self.seen = []

    def predict_act_value(self, obs, hx_cx):
        hx, cx = hx_cx
        self.seen.append((obs.clone(), hx[:, 0].tolist()))
        logits = self.margin * torch.nn.functional.one_hot(hx[:, 0].long() % 3, 3).float()
        return logits, torch.zeros(len(hx)), (hx + 1, cx + 2)


class Recorder:
    """Takes what a replay buffer takes."""

    def __init__(self):
        self.steps, self.commits = [], 0

    def append(self, *arrays):
        self.steps.append([np.array(array) for array in arrays])

    def commit(self):
        self.commits += 1


def catch(num_envs):
    return make_real_env(None, "diamond_fast/Catch-v0", num_envs, 24, done_on_life_loss=True)


def test_collects_what_was_played():
    num_envs, num_steps = 3, 240
    env, policy, recorder = catch(num_envs), CountingPolicy(), Recorder()
    collected = Collector(env, seed=5).collect(policy, recorder, num_steps)
    env.close()
    assert collected.num_steps == num_steps
    assert len(recorder.steps) == num_steps // num_envs == 80
    assert recorder.commits == 1

    env = catch(num_envs)  # the same games again, by hand
    obs, _ = env.reset(seed=5)
    age, score, returns, lengths = np.zeros(3, int), np.zeros(3), [], []
    for stored, (seen, hx) in zip(recorder.steps, policy.seen, strict=True):
        np.testing.assert_array_equal(hx, age)
        torch.testing.assert_close(seen, torch.from_numpy(obs).permute(0, 3, 1, 2).float() / 255 * 2 - 1)
        act = age % 3  # a margin of 100 leaves nothing to chance
        next_obs, rew, end, trunc, info = env.step(act)
        for got, true in zip(stored, (obs, act, rew, end, trunc, info["final_obs"]), strict=True):
            np.testing.assert_array_equal(got, true)
        obs, age, score = next_obs, age + 1, score + rew
        for i in np.flatnonzero(end | trunc):
            returns.append(score[i])
            lengths.append(age[i])
            age[i] = score[i] = 0
    env.close()
    assert collected.returns == returns
    assert collected.lengths == lengths == [49, 49, 49]


@pytest.mark.parametrize(("num_steps", "num_envs", "taken"), [(0, 2, 0), (1, 2, 2), (7, 3, 9), (100, 1, 100)])
def test_steps_are_rounded_up_to_vector_steps(num_steps, num_envs, taken):
    env, replay = catch(num_envs), Replay((24, 24, 3), num_envs, capacity=1000)
    collected = Collector(env, seed=0).collect(CountingPolicy(), replay, num_steps)
    env.close()
    assert collected.num_steps == replay.num_steps == taken


def test_pieces_equal_one_collection():
    stored = []
    for pieces in ([300], [2, 98, 150, 50]):
        env, recorder = catch(2), Recorder()
        collector, returns = Collector(env, seed=1), []
        for piece in pieces:
            returns += collector.collect(CountingPolicy(margin=1.0), recorder, piece, epsilon=0.1).returns
        env.close()
        stored.append((recorder.steps, returns))
    assert stored[0][1] == stored[1][1]
    for ours, theirs in zip(stored[0][0], stored[1][0], strict=True):
        for x, y in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("before", [0, 2, 74, 98, 100])
def test_goes_on_bit_for_bit_after_loading_a_state(before):
    torch.manual_seed(0)
    policy = ActorCritic(ActorCriticConfig(lstm_dim=16, channels=(8, 8), down=(1, 1)), world(3, 24))
    torch.nn.init.normal_(policy.actor_linear.weight)
    env = catch(2)
    collector = Collector(env, seed=3)
    if before:
        collector.collect(policy, Recorder(), before, epsilon=0.1)
    state = collector.state_dict()
    recorder = Recorder()
    collected = collector.collect(policy, recorder, 150, epsilon=0.1)
    ours = collector.state_dict()
    env.close()

    env, again = catch(2), Recorder()
    other = Collector(env, seed=3)
    other.load_state_dict(state)
    assert other.collect(policy, again, 150, epsilon=0.1) == collected
    for step, step_again in zip(recorder.steps, again.steps, strict=True):
        for x, y in zip(step, step_again, strict=True):
            np.testing.assert_array_equal(x, y)
    theirs = other.state_dict()
    assert ours.keys() == theirs.keys()
    for part in ("env", "player"):
        for key in ours[part]:
            np.testing.assert_array_equal(ours[part][key], theirs[part][key])
    env.close()


def shares(temperature, epsilon, margin, num_envs=16, num_steps=12_000):
    """How often the preferred action was taken, per vector step [T,N]."""
    env, recorder, policy = catch(num_envs), Recorder(), CountingPolicy(margin)
    Collector(env, seed=0).collect(policy, recorder, num_steps, epsilon, temperature)
    env.close()
    preferred = np.array([np.array(hx) % 3 for _, hx in policy.seen])
    return np.array([step[1] for step in recorder.steps]) == preferred


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_actions_follow_the_softmax_at_the_temperature(temperature):
    taken = shares(temperature, epsilon=0.0, margin=1.2)
    p = np.exp(1.2 / temperature) / (np.exp(1.2 / temperature) + 2)
    assert abs(taken.mean() - p) < 4 * np.sqrt(p * (1 - p) / taken.size)


def test_random_actions_come_for_all_environments_together():
    taken = shares(temperature=1.0, epsilon=0.3, margin=100.0)  # without epsilon: always the preferred action
    p = 1 - 0.3 * 2 / 3
    assert abs(taken.mean() - p) < 4 * np.sqrt(16 * p * (1 - p) / taken.size)
    all_preferred = taken.all(axis=1).mean()
    p_all = 0.7 + 0.3 / 3**16  # were the draws independent: p**16 = 0.03
    assert abs(all_preferred - p_all) < 4 * np.sqrt(p_all * (1 - p_all) / len(taken))


def test_arguments_are_checked():
    env = catch(1)
    collector = Collector(env, seed=0)
    with pytest.raises(ValueError, match=r"^num_steps: expected at least 0, got -1"):
        collector.collect(CountingPolicy(), Recorder(), -1)
    with pytest.raises(ValueError, match=r"^epsilon: expected a probability, got 1.5"):
        collector.collect(CountingPolicy(), Recorder(), 1, epsilon=1.5)
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"^temperature: expected above 0"):
            collector.collect(CountingPolicy(), Recorder(), 1, temperature=temperature)
    env.close()
