"""Stable-Baselines3's PPO inside a world model: all episodes are imagined in one batch.

pip install "diamond_fast[sb3]"
python examples/stable_baselines3_ppo.py runs/Catch-v0-... --steps 200000
"""

import argparse
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

ENVIRONMENT = "diamond_fast.gymnasium_envs:diamond_fast/WorldModel-v0"
SMALLEST_FOR_CNN = 36  # pixels: what Stable-Baselines3's convolutional policy needs


class ImaginedVecEnv(VecEnv):
    """A Gymnasium vector environment that resets in the same step, as Stable-Baselines3 wants its own."""

    def __init__(self, env: gymnasium.vector.VectorEnv):
        self.env = env
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self._seed: int | None = None

    def reset(self) -> np.ndarray:
        obs, _ = self.env.reset(seed=self._seed)
        self._seed = None
        return obs

    def seed(self, seed: int | None = None) -> list[int | None]:
        self._seed = seed
        return [seed] * self.num_envs

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        obs, rewards, ended, cut, info = self.env.step(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(ended | cut):
            infos[i] = {
                "terminal_observation": info["final_obs"][i],
                "TimeLimit.truncated": bool(cut[i] and not ended[i]),
            }
        return obs, rewards, ended | cut, infos

    def close(self) -> None:
        self.env.close()

    def get_attr(self, attr_name, indices=None):
        return [getattr(self.env, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name, value, indices=None):
        raise ValueError(f"{attr_name}: the episodes are one batch, and have no attributes of their own")

    def env_method(self, method_name, *args, indices=None, **kwargs):
        raise ValueError(f"{method_name}: the episodes are one batch, and have no methods of their own")

    def env_is_wrapped(self, wrapper_class, indices=None):
        return [False] * len(list(self._get_indices(indices)))


def train(env: gymnasium.vector.VectorEnv, total_steps: int, n_steps: int = 32, **settings: Any) -> PPO:
    """A policy of Stable-Baselines3, trained in imagination alone."""
    height, width, _ = env.single_observation_space.shape
    policy = "CnnPolicy" if min(height, width) >= SMALLEST_FOR_CNN else "MlpPolicy"
    model = PPO(policy, VecMonitor(ImaginedVecEnv(env)), n_steps=n_steps, gamma=0.985, seed=0, device="cpu", **settings)
    return model.learn(total_steps)


def main(*argv: str) -> PPO:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--num-envs", type=int, default=32)
    parser.add_argument("--save", default="ppo.zip")
    args = parser.parse_args(argv or None)
    model = train(gymnasium.make_vec(ENVIRONMENT, num_envs=args.num_envs, run=args.run), args.steps, verbose=1)
    model.save(args.save)
    return model


if __name__ == "__main__":
    main()
