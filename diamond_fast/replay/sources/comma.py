"""The driving recordings that comma.ai published in 2016 (Santana and Hotz, arXiv 1608.01230), as the world of driving.

``camera/<drive>.h5`` holds ``X``, uint8 [frames, 3, 160, 320] at 20 Hz; ``log/<drive>.h5`` at 100 Hz, among others,
``steering_angle`` in degrees, ``car_accel`` in m/s^2 and ``cam1_ptr``, the camera's frame of each entry.

A step is a tenth of a second: the frame at its first log entry, and the means of steering and acceleration over its ten
entries, which lead to the next frame. Both are divided by their root mean square over all drives that are read, and
none is shifted: mirroring a drive changes the sign of its steering.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diamond_fast.one_line import one_line
from diamond_fast.replay.buffer import Episode
from diamond_fast.replay.sources.extra import needed
from diamond_fast.replay.sources.source import Item, Source
from diamond_fast.spec import Box

STEPS_PER_SECOND = 10
ENTRIES = 10
"""Of a log in a step."""
CUT = 5 * 60 * STEPS_PER_SECOND
"""Steps that are left out at either end of a drive, as in the paper: five minutes."""
NIGHT = ("2016-01-31--19-19-25", "2016-02-11--21-32-47", "2016-05-12--22-20-00", "2016-06-02--21-39-29")
"""Drives that begin in the dark by their names. The paper keeps seven of eleven, without saying which."""
_LOGGED = ("steering_angle", "car_accel")
_PIECE = 64  # steps that are in memory at once


def is_comma(path: Path) -> bool:
    """Whether it is a folder like the published one."""
    return (path / "camera").is_dir() and (path / "log").is_dir()


def comma(path: Path) -> Source:
    """All drives by daylight that last more than ten minutes.

    Raises:
        ValueError: there are none, or a file is not as above; the message names the first.
    """
    needed("h5py")
    files = {file.stem: file for file in sorted((path / "camera").glob("*.h5"))}
    drives = {}
    for name, file in files.items():
        if name not in NIGHT:
            log = path / "log" / file.name
            if not log.is_file():
                raise ValueError(f"{file}: there is no {log} to it")
            pointers, act = read_log(log)
            if len(act) > 2 * CUT:
                drives[name] = file, pointers[CUT : len(pointers) - CUT], act[CUT : len(act) - CUT]
    if not drives:
        raise ValueError(f"{path}: no drive by daylight is longer than ten minutes, of {len(files)} in camera/")
    scale = np.sqrt(np.square(np.concatenate([act for _, _, act in drives.values()])).mean(0))
    if not (scale > 0).all():
        raise ValueError(f"{path}: nobody steers or changes the speed in {', '.join(drives)}")
    items = [
        Item(name, partial(_read, file, pointers, (act / scale).astype(np.float32)))
        for name, (file, pointers, act) in drives.items()
    ]
    first = next(items[0].read())
    height, width = first.obs.shape[1:3]
    return Source(
        items, (height, width), Box(2), STEPS_PER_SECOND, low_size=(64, 64), action_scale=tuple(scale.tolist())
    )


def read_log(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """
    Returns:
        int64 [T] camera frames and float64 [T,2] steering angle in degrees and acceleration in m/s^2, ten a second.

    Raises:
        ValueError: the file is damaged or is another; the message names it.
    """
    with _opened(path) as opened:
        pointers, *logged = (_column(path, opened, name) for name in ("cam1_ptr", *_LOGGED))
    steps = len(pointers) // ENTRIES
    if any(len(column) != len(pointers) for column in logged):
        raise ValueError(f"{path}: {', '.join(_LOGGED)} and cam1_ptr have different lengths")
    if not all(np.isfinite(column).all() for column in (pointers, *logged)):
        raise ValueError(f"{path}: expected finite numbers in {', '.join(_LOGGED)} and cam1_ptr")
    act = np.stack([column[: steps * ENTRIES].reshape(steps, ENTRIES).mean(1) for column in logged], axis=1)
    at = pointers[: steps * ENTRIES : ENTRIES].astype(np.int64)
    if (at < 0).any() or (np.diff(at) < 0).any():
        raise ValueError(f"{path}: cam1_ptr: expected numbers of frames from 0 that never fall")
    return at, act


def _read(camera: Path, pointers: np.ndarray, act: np.ndarray) -> Iterator[Episode]:
    with _opened(camera) as opened:
        frames = opened.get("X")
        if frames is None or frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != np.uint8:
            raise ValueError(f"{camera}: expected X, uint8 [frames, 3, height, width]")
        if pointers[-1] >= len(frames):
            raise ValueError(f"{camera}: holds {len(frames)} frames, the log names number {pointers[-1]}")
        for start in range(0, len(act), _PIECE):
            at = pointers[start : start + _PIECE]
            try:
                read = frames[at[0] : at[-1] + 1]
            except OSError as error:
                raise ValueError(f"{camera}: damaged ({one_line(error)})") from None
            no = np.zeros(len(at), bool)
            obs = read[at - at[0]].transpose(0, 2, 3, 1)
            yield Episode(obs, act[start : start + _PIECE], np.zeros(len(at), np.float32), no, no, None)


def _opened(path: Path) -> Any:
    try:
        return needed("h5py").File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: damaged, or no hdf5 file ({one_line(error)})") from None


def _column(path: Path, opened: Any, name: str) -> np.ndarray:
    if name not in opened or opened[name].ndim != 1 or opened[name].dtype.kind not in "iuf":
        raise ValueError(f"{path}: expected {name}, a number for each entry")
    return opened[name][()].astype(np.float64)
