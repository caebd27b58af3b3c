"""Collection steps a second beside bare emulator stepping, and Python preprocessing in Gymnasium's AsyncVectorEnv.

    pytest benchmarks/test_collect.py --benchmark-json=collect.json     (needs opencv-python-headless)

The candidates take short turns in one process; `extra_info` holds the best turn of each (what else the machine does can
only slow one down), the median turn, and ratios of the best. Run it on a quiet machine: `load` says how quiet it was.

All candidates draw random actions, so that what is measured is collection without the policy; only `collect` stores
what it plays, in the replay buffer. `collect_with_policy` plays a policy whose network costs nothing: what is left is
frames to floats and sampling.
"""

import itertools
import os
import time

import numpy as np
import pytest
import torch
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from diamond_fast.envs.real import make_real_env
from diamond_fast.replay import Replay
from diamond_fast.training.collect import Collector

GAME = "Boxing"
STEPS_PER_TURN = 200
ROUNDS = 60


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


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("num_envs", [1, 4, 8])
def test_collection(benchmark, num_envs):
    pytest.importorskip("cv2")
    from published_atari import PublishedAtari

    # First the processes, while there are no threads to fork.
    published = AsyncVectorEnv([lambda: PublishedAtari(GAME)] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
    bare = AtariVectorEnv(
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
    replay = Replay(num_envs=num_envs, capacity=STEPS_PER_TURN * (2 * ROUNDS + 10))
    policy, collector = UniformPolicy(num_envs, env.num_actions), Collector(env, seed=0)
    with_policy, without_policy = collector._player, RandomPlayer(num_envs, env.num_actions)
    rng = np.random.default_rng(0)

    def step_at_random(vector_env) -> None:
        for actions in rng.integers(0, env.num_actions, (STEPS_PER_TURN // num_envs, num_envs)):
            vector_env.step(actions)

    def collect(player) -> None:
        collector._player = player
        collector.collect(policy, replay, STEPS_PER_TURN, epsilon=0.01)

    candidates = {
        "collect": lambda: collect(without_policy),
        "collect_with_policy": lambda: collect(with_policy),
        "bare_ale": lambda: step_at_random(bare),
        "async_vector_env": lambda: step_at_random(published),
    }
    published.reset(seed=0)
    bare.reset(seed=0)
    collector.collect(policy, replay, num_envs)
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(ROUNDS):
        for name, call in candidates.items():
            start = time.perf_counter()
            call()
            rates[name].append(STEPS_PER_TURN / (time.perf_counter() - start))
    best = {name: max(rate) for name, rate in rates.items()}
    for name, rate in rates.items():
        benchmark.extra_info[f"{name}_steps_per_s"] = {"best": round(best[name]), "median": round(np.median(rate))}
    for other in ("bare_ale", "async_vector_env"):
        benchmark.extra_info[f"collect_over_{other}"] = round(best["collect"] / best[other], 3)
    benchmark.extra_info["load"] = round(os.getloadavg()[0], 2)
    benchmark.pedantic(candidates["collect"], rounds=1)
    published.close()
    env.close()
