"""Any Gymnasium environment with image observations and discrete actions as one slot of a real environment."""

import difflib
import math

import gymnasium
import numpy as np
from gymnasium import spaces

import diamond_fast.envs.catch  # noqa: F401 (registers diamond_fast/Catch-v0)
from diamond_fast.envs.slot import SlotStep


class GymSlot:
    """A Gymnasium environment whose frames become uint8 RGB of one size, by area averaging.

    Every episode has a seed of its own, given to the environment's ``reset``. A state (seed and actions) brings an
    environment back exactly if it draws all random numbers from what ``reset(seed=...)`` seeds, reads no clock and
    keeps nothing from earlier episodes: true of what follows Gymnasium's rules, and checked against the frame
    whenever a state is loaded.

    Args:
        env_id: a registered id, e.g. CarRacing-v3, or module:id.
        frame_size: height and width of the frames in pixels.

    Raises:
        ValueError: the id is unknown, observations are not uint8 images [H,W], [H,W,1] or [H,W,3], or actions are
            not discrete.
    """

    seed_lasts = 0

    def __init__(self, env_id: str, frame_size: int):
        self._env = _make(env_id)
        self.frame_shape = (frame_size, frame_size, 3)
        obs_space, action_space = self._env.observation_space, self._env.action_space
        try:
            if not isinstance(action_space, spaces.Discrete):
                raise ValueError(f"{env_id}: expected discrete actions, got {action_space}")
            if not (isinstance(obs_space, spaces.Box) and obs_space.dtype == np.uint8 and _is_image(obs_space.shape)):
                raise ValueError(
                    f"{env_id}: expected uint8 image observations [H,W], [H,W,1] or [H,W,3], got {obs_space}"
                )
        except ValueError:
            self._env.close()
            raise
        self.num_actions = int(action_space.n)
        self._first_action = int(action_space.start)
        self._action = 0
        self._area_rows, self._area_columns = (_area_weights(size, frame_size) for size in obs_space.shape[:2])

    def reset(self, seed: int) -> tuple[np.ndarray, int]:
        obs, info = self._env.reset(seed=seed)
        return self._frame(obs), int(info.get("lives", 0))

    def send(self, action: int) -> None:
        self._action = action

    def recv(self) -> SlotStep:
        obs, reward, terminated, truncated, info = self._env.step(self._first_action + self._action)
        if not math.isfinite(reward):
            raise FloatingPointError(f"{self._env.spec.id}: the environment gave a reward of {reward}")
        lives = int(info.get("lives", 0))
        return SlotStep(self._frame(obs), float(reward), bool(terminated), bool(truncated), lives, None)

    def close(self) -> None:
        self._env.close()

    def _frame(self, obs: np.ndarray) -> np.ndarray:
        image = np.broadcast_to(obs.reshape(*obs.shape[:2], -1), (*obs.shape[:2], 3))
        if image.shape == self.frame_shape:
            return image
        frame = np.einsum("ih,hwc,jw->ijc", self._area_rows, image, self._area_columns, optimize=True)
        return np.floor(frame + 0.5).astype(np.uint8)


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))


def _area_weights(size: int, new_size: int) -> np.ndarray:
    """float32 [new_size, size]: the share of each old pixel in the area of each new one; rows sum to 1."""
    edges = np.arange(new_size + 1) * size / new_size
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (overlap.clip(min=0) * new_size / size).astype(np.float32)


def _make(env_id: str) -> gymnasium.Env:
    try:
        return gymnasium.make(env_id)
    except gymnasium.error.UnregisteredEnv as error:
        near = difflib.get_close_matches(env_id, gymnasium.registry, n=1)
        hint = f"did you mean {near[0]}?" if near else str(error)
        raise ValueError(f'unknown environment "{env_id}"; {hint}') from error
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise ValueError(f'environment "{env_id}" cannot be made: {error}') from error
