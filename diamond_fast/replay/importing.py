"""An import of any size: episode by episode to the disk, and on from where it stopped.

While it is under way its folder holds ``import.json``, which says what is imported and how, and ``progress``, a line
for each episode that is on the disk. What files hold beyond those is cut off when it goes on.
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from diamond_fast.one_line import counted
from diamond_fast.replay.recording import BEGUN, HALVES, Form, Stored, Writer
from diamond_fast.replay.sizes import Crop, Size, Sizes
from diamond_fast.replay.sources.source import Item, Source
from diamond_fast.runs.durable import errors_of, fsync_folder, sealed, unsealed, write_durably
from diamond_fast.runs.progress import Progress

PROGRESS = "progress"


@dataclass(frozen=True)
class Wanted:
    """What an import makes of its source."""

    low: Size | None = None
    full: Size | None = None
    crop: Crop | None = None
    test: str | None = None
    """A fraction from 0 to 1, the path of a file with the names of the test half's episodes, or ``published``."""


def import_episodes(source: Source, name: str, out: Path, wanted: Wanted) -> dict[str, list[Stored]]:
    """Writes ``out/train`` and, if anything is for it, ``out/test``.

    Args:
        name: of the source, for whoever looks at the folder.
        out: new, or left by the same import.

    Returns:
        The episodes in each half.

    Raises:
        ValueError: an episode is not as it should be: the message names the first; those before it are kept. Or what
            is wanted cannot be, or ``out`` holds something else.
        OSError: the disk is full, or refuses something else. The import can go on later.
    """
    sizes = Sizes(
        source.size, wanted.crop, wanted.low or source.low_size, wanted.full or source.full_size, source.bicubic
    )
    full_shape = None if sizes.full is None else (*sizes.full, 3)
    form = Form((*sizes.low, 3), source.action, full_shape, source.fps, source.action_scale)
    halves = split(source, wanted.test)
    with ExitStack() as stack:
        log = stack.enter_context(
            _Log(out, {"source": name, **form.to_json(), "crop": wanted.crop, "test": wanted.test})
        )
        writers: dict[str, Writer] = {}
        for half in sorted(set(halves)):
            writers[half] = Writer(out / half, form, sum(stored.slots for stored in log.done[half]))
            stack.callback(writers[half].close)
        done = {stored.name for stored in [*log.done["train"], *log.done["test"]]}
        todo = [(item, half) for item, half in zip(source.items, halves, strict=True) if item.name not in done]
        with (
            Progress(1, {"import": len(todo)}, unit="import") as progress,
            progress.phase("import", len(todo)) as phase,
        ):
            for item, half in todo:
                with _goes_on():
                    log.add(half, _store(item, sizes, writers[half]))
                phase.advance()
        for half in sorted(writers, reverse=True):  # train last: a lone train half is a whole recording
            writers[half].finish(log.done[half])
        log.finish()
    return {half: log.done[half] for half in writers}


@contextmanager
def _goes_on() -> Iterator[None]:
    """Says of a full disk, or whatever else the system refuses, that nothing is lost."""
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror}; what there is until now is kept, and the same command goes on with it"
        raise OSError(error.errno, reason, error.filename) from error


def _store(item: Item, sizes: Sizes, writer: Writer) -> Stored:
    for piece in item.read():
        writer.append(sizes(piece))
    return writer.end_episode(item.name)


def split(source: Source, test: str | None) -> list[str]:
    """The half of each episode.

    Raises:
        ValueError: the test half cannot be made like that, or one of the two would be empty.
    """
    names = [item.name for item in source.items]
    if test is None:
        chosen = set()
    elif test == "published":
        if source.is_test is None:
            raise ValueError("--test published: only CS:GO's hdf5 files have a published test half")
        chosen = set(filter(source.is_test, names))
    elif (fraction := _fraction(test)) is not None:  # evenly among the others
        chosen = {name for i, name in enumerate(names) if int((i + 1) * fraction) > int(i * fraction)}
    else:
        chosen = _listed(test, names)
    halves = [item.half or HALVES[item.name in chosen] for item in source.items]
    settled = any(item.half for item in source.items)
    if settled and test is not None:
        raise ValueError(f"--test {test}: the recording is in two halves already, train and test")
    if "train" not in halves or (test not in (None, "0") and "test" not in halves):
        empty = "train" if "train" not in halves else "test"
        raise ValueError(f"--test {test}: leaves nothing for {empty} of {len(names)} episodes")
    return halves


def _fraction(test: str) -> float | None:
    try:
        fraction = float(test)
    except ValueError:
        return None
    if not 0 <= fraction < 1:
        raise ValueError(f"--test {test}: must be at least 0 and below 1, a list of names or published")
    return fraction


def _listed(test: str, names: Sequence[str]) -> set[str]:
    try:
        listed = {line.strip() for line in Path(test).read_text().splitlines() if line.strip()}
    except (OSError, UnicodeDecodeError):
        raise ValueError(
            f"--test {test}: must be a fraction, published or a text file with a name on each line"
        ) from None
    if unknown := sorted(listed - set(names)):
        raise ValueError(f"--test {test}: there is no {unknown[0]}; names are like {names[0]}")
    return listed


class _Log:
    """What an import has on the disk. One process at a time."""

    def __init__(self, out: Path, settings: dict[str, Any]):
        self._out = out
        self._settings = json.loads(json.dumps(settings))
        self.done: dict[str, list[Stored]] = {half: [] for half in HALVES}
        self._file: BinaryIO

    def __enter__(self) -> _Log:
        out, begun = self._out, self._out / BEGUN
        if not begun.exists():
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise ValueError(f"{out}: exists already; give a new name")
            out.mkdir(parents=True, exist_ok=True)
            write_durably(begun, sealed("import", self._settings))
        before = unsealed("import", begun)
        if before != self._settings:
            differs = next(key for key in self._settings if before.get(key) != self._settings[key])
            raise ValueError(
                f"{out}: was begun with {differs} {before.get(differs)}, not {self._settings[differs]}; "
                "go on as it was begun, or give another --out"
            )
        with errors_of(out / PROGRESS):
            self._file = open(out / PROGRESS, "a+b", buffering=0)
            try:
                fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self._file.close()
                raise BlockingIOError(error.errno, "another import is writing to this folder") from None
        self._read()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _read(self) -> None:
        """Takes the whole lines and cuts off the rest."""
        self._file.seek(0)
        whole = 0
        for line in self._file.read().splitlines(keepends=True):
            checksum, _, text = line.partition(b" ")
            if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
                break
            half, *stored = json.loads(text)
            self.done[half].append(Stored(*stored))
            whole += len(line)
        self._file.truncate(whole)
        fsync_folder(self._out)

    def add(self, half: str, stored: Stored) -> None:
        text = json.dumps([half, *stored]).encode() + b"\n"
        with errors_of(self._out / PROGRESS):
            self._file.write(b"%08x %s" % (zlib.crc32(text), text))
            os.fsync(self._file.fileno())
        self.done[half].append(stored)

    def finish(self) -> None:
        """The halves are whole now, and nothing else is left."""
        (self._out / BEGUN).unlink()
        (self._out / PROGRESS).unlink()
        fsync_folder(self._out)


def said(out: Path, halves: dict[str, list[Stored]]) -> list[str]:
    """What was imported, a line for each half."""
    return [f"{out / half}: {counted(len(episodes), 'episode')}" for half, episodes in halves.items()]
