"""A real environment on the policy's device, for training without a world model."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from diamond_fast.engine.rollout import EnvStep
from diamond_fast.envs.real import RealEnv
from diamond_fast.frames import to_float


class OnDeviceEnv:
    """Satisfies ``engine.rollout.BatchedEnv`` over any of the real environments in this package."""

    def __init__(self, env: RealEnv, device: torch.device, seed: int):
        self.env = env
        self.device = device
        self.seed = seed
        self.num_envs = env.num_envs
        self.num_steps = 0

    def reset(self) -> Tensor:
        obs, _ = self.env.reset(seed=self.seed)
        return self._to_float(obs)

    def step(self, act: Tensor) -> EnvStep:
        obs, *flags, info = self.env.step(act.cpu().numpy())
        self.num_steps += self.num_envs
        rew, end, trunc = (torch.from_numpy(np.asarray(x)).to(self.device) for x in flags)
        return EnvStep(self._to_float(obs), rew.float(), end, trunc, self._to_float(info["final_obs"]), burnin_obs=None)

    def begin_epoch(self) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {"env": self.env.state_dict() if self.num_steps else None, "num_steps": self.num_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_steps = state["num_steps"]
        if self.num_steps:
            self.env.load_state_dict(state["env"])

    def _to_float(self, frames: np.ndarray) -> Tensor:
        return to_float(torch.from_numpy(frames).to(self.device))
