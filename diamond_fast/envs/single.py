"""One imagined episode at a time, as a ``gymnasium.Env``."""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch

from diamond_fast.envs.world_model import WorldModelEnv


class SingleWorldModelEnv(gymnasium.Env):
    """``WorldModelEnv`` with a single episode: uint8 frames [H,W,C], a number as reward. The caller resets.

    Several of these cost as many times one; a batch in ``WorldModelEnv`` costs far less.

    Args:
        env: of one episode. It is closed with this one.

    Raises:
        ValueError: ``env`` has several.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012

    def __init__(self, env: WorldModelEnv):
        if env.num_envs != 1:
            raise ValueError(f"env: expected one of a single episode, got {env.num_envs}")
        self._env = env
        self.observation_space = env.single_observation_space
        self.action_space = env.single_action_space
        self.render_mode = env.render_mode
        self._begun: np.ndarray | None = None  # the next episode's first frame: the batch resets by itself
        self._shown: np.ndarray | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode from a real context. A seed fixes contexts, noise, rewards and ends from here on."""
        super().reset(seed=seed)
        if seed is None and self._begun is not None:
            obs = self._begun
        else:
            obs = self._env.reset(seed=seed)[0][0]
        self._begun, self._shown = None, obs
        return obs.copy(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        Raises:
            RuntimeError: before the first reset, or when the episode is over.
            TypeError, ValueError: the action is of another kind, shape or range.
        """
        if self._begun is not None:
            raise RuntimeError("step: the episode is over; call reset first")
        obs, reward, ended, cut, info = self._env.step(np.asarray(action)[None])
        if ended[0] or cut[0]:
            self._begun = obs[0]
        self._shown = info["final_obs"][0]
        return self._shown.copy(), float(reward[0]), bool(ended[0]), bool(cut[0]), {}

    def get_state(self) -> dict[str, Any]:
        """As ``WorldModelEnv.get_state``, which says more."""
        frames = {"begun": self._begun, "shown": self._shown}
        return {"env": self._env.get_state()} | {
            name: None if frame is None else torch.from_numpy(frame.copy()) for name, frame in frames.items()
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """As ``WorldModelEnv.set_state``, which says more."""
        if state.keys() != {"env", "begun", "shown"}:
            raise ValueError("state: expected what get_state returned")
        self._env.set_state(state["env"])
        self._begun, self._shown = (x if x is None else x.numpy().copy() for x in (state["begun"], state["shown"]))

    def render(self) -> np.ndarray | None:
        """The current frame, uint8 [H,W,C]; None without a render mode."""
        return None if self.render_mode is None else self._shown

    def close(self) -> None:
        self._env.close()
