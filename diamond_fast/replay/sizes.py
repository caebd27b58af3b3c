"""Frames of a recording in the sizes that its models see."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from diamond_fast.area import AreaResize
from diamond_fast.replay.buffer import Episode
from diamond_fast.replay.conversion import repeat_gray

Size = tuple[int, int]
"""Height and width in pixels."""


class Crop(NamedTuple):
    """The part of each frame that is kept, in pixels."""

    top: int
    left: int
    height: int
    width: int


class Sizes:
    """Crops frames and makes them of one size or two.

    Args:
        source: size of the frames as they are.
        crop: the part that is kept; None: all.
        low: the size of ``obs``; None: as cropped.
        full: the size of ``full_obs``; None: there are none.
        bicubic: make ``obs`` by bicubic filtering with antialiasing, not by area averaging.

    Raises:
        ValueError: the crop is not inside the frame, or the full size is not a multiple of the low one.
    """

    def __init__(self, source: Size, crop: Crop | None, low: Size | None, full: Size | None, bicubic: bool = False):
        crop = crop or Crop(0, 0, *source)
        if crop.top + crop.height > source[0] or crop.left + crop.width > source[1] or min(crop) < 0:
            raise ValueError(
                f"--crop: must lie inside frames of {source[0]}x{source[1]}, got {' '.join(map(str, crop))}"
            )
        self._rows = slice(crop.top, crop.top + crop.height)
        self._columns = slice(crop.left, crop.left + crop.width)
        cropped = (crop.height, crop.width)
        self.low = low or cropped
        self.full = full
        if full is not None and (full[0] % self.low[0] or full[0] * self.low[1] != full[1] * self.low[0]):
            raise ValueError(
                f"--full-size: must be the same multiple of --frame-size ({self.low[0]} {self.low[1]}) in height and "
                f"width, got {full[0]} {full[1]}"
            )
        self._to_full = None if full is None else AreaResize(cropped, full)
        self._to_low: Callable[[np.ndarray], np.ndarray]
        self._to_low = Bicubic(self.low) if bicubic else AreaResize(full or cropped, self.low)

    def __call__(self, piece: Episode) -> Episode:
        """Steps with frames of these sizes, RGB."""
        obs, full = self._both(piece.obs)
        if piece.final_obs is None:
            return piece._replace(obs=obs, full_obs=full)
        final, full_final = self._both(piece.final_obs[None])
        return piece._replace(
            obs=obs,
            final_obs=final[0],
            full_obs=full,
            full_final_obs=None if full_final is None else full_final[0],
        )

    def _both(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """A few frames at a time: between the sizes they are floats."""
        parts = [self._some(frames[t : t + 64]) for t in range(0, len(frames), 64)]
        low, full = zip(*parts, strict=True)
        return np.concatenate(low), None if self.full is None else np.concatenate(full)

    def _some(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        frames = repeat_gray(frames[:, self._rows, self._columns])
        full = None if self._to_full is None else self._to_full(frames)
        return self._to_low(frames if full is None else full), full


class Bicubic:
    """Makes images of one size by bicubic filtering with antialiasing, rounded and clipped.

    Args:
        size: the new height and width.
    """

    def __init__(self, size: Size):
        self._size = size

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, height, width, C] -> the same in the new size."""
        if images.shape[1:3] == self._size:
            return images
        x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
        x = torch.nn.functional.interpolate(x, self._size, mode="bicubic", align_corners=False, antialias=True)
        return x.round_().clamp_(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
