"""Actions beside a video, as CSV or JSON.

One row has ``frame``, a number from 0, or ``time``, in seconds, and holds until the next one. The other columns are
``reward``, ``end`` (1 if the episode ends with that step) and what was done:

    action              one of several, a number from 0
    mouse:23            one of 23
    keys.w, keys.a      0 and 1: buttons; anything else: numbers. What stands before the dot is their name
    w, a                the same without a name

Columns with several names are a mixed action. JSON is a list with an object for each row; a list of numbers in it is
so many columns.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diamond_fast.runs.durable import parse_json
from diamond_fast.spec import Action, Box, Discrete, Mixed, MultiBinary

ENDINGS = (".csv", ".json")
_PLACES = ("frame", "time")
_CLOSE = 1e-6  # frames, by which a row counts as a frame's own
_MOST_SILENCE = 1.0
"""Seconds that actions by time may end before the video."""


@dataclass(frozen=True)
class Table:
    """What was done in one video."""

    path: Path
    by: str
    """``frame`` or ``time``."""
    at: np.ndarray
    """float64 [R], ascending."""
    columns: dict[str, np.ndarray]
    """float64 [R] each."""


def read_table(path: Path) -> Table:
    """
    Raises:
        ValueError: it is not as above; the message names the file and the row.
        OSError: it cannot be read.
    """
    try:
        rows = _csv_rows(path) if path.suffix == ".csv" else _json_rows(path)
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not the {path.suffix[1:]} it is called ({error})") from None
    if not rows:
        raise ValueError(f"{path}: has no rows")
    names = list(rows[0])
    numbers = np.empty((len(rows), len(names)))
    for i, row in enumerate(rows):
        if list(row) != names:
            raise ValueError(f"{path}: row {i}: expected {', '.join(names)}, got {', '.join(map(str, row))}")
        for k, name in enumerate(names):
            numbers[i, k] = _number(f"{path}: row {i}: {name}", row[name])
    by = [name for name in _PLACES if name in names]
    if len(by) != 1:
        raise ValueError(f"{path}: expected a column frame or a column time, got {', '.join(names)}")
    columns = dict(zip(names, numbers.T, strict=True))
    at = columns.pop(by[0])
    if (np.diff(at) <= 0).any() or at[0] < 0:
        wrong = 0 if at[0] < 0 else int(np.argmax(np.diff(at) <= 0)) + 1
        raise ValueError(f"{path}: row {wrong}: {by[0]}: expected more than in the row before, got {at[wrong]:g}")
    return Table(path, by[0], at, columns)


def _number(where: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise ValueError(f"{where}: expected a finite number, got {value!r}")
    return number


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, restkey="more", restval="", skipinitialspace=True)
        return [{str(name).strip(): value for name, value in row.items()} for row in reader]


def _json_rows(path: Path) -> list[dict[str, Any]]:
    content = parse_json(path.read_bytes())
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ValueError(f"{path}: expected a list with an object for each row")
    rows = []
    for row in content:
        flat: dict[str, Any] = {}
        for name, value in row.items():
            several = isinstance(value, list)
            flat.update({f"{name}.{i}": each for i, each in enumerate(value)} if several else {name: value})
        rows.append(flat)
    return rows


class _Group(NamedTuple):
    """Columns that make one part of the action."""

    name: str
    columns: tuple[str, ...]
    action: Action


class Columns:
    """What the columns of some tables mean together.

    Args:
        tables: all with the same columns.

    Raises:
        ValueError: they have not, or a number is none of its column's; the message names the first wrong file.
    """

    def __init__(self, tables: Sequence[Table]):
        first = tables[0]
        for table in tables:
            if list(table.columns) != list(first.columns) or table.by != first.by:
                ours, theirs = (", ".join([t.by, *t.columns]) for t in (table, first))
                raise ValueError(f"{table.path}: has the columns {ours}, {first.path.name} has {theirs}")
        names: dict[str, list[str]] = {}
        for name in first.columns:
            if name not in ("reward", "end"):
                names.setdefault(name if ":" in name else name.rpartition(".")[0], []).append(name)
        if not names:
            raise ValueError(f"{first.path}: has no column that says what was done")
        self._groups = [_group(name, columns, tables) for name, columns in names.items()]
        single = self._groups[0].action if len(self._groups) == 1 else None
        self.action = single or Mixed(parts=tuple((group.name or "actions", group.action) for group in self._groups))
        """Of all of them."""

    def steps(self, table: Table, first: int, stop: int, fps: float, video_fps: float) -> tuple[np.ndarray, np.ndarray]:
        """Actions [n, ...] and rewards float32 [n] of frames first .. stop - 1, taken ``fps`` times a second.

        Of rows within one frame, buttons count if they were held at any time, choices as they were at the end, numbers
        on average and rewards together.

        Raises:
            ValueError: the first row is later than the first frame.
        """
        a_frame = 1 / fps if table.by == "time" else video_fps / fps
        places = np.arange(first, stop + 1) * a_frame
        held = np.searchsorted(table.at, places[:-1] + _CLOSE * a_frame, "right") - 1
        stops = np.searchsorted(table.at, places[1:] - _CLOSE * a_frame, "left")
        if held[0] < 0:
            raise ValueError(f"{table.path}: row 0: {table.by}: must be 0, since a row holds from there on")
        own = np.where(table.at[held] < places[:-1] - _CLOSE * a_frame, held + 1, held)  # the first within the frame
        parts = {}
        for name, columns, action in self._groups:
            rows = np.stack([table.columns[column] for column in columns], axis=1)
            parts[name or "actions"] = np.stack(
                [_together(action, rows, *place) for place in zip(held, own, stops, strict=True)]
            )
        if isinstance(self.action, Mixed):
            act = self.action.encode(parts)
        else:
            (act,) = parts.values()
        reward = table.columns.get("reward", np.zeros(len(table.at)))
        rew = np.array([reward[start:end].sum() for start, end in zip(own, stops, strict=True)], np.float32)
        return act, rew

    def ends(self, table: Table) -> bool:
        """Whether the episode ends with the last row. Raises ValueError if it ends before."""
        end = table.columns.get("end", np.zeros(1))
        if end[:-1].any():
            raise ValueError(f"{table.path}: row {int(end.argmax())}: end: is only for the last row")
        return bool(end[-1])


def _group(name: str, columns: list[str], tables: Sequence[Table]) -> _Group:
    def rows(table: Table) -> np.ndarray:
        return np.stack([table.columns[column] for column in columns], axis=1)

    label, colon, count = name.partition(":")
    if colon or columns == ["action"]:
        n = int(count) if count.isdecimal() and int(count) else None
        if colon and n is None:
            raise ValueError(f"{tables[0].path}: column {name}: expected a number of choices behind the colon")
        for table in tables:
            values = rows(table)[:, 0]
            wrong = (values != np.trunc(values)) | (values < 0) | (values >= (n or 2**31))
            if wrong.any():
                row = int(wrong.argmax())
                right = "a number from 0" if n is None else f"0 to {n - 1}"
                raise ValueError(f"{table.path}: row {row}: {columns[0]}: expected {right}, got {values[row]:g}")
        return _Group(label, tuple(columns), Discrete(n or int(max(rows(table).max() for table in tables)) + 1))
    pressed = all(np.isin(rows(table), (0, 1)).all() for table in tables)
    return _Group(name, tuple(columns), (MultiBinary if pressed else Box)(len(columns)))


def _together(action: Action, rows: np.ndarray, held: int, own: int, stop: int) -> np.ndarray:
    """The action of one frame, from rows ``held`` (from before, or its own) to stop - 1."""
    match action:
        case Discrete():
            return rows[stop - 1, 0].astype(action.dtype)
        case MultiBinary():
            return rows[held:stop].max(axis=0).astype(action.dtype)
    return rows[min(own, stop - 1) : stop].mean(axis=0).astype(action.dtype)


def num_steps(table: Table, num_frames: int, fps: float, video_fps: float) -> int:
    """Steps in a video of so many frames: as many, or one less if the actions by frame leave out the last frame.

    Raises:
        ValueError: there are actions for fewer frames, or for more.
    """
    last = table.at[-1]
    if table.by == "time":
        seconds = (num_frames - 1) / fps
        if last < seconds - _MOST_SILENCE:
            raise ValueError(
                f"{table.path}: its actions end at {last:g} s, the video at {seconds:g} s; a last row says that the "
                "action before it holds on"
            )
        return num_frames
    every = video_fps / fps
    last_taken = int((num_frames - 1) * every + _CLOSE)
    if not last_taken - every <= last < last_taken + every:
        raise ValueError(f"{table.path}: has actions up to frame {last:g}, the video ends with frame {last_taken}")
    return num_frames if last >= last_taken else num_frames - 1
