"""Arrays that other programs wrote in another form, brought into ours if their meaning is certain."""

from collections.abc import Callable

import numpy as np

from diamond_fast.spec import Action, Box, MultiBinary


def one_a_step(array: np.ndarray) -> np.ndarray:
    """[T] of [T, 1]; anything else is left for the check of shapes."""
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def action_of(act: np.ndarray) -> Action | None:
    """What actions [T, ...] are, by dtype and shape as a replay keeps them; None: numbers of one of several."""
    kind = {np.dtype(np.uint8): MultiBinary, np.dtype(np.float32): Box}.get(act.dtype)
    return kind(act.shape[1]) if kind and act.ndim == 2 and act.shape[1] else None


def stored_actions(where: str, array: np.ndarray) -> np.ndarray:
    """Actions as a replay keeps them: integers [T], buttons uint8 [T, n] or continuous ones float32 [T, n].

    Numbers of one of several are integers [T] or [T, 1], or one-hot rows [T, n]. Other rows of 0 and 1 are buttons,
    and rows of floats that are not all whole numbers are continuous.

    Raises:
        ValueError: the array has rows that are none of these.
    """
    if array.ndim != 2:
        return array
    whole = array.dtype.kind in "biu" or (array.dtype.kind == "f" and bool((array == np.trunc(array)).all()))
    if whole and array.shape[1] == 1:
        return array[:, 0]
    if whole and array.size and np.isin(array, (0, 1)).all():
        one_hot = (array.sum(axis=1) == 1).all()
        return array.argmax(axis=1) if one_hot else array.astype(np.uint8)
    if array.dtype.kind == "f" and not whole:
        with np.errstate(over="ignore"):
            return array.astype(np.float32)
    raise ValueError(
        f"{where}: expected integers [T], or one-hot rows, got {array.dtype} {list(array.shape)} that are neither, "
        "nor rows of 0 and 1 (buttons), nor of floats that are not whole (continuous)"
    )


def frame_conversion(where: str, array: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """What makes uint8 [..., H, W, 3] of any part of this array of frames.

    Frames may be [T, H, W, 3], gray [T, H, W, 1] or [T, H, W], or channels first if the last dimension is neither 1
    nor 3; uint8, or floats from 0 to 1.

    Raises:
        ValueError: they are none of these.
    """
    gray, channels_last = array.ndim == 3, array.ndim == 4 and array.shape[3] in (1, 3)
    if not (gray or channels_last or (array.ndim == 4 and array.shape[1] in (1, 3))):
        raise ValueError(f"{where}: expected [T, H, W, 3] or gray frames [T, H, W], got {list(array.shape)}")
    floats = array.dtype.kind == "f" and array.size > 0
    if array.dtype != np.uint8 and not (floats and array.min() >= 0 and array.max() <= 1):
        span = f" from {array.min():g} to {array.max():g}" if floats else ""
        raise ValueError(f"{where}: expected uint8, or floats from 0 to 1, got {array.dtype}{span}")

    def convert(frames: np.ndarray) -> np.ndarray:
        if floats:
            frames = np.rint(frames * 255.0).astype(np.uint8)
        if not channels_last:
            frames = frames[..., None] if gray else np.moveaxis(frames, -3, -1)
        return repeat_gray(frames)

    return convert


def repeat_gray(frames: np.ndarray) -> np.ndarray:
    """[..., H, W, 3] of [..., H, W, 1]; anything else as it is."""
    return np.broadcast_to(frames, (*frames.shape[:-1], 3)) if frames.shape[-1] == 1 else frames
