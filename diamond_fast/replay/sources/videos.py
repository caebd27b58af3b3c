"""A folder of videos, each with its actions in a CSV or JSON file of the same name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diamond_fast.one_line import one_line
from diamond_fast.replay.buffer import Episode
from diamond_fast.replay.sources import tables
from diamond_fast.replay.sources.extra import needed
from diamond_fast.replay.sources.source import Item, Source
from diamond_fast.replay.sources.tables import Columns, Table, read_table

ENDINGS = (".mp4", ".webm", ".gif", ".mkv", ".avi", ".mov")
_PIECE = 64  # frames that are in memory at once


def videos(path: Path, fps: float | None = None) -> Source:
    """All videos at or below a path. Everything but the pictures themselves is checked at once.

    Args:
        fps: frames a second that are taken of each; None: all.

    Raises:
        ValueError: one has no actions or wrong ones, cannot be opened, or has another size or frame rate than the
            first; the message names it.
    """
    files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.suffix.lower() in ENDINGS]
    beside = [read_table(_table_of(file)) for file in files]
    columns = Columns(beside)
    first = _meta(files[0])
    items = []
    for file, table in zip(files, beside, strict=True):
        (width, height), video_fps = size, rate = _meta(file)
        if size != first[0]:
            raise ValueError(
                f"{file}: its frames are {height}x{width}, those of {files[0].name} {first[0][1]}x{first[0][0]}"
            )
        if fps is None and rate != first[1]:
            raise ValueError(
                f"{file}: has {rate:g} frames a second, {files[0].name} has {first[1]:g}; --fps makes them the same"
            )
        if fps is not None and fps > video_fps:
            raise ValueError(f"--fps {fps:g}: {file} has only {video_fps:g} frames a second")
        columns.ends(table)
        name = str(file.relative_to(path)) if path.is_dir() else file.name
        items.append(Item(name, partial(_read, file, table, columns, fps or video_fps, video_fps)))
    return Source(items, (first[0][1], first[0][0]), columns.action, fps or first[1])


def _table_of(video: Path) -> Path:
    for ending in tables.ENDINGS:
        if (beside := video.with_suffix(ending)).exists():
            return beside
    raise ValueError(f"{video}: expected its actions beside it, in {video.stem}.csv or {video.stem}.json")


def _opened(video: Path, by_time: bool = False) -> Any:
    """What gives a dictionary first, then the frames as bytes."""
    # by number, frames as they are stored; by time, as many as there should be
    output = ["-fps_mode", "cfr" if by_time else "passthrough"]
    return needed("imageio_ffmpeg").read_frames(str(video), output_params=output)


def _meta(video: Path) -> tuple[tuple[int, int], float]:
    """Width and height, and frames a second."""
    try:
        with closing(_opened(video)) as frames:
            meta = next(frames)
            next(frames)  # some are only found wrong when the first picture is drawn
    except (OSError, RuntimeError, StopIteration, KeyError) as error:
        raise ValueError(f"{video}: cannot be decoded ({_last_line(error)})") from None
    return meta["size"], float(meta["fps"])


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return one_line(type(error)(lines[-1])) if lines else "no frames"


def _frames(video: Path, by_time: bool) -> Iterator[np.ndarray]:
    try:
        with closing(_opened(video, by_time)) as frames:
            width, height = next(frames)["size"]
            for content in frames:
                yield np.frombuffer(content, np.uint8).reshape(height, width, 3)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{video}: cannot be decoded ({_last_line(error)})") from None


def _taken(frames: Iterator[np.ndarray], every: float) -> Iterator[np.ndarray]:
    """One of so many frames: numbers 0, every, 2 every, ..., rounded down."""
    taken = 0
    for number, frame in enumerate(frames):
        if number == int(taken * every + 1e-6):
            taken += 1
            yield frame


def _read(video: Path, table: Table, columns: Columns, fps: float, video_fps: float) -> Iterator[Episode]:
    done, waiting = 0, list[np.ndarray]()
    for frame in _taken(_frames(video, table.by == "time"), video_fps / fps):
        if len(waiting) == _PIECE + 1:  # the last one may be the final observation: it waits for the next
            yield _piece(waiting[:_PIECE], None, columns, table, done, fps, video_fps)
            done, waiting = done + _PIECE, waiting[_PIECE:]
        waiting.append(frame)
    total = done + len(waiting)
    steps = tables.num_steps(table, total, fps, video_fps)
    final = waiting.pop() if steps < total else None
    ends = columns.ends(table)
    if ends and final is None:
        raise ValueError(
            f"{table.path}: end: the frame after the last step is missing; leave out the last row's action"
        )
    if not waiting:
        raise ValueError(f"{video}: has {total} frames, too few for a step")
    yield _piece(waiting, final, columns, table, done, fps, video_fps, ends)


def _piece(
    frames: list[np.ndarray],
    final: np.ndarray | None,
    columns: Columns,
    table: Table,
    first: int,
    fps: float,
    video_fps: float,
    ends: bool = False,
) -> Episode:
    act, rew = columns.steps(table, first, first + len(frames), fps, video_fps)
    end, trunc = np.zeros((2, len(frames)), bool)
    if final is not None:
        end[-1], trunc[-1] = ends, not ends
    return Episode(np.stack(frames), act, rew, end, trunc, final)
