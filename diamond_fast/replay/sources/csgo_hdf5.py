"""CS:GO's hdf5 files, single or in tars, without unpacking those.

One file is 1000 consecutive frames; of frame i, ``frame_<i>_x`` is uint8 [150, 280, 3] with channels blue, green, red,
``frame_<i>_y`` the 51 numbers of the action that leads to the next one, and ``frame_<i>_helperarr``, if it is there,
kills and deaths in that step: the reward is one less the other. No episode ends.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diamond_fast.one_line import one_line
from diamond_fast.replay import csgo
from diamond_fast.replay.buffer import Episode
from diamond_fast.replay.sources.extra import needed
from diamond_fast.replay.sources.source import Item, Source

if TYPE_CHECKING:
    import h5py

_PIECE = 100  # frames that are in memory at once
ENDINGS = (".hdf5", ".h5")


def csgo_hdf5(path: Path) -> Source:
    """All files at or below a path.

    Raises:
        ValueError: there are none, or the first is of another kind, or two have the same name.
        OSError: a tar cannot be read.
    """
    items: dict[str, Item] = {}
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        for item in _items_of(file):
            if items.setdefault(item.name, item) is not item:
                raise ValueError(f"{file}: {item.name} is there twice")
    if not items:
        raise ValueError(f"{path}: holds no hdf5 files")
    in_order = sorted(items.values(), key=lambda item: (number_of(item.name), item.name))
    first = next(in_order[0].read())
    height, width = first.obs.shape[1:3]
    in_published_size = (height, width) == csgo.FULL_SIZE
    return Source(
        in_order,
        (height, width),
        csgo.ACTION,
        csgo.FRAMES_PER_SECOND,
        low_size=csgo.LOW_SIZE if in_published_size else None,
        full_size=csgo.FULL_SIZE if in_published_size else None,
        bicubic=True,
        is_test=lambda name: number_of(name) in csgo.TEST_FILES,
    )


def number_of(name: str) -> int:
    """k of hdf5_dm_july2021_k.hdf5; -1 if there is no number."""
    numbers = re.findall(r"\d+", Path(name).stem)
    return int(numbers[-1]) if numbers else -1


def _items_of(file: Path) -> list[Item]:
    if file.suffix in ENDINGS:
        return [Item(file.name, partial(_of_file, file))]
    if file.suffix != ".tar" or not file.is_file():
        return []
    try:
        with tarfile.open(file, "r:") as archive:
            members = [member for member in archive if member.isfile() and Path(member.name).suffix in ENDINGS]
    except tarfile.TarError as error:
        raise ValueError(f"{file}: damaged, or not a tar without compression ({one_line(error)})") from None
    return [Item(Path(m.name).name, partial(_of_tar, file, m.name, m.offset_data, m.size)) for m in members]


def _of_file(file: Path) -> Iterator[Episode]:
    with _opened(str(file), file) as opened:
        yield from _pieces(str(file), opened)


def _of_tar(file: Path, name: str, offset: int, size: int) -> Iterator[Episode]:
    where = f"{file}: {name}"
    with open(file, "rb") as archive:
        archive.seek(offset)
        content = archive.read(size)
    with _opened(where, io.BytesIO(content)) as opened:
        yield from _pieces(where, opened)


@contextmanager
def _opened(where: str, file: Path | io.BytesIO) -> Iterator[h5py.File]:
    try:
        opened = needed("h5py").File(file, "r")
    except OSError as error:  # whatever is wrong with the bytes
        raise ValueError(f"{where}: damaged, or not an hdf5 file ({one_line(error)})") from None
    with opened:
        yield opened


def _pieces(where: str, opened: h5py.File) -> Iterator[Episode]:
    count = sum(name.endswith("_x") for name in opened)
    if not count or "frame_0_x" not in opened:
        raise ValueError(f"{where}: expected frame_0_x, frame_0_y, ... as in CS:GO's recordings, got {_some(opened)}")
    shape = opened["frame_0_x"].shape
    with_score = "frame_0_helperarr" in opened
    for start in range(0, count, _PIECE):
        frames = range(start, min(start + _PIECE, count))
        obs = np.stack([_read(where, opened, f"frame_{i}_x", np.uint8, shape) for i in frames])
        rows = np.stack([_read(where, opened, f"frame_{i}_y", None, csgo.ACTION.shape) for i in frames])
        rew = np.zeros(len(frames), np.float32)
        if with_score:
            score = np.stack([_read(where, opened, f"frame_{i}_helperarr", None, (2,)) for i in frames])
            rew = (score[:, 0] - score[:, 1]).astype(np.float32)
        if reason := csgo.ACTION.why_not(rows):
            raise ValueError(f"{where}: actions of frames {start} to {frames[-1]}: {reason}")
        no = np.zeros(len(frames), bool)
        yield Episode(obs[..., ::-1], rows.astype(csgo.ACTION.dtype), rew, no, no, None)


def _read(where: str, opened: h5py.File, name: str, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = opened[name][()]
    except KeyError:
        raise ValueError(f"{where}: {name}: missing") from None
    except OSError as error:
        raise ValueError(f"{where}: {name}: damaged ({one_line(error)})") from None
    right_kind = array.dtype == dtype if dtype else array.dtype.kind in "biuf"
    if not right_kind or array.shape != shape or (len(shape) == 3 and shape[2] != 3):
        expected = f"{np.dtype(dtype) if dtype else 'numbers'} {[*shape[:2], 3] if len(shape) == 3 else list(shape)}"
        raise ValueError(f"{where}: {name}: expected {expected}, got {array.dtype} {list(array.shape)}")
    return array


def _some(opened: h5py.File) -> str:
    names = list(opened)[:3]
    return ", ".join(names) or "nothing"
