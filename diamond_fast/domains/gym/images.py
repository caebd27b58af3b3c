"""Observations of a Gymnasium environment as images."""

import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from diamond_fast.envs.failure import EnvironmentFailedError

NUM_FIRST_FRAMES = 100
"""Frames among which one must be brighter than 1 of 255, or a line says so."""
_CHANNELS = (1, 3)


class Images:
    """Makes uint8 [H,W,3] of observations.

    They are images [H,W], [H,W,1], [H,W,3], [1,H,W] or [3,H,W], or a Dict with one such entry: of uint8, of
    fractions from 0 to 1, which are taken times 255 and rounded, or of floats from 0 to 255, which are rounded; their
    space must say which.

    Args:
        name: of the environment, for messages.
        space: of its observations.

    Raises:
        ValueError: the space is another; the message says how to make one of these of it.
    """

    _told_dark: ClassVar[set[str]] = set()
    """Names of environments: they are made anew for each evaluation."""

    def __init__(self, name: str, space: spaces.Space):
        self.name = name
        self._key: str | None = None
        whole = space
        if isinstance(space, spaces.Dict):
            images = [key for key, entry in space.items() if _is_image(entry)]
            if len(images) > 1:
                raise ValueError(
                    f"{name}: expected one image among its observations, got {', '.join(images)}; "
                    "gymnasium.wrappers.FilterObservation keeps one"
                )
            self._key = images[0] if images else None
            space = space[images[0]] if images else space
        if not _is_image(space):
            raise ValueError(
                f"{name}: expected uint8 image observations [H,W], [H,W,1], [H,W,3], [1,H,W] or [3,H,W], or such "
                f"fractions from 0 to 1, got {whole}; {_remedy(space)}"
            )
        assert isinstance(space, spaces.Box)
        self._shape = space.shape
        self._channels_first = len(space.shape) == 3 and space.shape[2] not in _CHANNELS
        self.height, self.width = space.shape[1:] if self._channels_first else space.shape[:2]
        self._most = float(space.high.max()) if space.dtype.kind == "f" else None  # of floats: 1 or 255
        black_and_white = self._most is None and space.high.max() == 1
        self._scale = np.uint8(255 if black_and_white else 1)
        self._dark_frames_left = NUM_FIRST_FRAMES

    def __call__(self, obs: Any) -> np.ndarray:
        """The observation as an image uint8 [height,width,3]. Raises EnvironmentFailedError if it is not one."""
        if self._key is not None:
            if not (isinstance(obs, Mapping) and self._key in obs):
                raise EnvironmentFailedError(
                    f"the environment {self.name} gave {type(obs).__name__} without {self._key}, "
                    "which its observation_space says"
                )
            obs = obs[self._key]
        image = np.asarray(obs)
        if image.shape != self._shape:
            raise EnvironmentFailedError(
                f"the environment {self.name} gave a frame of shape {list(image.shape)}, "
                f"its observation_space says {list(self._shape)}"
            )
        if self._most is not None:
            image = self._bytes(image, self._most)
        elif image.dtype != np.uint8:
            image = self._whole_numbers(image)
        if self._scale != 1:
            image = image * self._scale
        if self._dark_frames_left:
            self._look_for_light(image)
        if self._channels_first:
            image = image.transpose(1, 2, 0)
        return np.broadcast_to(image.reshape(self.height, self.width, -1), (self.height, self.width, 3))

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

    def _bytes(self, image: np.ndarray, most: float) -> np.ndarray:
        """Floats from 0 to ``most`` as uint8."""
        if image.dtype.kind != "f" or not (image.min() >= 0 and image.max() <= most):
            said = "fractions from 0 to 1" if most == 1 else "numbers from 0 to 255"
            raise EnvironmentFailedError(
                f"the environment {self.name} gave a frame of {image.dtype} from {image.min():g} to {image.max():g}, "
                f"its observation_space says {said}"
            )
        return np.rint((255 / most) * image).astype(np.uint8)

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


def _is_image(space: spaces.Space) -> bool:
    return isinstance(space, spaces.Box) and _has_shape_of_image(space) and _has_range_of_image(space)


def _has_shape_of_image(space: spaces.Box) -> bool:
    shape = space.shape
    return len(shape) == 2 or (len(shape) == 3 and (shape[2] in _CHANNELS or shape[0] in _CHANNELS))


def _has_range_of_image(space: spaces.Box) -> bool:
    if space.dtype.kind != "f":
        return space.dtype == np.uint8
    return bool((space.low == 0).all() and any((space.high == most).all() for most in (1, 255)))


def _remedy(space: spaces.Space) -> str:
    """How an environment with such observations gets images."""
    if isinstance(space, spaces.Box) and _has_shape_of_image(space):
        return "gymnasium.wrappers.RescaleObservation(env, 0, 1) makes fractions of bounded numbers"
    if isinstance(space, spaces.Box) and len(space.shape) > 2:
        return "leave stacks of frames and transparency out: the world model remembers by itself"
    return "gymnasium.wrappers.AddRenderObservation shows what render() draws"
