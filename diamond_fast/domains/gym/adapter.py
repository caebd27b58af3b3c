"""Any Gymnasium environment with image observations as one slot of a real environment."""

import difflib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import gymnasium
import numpy as np

import diamond_fast.domains.catch.env
import diamond_fast.domains.doom.env
import diamond_fast.domains.driving.env
import diamond_fast.domains.maze.env
import diamond_fast.domains.recall.env
import diamond_fast.domains.roll.env  # noqa: F401 (they register their environments)
from diamond_fast.area import AreaResize
from diamond_fast.domains.gym.actions import adapt_actions
from diamond_fast.domains.gym.images import Images
from diamond_fast.envs.failure import EnvironmentFailedError, blamed
from diamond_fast.envs.slot import SlotStep
from diamond_fast.spec import Frame

_GREATEST_REWARD = float(np.finfo(np.float32).max)


class GymSlot:
    """A Gymnasium environment whose frames become uint8 RGB of one size, by area averaging.

    Every episode has a seed of its own, given to the environment's ``reset``. A state (seed and actions) brings an
    environment back exactly if it draws all random numbers from what ``reset(seed=...)`` seeds, reads no clock and
    keeps nothing from earlier episodes: true of what follows Gymnasium's rules, and checked against the frame
    whenever a state is loaded.

    Args:
        env_id: a registered id, e.g. CarRacing-v3, or module:id.
        frame_size: of the frames in pixels: height and width, or one number for both.
        env_kwargs: arguments of the environment.

    Raises:
        ValueError: the id is unknown, or its observations or actions are none that ``Images`` and ``adapt_actions``
            take.
        EnvironmentFailedError: the environment raised something; so do ``reset`` and ``recv``, even if it gave a
            frame or a reward that is none.
    """

    seed_lasts = 0

    def __init__(self, env_id: str, frame_size: int | tuple[int, int], env_kwargs: Mapping[str, Any] | None = None):
        self.name = env_id
        self._env = make_gym_env(env_id, env_kwargs or {})
        self.frame = Frame.of_size(frame_size)
        try:
            self.action, self._adapted = adapt_actions(env_id, self._env.action_space)
            self._images = Images(env_id, self._env.observation_space)
        except ValueError:
            self._env.close()
            raise
        self._resize = AreaResize((self._images.height, self._images.width), self.frame.shape[:2])
        self._next_action: Any = None

    def reset(self, seed: int) -> tuple[np.ndarray, int]:
        with blamed(self.name, "reset"):
            obs, info = self._env.reset(seed=seed)
            return self._frame(obs), _lives(info)

    def send(self, action: np.ndarray) -> None:
        self._next_action = self._adapted(action)

    def recv(self) -> SlotStep:
        with blamed(self.name, "step"):
            obs, reward, terminated, truncated, info = self._env.step(self._next_action)
            reward = self._reward(reward)
            return SlotStep(self._frame(obs), reward, bool(terminated), bool(truncated), _lives(info), None)

    def close(self) -> None:
        with blamed(self.name, "close"):
            self._env.close()

    def _frame(self, obs: Any) -> np.ndarray:
        return self._resize(self._images(obs))

    def _reward(self, reward: Any) -> float:
        value = np.nan
        with suppress(TypeError, ValueError):
            value = float(np.asarray(reward).item())  # an array of one number is a number
        if not abs(value) <= _GREATEST_REWARD:
            shown = " ".join(str(reward).split())[:80]
            raise EnvironmentFailedError(
                f"the environment {self.name} gave a reward of {shown}; expected a finite number that fits in float32"
            )
        return value


def _lives(info: Any) -> int:
    return int(info.get("lives", 0)) if isinstance(info, Mapping) else 0


def make_gym_env(env_id: str, kwargs: Mapping[str, Any]) -> gymnasium.Env:
    """``gymnasium.make``. Raises as :class:`GymSlot`, unless observations or actions are the reason."""
    try:
        with blamed(env_id, "being made"):
            # Gymnasium's own checker says in many lines what is checked here in one.
            return gymnasium.make(env_id, **{"disable_env_checker": True, **kwargs})
    except EnvironmentFailedError as failure:
        error = failure.__cause__
        if isinstance(error, gymnasium.error.UnregisteredEnv):
            raise ValueError(f'unknown environment "{env_id}"; {_hint(env_id) or error}') from error
        if isinstance(error, gymnasium.error.Error | ModuleNotFoundError):
            raise ValueError(f'environment "{env_id}" cannot be made: {" ".join(str(error).split())}') from error
        raise


def _hint(env_id: str) -> str | None:
    """What was probably meant by an id that nobody registered."""
    near = difflib.get_close_matches(env_id, gymnasium.registry, n=1)
    return f"did you mean {near[0]}?" if near else None
