"""Any Gymnasium environment with image observations and discrete actions as one slot of a real environment."""

import difflib
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

import diamond_fast.domains.catch.env  # noqa: F401 (registers diamond_fast/Catch-v0)
from diamond_fast.area import AreaResize
from diamond_fast.envs.failure import EnvironmentFailedError, blamed
from diamond_fast.envs.slot import SlotStep
from diamond_fast.spec import Action, Discrete, Frame

NUM_FIRST_FRAMES = 100
"""Frames among which one must be brighter than 1 of 255, or a line says so."""
_GREATEST_REWARD = float(np.finfo(np.float32).max)


class GymSlot:
    """A Gymnasium environment whose frames become uint8 RGB of one size, by area averaging.

    Observations of fractions from 0 to 1, as their space must say, are taken times 255 and rounded.

    Every episode has a seed of its own, given to the environment's ``reset``. A state (seed and actions) brings an
    environment back exactly if it draws all random numbers from what ``reset(seed=...)`` seeds, reads no clock and
    keeps nothing from earlier episodes: true of what follows Gymnasium's rules, and checked against the frame
    whenever a state is loaded.

    Args:
        env_id: a registered id, e.g. CarRacing-v3, or module:id.
        frame_size: of the frames in pixels: height and width, or one number for both.
        env_kwargs: arguments of the environment.

    Raises:
        ValueError: the id is unknown, observations are not images [H,W], [H,W,1] or [H,W,3] of uint8 or of fractions
            from 0 to 1, or actions are not discrete.
        EnvironmentFailedError: the environment raised something; so do ``reset`` and ``recv``, even if it gave a
            frame or a reward that is none.
    """

    seed_lasts = 0
    _told_dark: ClassVar[set[str]] = set()
    """Names of environments: they are made anew for each evaluation."""

    def __init__(self, env_id: str, frame_size: int | tuple[int, int], env_kwargs: Mapping[str, Any] | None = None):
        self.name = env_id
        self._env = make_gym_env(env_id, env_kwargs or {})
        self.frame = Frame.of_size(frame_size)
        obs_space, action_space = self._env.observation_space, self._env.action_space
        try:
            if not isinstance(action_space, spaces.Discrete):
                raise ValueError(
                    f"{env_id}: expected discrete actions, got {action_space}; if an environment has both, "
                    """--env-kwargs says which, as '{"continuous": false}' for CarRacing-v3"""
                )
            if not (isinstance(obs_space, spaces.Box) and _is_image(obs_space)):
                raise ValueError(
                    f"{env_id}: expected uint8 image observations [H,W], [H,W,1] or [H,W,3], or such fractions from 0 "
                    f"to 1, got {obs_space}"
                )
        except ValueError:
            self._env.close()
            raise
        self.action: Action = Discrete(int(action_space.n))
        self._first_action = int(action_space.start)
        self._next_action = 0
        self._obs_shape = obs_space.shape
        self._fractions = obs_space.dtype.kind == "f"
        black_and_white = not self._fractions and obs_space.high.max() == 1
        self._scale = np.uint8(255 if black_and_white else 1)
        height, width = obs_space.shape[:2]
        self._resize = AreaResize((height, width), self.frame.shape[:2])
        self._dark_frames_left = NUM_FIRST_FRAMES

    def reset(self, seed: int) -> tuple[np.ndarray, int]:
        with blamed(self.name, "reset"):
            obs, info = self._env.reset(seed=seed)
            return self._frame(obs), _lives(info)

    def send(self, action: np.ndarray) -> None:
        self._next_action = self._first_action + int(action)

    def recv(self) -> SlotStep:
        with blamed(self.name, "step"):
            obs, reward, terminated, truncated, info = self._env.step(self._next_action)
            reward = self._reward(reward)
            return SlotStep(self._frame(obs), reward, bool(terminated), bool(truncated), _lives(info), None)

    def close(self) -> None:
        with blamed(self.name, "close"):
            self._env.close()

    def _frame(self, obs: Any) -> np.ndarray:
        image = np.asarray(obs)
        if image.shape != self._obs_shape:
            raise EnvironmentFailedError(
                f"the environment {self.name} gave a frame of shape {list(image.shape)}, "
                f"its observation_space says {list(self._obs_shape)}"
            )
        if self._fractions:
            image = self._bytes(image)
        elif image.dtype != np.uint8:
            image = self._whole_numbers(image)
        if self._scale != 1:
            image = image * self._scale
        if self._dark_frames_left:
            self._look_for_light(image)
        return self._resize(np.broadcast_to(image.reshape(*image.shape[:2], -1), (*image.shape[:2], 3)))

    def _look_for_light(self, image: np.ndarray) -> None:
        """Say once for each environment if the first frames are nearly black all over.

        They are probably in 0..1, and would be trained on as they look: black. Not refused, since a game may well begin
        in the dark.
        """
        self._dark_frames_left = 0 if image.max() > 1 else self._dark_frames_left - 1
        if image.max() <= 1 and self._dark_frames_left == 0 and self.name not in self._told_dark:
            self._told_dark.add(self.name)
            print(
                f"The environment {self.name} has shown {NUM_FIRST_FRAMES} frames with no value above 1 of 255, which "
                "is black; if its frames are in 0..1, it should return (255 * frame).astype(np.uint8).",
                file=sys.stderr,
                flush=True,
            )

    def _bytes(self, image: np.ndarray) -> np.ndarray:
        """Fractions as uint8."""
        if image.dtype.kind != "f" or not (image.min() >= 0 and image.max() <= 1):
            raise EnvironmentFailedError(
                f"the environment {self.name} gave a frame of {image.dtype} from {image.min():g} to {image.max():g}, "
                "its observation_space says fractions from 0 to 1"
            )
        return np.rint(255 * image).astype(np.uint8)

    def _whole_numbers(self, image: np.ndarray) -> np.ndarray:
        """Integers of another width as uint8; what their dtype leaves open is refused."""
        least, most = image.min(), image.max()
        if image.dtype.kind not in "iu" or least < 0 or most > 255:
            remedy = "(255 * frame).astype(np.uint8)" if least >= 0 and most <= 1 else "uint8 values from 0 to 255"
            raise EnvironmentFailedError(
                f"the environment {self.name} gave a frame of {image.dtype} from {least:g} to {most:g}, "
                f"its observation_space says uint8; it should return {remedy}"
            )
        return image.astype(np.uint8)

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


def _is_image(space: spaces.Box) -> bool:
    shape, fractions = space.shape, space.dtype.kind == "f" and (space.low == 0).all() and (space.high == 1).all()
    return (space.dtype == np.uint8 or fractions) and (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3)))


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
