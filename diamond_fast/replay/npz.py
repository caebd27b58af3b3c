"""Arrays of .npz archives, read without trusting them: numbers only, and no more memory than the file can fill."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from diamond_fast.one_line import one_line

_MOST_PACKED = 1032
"""Bytes that DEFLATE can make of one."""
_KINDS = "biuf"


class NpzArchive:
    """An open .npz file; close it, or use it in a with statement."""

    def __init__(self, path: Path) -> None:
        """Opens it and reads its directory.

        Raises:
            ValueError: it is no archive, or a damaged one.
            OSError: it cannot be read.
        """
        self._path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except OSError:
            raise
        except Exception as error:  # zipfile has errors of several kinds for malformed bytes
            raise ValueError(f"{path}: not a .npz file, or damaged ({one_line(error)})") from None

    def __enter__(self) -> NpzArchive:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    @property
    def names(self) -> list[str]:
        """Names of the arrays."""
        return [name.removesuffix(".npy") for name in self._archive.namelist() if name.endswith(".npy")]

    def read(self, name: str) -> np.ndarray:
        """Returns one array, of at least one dimension.

        Raises:
            ValueError: it is damaged, holds something else than numbers, or is a single value.
        """
        try:
            array = self._read(self._archive.getinfo(f"{name}.npy"))
        except Exception as error:  # zlib, zipfile and numpy each have errors of their own for damaged bytes
            raise ValueError(f"{self._path}: {name}: damaged ({one_line(error)})") from None
        if array.dtype.kind not in _KINDS:
            raise ValueError(f"{self._path}: {name}: expected numbers, got {array.dtype}")
        if array.ndim == 0:
            raise ValueError(f"{self._path}: {name}: expected one row a step, got a single value")
        return array

    def _read(self, entry: zipfile.ZipInfo) -> np.ndarray:
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("it is compressed in another way than NumPy does")
        if entry.file_size > _MOST_PACKED * (entry.compress_size + 1):
            raise ValueError(f"{entry.file_size} bytes cannot come of {entry.compress_size}")
        with self._archive.open(entry) as file:
            shape, dtype = _header(file)
            size = math.prod(shape) * dtype.itemsize
            if dtype.hasobject or min(shape, default=0) < 0 or file.tell() + size != entry.file_size:
                raise ValueError(f"{dtype} {list(shape)} does not take the {entry.file_size} bytes it has")
        with self._archive.open(entry) as file:
            return np.lib.format.read_array(file, allow_pickle=False)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    return shape, dtype
