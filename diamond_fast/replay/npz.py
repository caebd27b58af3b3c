"""Arrays of .npz archives, read without trusting them: numbers only, and no more memory than the file can fill."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np

from diamond_fast.one_line import one_line

_MOST_PACKED = 1032
"""Bytes that DEFLATE can make of one."""
_KINDS = "biuf"


def open_npz(path: Path) -> zipfile.ZipFile:
    """
    Raises:
        ValueError: it is no archive, or a damaged one.
        OSError: it cannot be read.
    """
    try:
        return zipfile.ZipFile(path)
    except OSError:
        raise
    except Exception as error:  # zipfile has errors of several kinds for malformed bytes
        raise ValueError(f"{path}: not a .npz file, or damaged ({one_line(error)})") from None


def array_names(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array, of at least one dimension.

    Raises:
        ValueError: it is damaged, holds something else than numbers, or is a single value.
    """
    where = f"{archive.filename}: {name}"
    try:
        entry = archive.getinfo(f"{name}.npy")
        _check_size(archive, entry)
        with archive.open(entry) as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # zlib, zipfile and numpy each have errors of their own for damaged bytes
        raise ValueError(f"{where}: damaged ({one_line(error)})") from None
    if array.dtype.kind not in _KINDS:
        raise ValueError(f"{where}: expected numbers, got {array.dtype}")
    if array.ndim == 0:
        raise ValueError(f"{where}: expected one row a step, got a single value")
    return array


def _check_size(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Raises ValueError if an array would take more memory than its entry can fill."""
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("it is compressed in another way than NumPy does")
    if entry.file_size > _MOST_PACKED * (entry.compress_size + 1):
        raise ValueError(f"{entry.file_size} bytes cannot come of {entry.compress_size}")
    with archive.open(entry) as file:
        first = np.lib.format.read_magic(file) == (1, 0)
        shape, _, dtype = (np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0)(file)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or min(shape, default=0) < 0 or file.tell() + size != entry.file_size:
            raise ValueError(f"{dtype} {list(shape)} does not take the {entry.file_size} bytes it has")
