"""Collection steps a second against bare emulator stepping, and Python preprocessing in Gymnasium's AsyncVectorEnv.

    pytest benchmarks/test_collect.py --benchmark-only          (the latter needs opencv-python-headless)

All candidates draw random actions, so that what is measured is collection without the policy; only ours store what
they play, in the replay buffer. The second of ours plays a policy whose network costs nothing: what is left is frames
to floats and sampling.
"""

import itertools
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from diamond_fast.domains.environments import make_real_env
from diamond_fast.replay import Replay
from diamond_fast.training.collect import Collector

GAME = "Boxing"
STEPS_PER_CALL = 200
CALLS_PER_REPLAY = 50
pytestmark = pytest.mark.usefixtures("one_thread")


class UniformPolicy:
    """Logits of 0, at no cost."""

    lstm_dim = 1
    device = torch.device("cpu")

    def __init__(self, num_envs: int, num_actions: int):
        self._answer = torch.zeros(num_envs, num_actions), torch.zeros(num_envs)

    def predict_act_value(self, obs, hx_cx):
        return *self._answer, hx_cx


class RandomPlayer:
    """Draws actions as the other candidates do."""

    def __init__(self, num_envs: int, num_actions: int):
        self._actions = itertools.cycle(np.random.default_rng(0).integers(0, num_actions, (1000, num_envs)))

    def act(self, *_) -> np.ndarray:
        return next(self._actions)

    def forget(self, ended: np.ndarray) -> None:
        pass


def published_env(num_envs: int) -> AsyncVectorEnv:
    from published_atari import PublishedAtari

    return AsyncVectorEnv([lambda: PublishedAtari(GAME)] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)


@pytest.mark.parametrize("num_envs", [1, 4, 8])
def test_collection(measure, num_envs):
    others = {}
    if find_spec("cv2") is not None:  # first the processes, while there are no threads to fork
        others["AsyncVectorEnv"] = published_env(num_envs)
    others["bare emulator"] = AtariVectorEnv(
        GAME.lower(),
        num_envs,
        img_height=64,
        img_width=64,
        grayscale=False,
        stack_num=1,
        use_fire_reset=False,
        reward_clipping=False,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    env = make_real_env(GAME, None, num_envs, 64, done_on_life_loss=True)
    policy, collector = UniformPolicy(num_envs, env.action.n), Collector(env, seed=0)
    with_policy, without_policy = collector._player, RandomPlayer(num_envs, env.action.n)
    rng = np.random.default_rng(0)

    def stepping(vector_env):
        def step_at_random() -> None:
            for actions in rng.integers(0, env.action.n, (STEPS_PER_CALL // num_envs, num_envs)):
                vector_env.step(actions)

        vector_env.reset(seed=0)
        return step_at_random

    def collecting(player):
        calls, replay = 0, None

        def collect() -> None:
            nonlocal calls, replay
            if calls % CALLS_PER_REPLAY == 0:
                replay = Replay(num_envs=num_envs, capacity=STEPS_PER_CALL * CALLS_PER_REPLAY)
            calls += 1
            collector._player = player
            collector.collect(policy, replay, STEPS_PER_CALL, epsilon=0.01)

        return collect

    collector.collect(policy, Replay(num_envs=num_envs, capacity=num_envs), num_envs)
    candidates = {
        "collection": collecting(without_policy),
        "collection with a policy": collecting(with_policy),
        **{name: stepping(vector_env) for name, vector_env in others.items()},
    }
    turns = measure.take_turns(candidates)
    left_out = {} if "AsyncVectorEnv" in others else {"AsyncVectorEnv": "needs opencv-python-headless"}
    case, work = {"environments": num_envs}, STEPS_PER_CALL
    measure.row("collection", case, turns, "collection", work=work, unit="steps/s", left_out=left_out)
    for vector_env in (*others.values(), env):
        vector_env.close()
