"""Arguments of the buffer, held against what they should be."""

from typing import Any

import numpy as np


def check_integer(name: str, value: Any, least: int, most: int) -> None:
    if not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if not least <= value <= most:
        raise ValueError(f"{name}: expected {least} .. {most}, got {value}")


def checked(name: str, array: Any, kinds: str, dtype: np.dtype | type, shape: tuple[int, ...]) -> np.ndarray:
    """Returns array as a contiguous one of dtype, if its kind of numbers and its shape are right."""
    array = np.asarray(array)
    if array.dtype.kind not in kinds or (dtype == np.uint8 and array.dtype != np.uint8):
        raise TypeError(f"{name}: expected {np.dtype(dtype)}, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    return np.ascontiguousarray(array, dtype)
