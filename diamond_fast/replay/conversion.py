"""Arrays that other programs wrote in another form, brought into ours where their meaning is certain."""

from collections.abc import Callable

import numpy as np


def one_a_step(array: np.ndarray) -> np.ndarray:
    """[T] of [T, 1]; anything else is left for the check of shapes."""
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def action_numbers(where: str, array: np.ndarray) -> np.ndarray:
    """Integers [T] of [T, 1], or of one-hot rows [T, A].

    Raises:
        ValueError: the array has rows that are neither.
    """
    array = one_a_step(array)
    if array.ndim != 2:
        return array
    if array.dtype.kind not in "biuf" or not (np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all()):
        raise ValueError(
            f"{where}: expected integers [T], or one-hot rows, got {array.dtype} {list(array.shape)} that are neither"
        )
    return array.argmax(axis=1)


def frame_conversion(where: str, array: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """What makes uint8 [..., H, W, 3] of any part of this array of frames.

    Frames may be [T, H, W, 3], gray [T, H, W, 1] or [T, H, W], or channels first where the last dimension is neither 1
    nor 3; uint8, or floats from 0 to 1.

    Raises:
        ValueError: they are none of these.
    """
    if array.ndim == 4 and array.shape[3] in (1, 3):
        channels_last = _same
    elif array.ndim == 4 and array.shape[1] in (1, 3):
        channels_last = _channels_last
    elif array.ndim == 3:
        channels_last = _with_channel
    else:
        raise ValueError(f"{where}: expected [T, H, W, 3] or gray frames [T, H, W], got {list(array.shape)}")
    if array.dtype == np.uint8:
        return lambda frames: repeat_gray(channels_last(frames))
    floats = array.dtype.kind == "f" and array.size > 0
    if floats and array.min() >= 0 and array.max() <= 1:
        return lambda frames: repeat_gray(channels_last(np.rint(frames * 255.0).astype(np.uint8)))
    span = f" from {array.min():g} to {array.max():g}" if floats else ""
    raise ValueError(f"{where}: expected uint8, or floats from 0 to 1, got {array.dtype}{span}")


def repeat_gray(frames: np.ndarray) -> np.ndarray:
    """[..., H, W, 3] of [..., H, W, 1]; anything else as it is."""
    return np.broadcast_to(frames, (*frames.shape[:-1], 3)) if frames.shape[-1] == 1 else frames


def _same(frames: np.ndarray) -> np.ndarray:
    return frames


def _channels_last(frames: np.ndarray) -> np.ndarray:
    return np.moveaxis(frames, -3, -1)


def _with_channel(frames: np.ndarray) -> np.ndarray:
    return frames[..., None]
