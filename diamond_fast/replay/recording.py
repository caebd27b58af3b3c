"""A recording as a folder: frames of any amount, which stay on the disk and are read where they lie.

    frames          uint8 [slots, H, W, C]
    full            uint8 [slots, H', W', C], the same frames in another size, if there are two
    steps           per slot, packed: flags u1, rew <f4, act of the action's dtype and shape
    recording.json  what the numbers mean, and the episodes: (name, slots, CRC-32 of each file's part). Sealed, and
                    written last: a folder without it is not whole.

A slot is a step, or the final observation of the episode before it, as in the buffer (csrc/store.hpp).
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from diamond_fast import _replay
from diamond_fast.replay.buffer import Episode, FrameFiles, Replay
from diamond_fast.runs.durable import NewerFormatError, errors_of, fsync_folder, sealed, unsealed, write_durably
from diamond_fast.spec import Action, Discrete, action_from_json

META = "recording.json"
FORMAT = 1
BEGUN = "import.json"
"""Stands in the folder above as long as an import is under way."""
HALVES = ("train", "test")
_AT_ONCE = 1 << 24  # bytes of a file that are checked in one go


@dataclass(frozen=True)
class Form:
    """What all episodes of a recording have in common."""

    frame_shape: tuple[int, int, int]
    action: Action | None
    """None: int64 numbers, of how many is not known."""
    full_shape: tuple[int, int, int] | None = None
    """(H, W, C) of the frames in their other size."""
    fps: float | None = None
    """Frames a second, if that is known."""
    action_scale: tuple[float, ...] | None = None
    """What each of the numbers of an action was divided by, if by anything."""

    @property
    def step_dtype(self) -> np.dtype:
        """One slot of the file ``steps``."""
        action = self.action or Discrete(1)
        return np.dtype([("flags", "u1"), ("rew", "<f4"), ("act", action.dtype, action.shape)])

    @property
    def slot_bytes(self) -> dict[str, int]:
        """Bytes of one slot in each file."""
        full = {} if self.full_shape is None else {"full": math.prod(self.full_shape)}
        return {"frames": math.prod(self.frame_shape), **full, "steps": self.step_dtype.itemsize}

    def to_json(self) -> dict[str, Any]:
        full = None if self.full_shape is None else list(self.full_shape)
        action = None if self.action is None else self.action.to_json()
        scale = {} if self.action_scale is None else {"action_scale": list(self.action_scale)}
        return {"frame": list(self.frame_shape), "full": full, "action": action, "fps": self.fps, **scale}


class Stored(NamedTuple):
    """An episode's entry in ``recording.json``."""

    name: str
    """Where it came from."""
    slots: int
    checksums: dict[str, int]
    """CRC-32 of its part of each file."""


class Writer:
    """Appends episodes to a recording.

    Args:
        folder: of the recording; made if it is not there.
        form: of all episodes.
        slots: that are kept of what the files hold; what follows them is cut off.

    Raises:
        OSError: a file cannot be written.
    """

    def __init__(self, folder: Path, form: Form, slots: int = 0):
        self.folder, self.form = folder, form
        folder.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, BinaryIO] = {}
        for name, size in form.slot_bytes.items():
            with errors_of(folder / name):
                file = self._files[name] = open(folder / name, "ab", buffering=0)  # noqa: SIM115
                if file.tell() < slots * size:
                    raise ValueError(f"{folder / name}: is shorter than what was written of it; begin anew")
                file.truncate(slots * size)
        self._begin()

    def _begin(self) -> None:
        self._slots, self._checksums = 0, dict.fromkeys(self._files, 0)

    def append(self, piece: Episode) -> None:
        """Takes steps that follow those before in the same episode; the last ones may have a final observation.

        Args:
            piece: as of the form.
        """
        final = piece.final_obs is not None
        steps = np.zeros(len(piece.act) + final, self.form.step_dtype)
        of_steps = steps[: len(piece.act)]
        of_steps["rew"], of_steps["act"] = piece.rew, piece.act
        of_steps["flags"] = piece.end * _replay.END + piece.trunc * _replay.TRUNC
        if self._slots == 0:
            steps["flags"][0] |= _replay.FIRST
        if final:
            steps["flags"][-1] = _replay.FINAL
        for name, obs, last in (
            ("frames", piece.obs, piece.final_obs),
            ("full", piece.full_obs, piece.full_final_obs),
        ):
            if name in self._files:
                assert obs is not None  # as the form says
                self._write(name, obs)
                if last is not None:
                    self._write(name, last)
        self._write("steps", steps)
        self._slots += len(steps)

    def end_episode(self, name: str) -> Stored:
        """What was taken since the last call is an episode, and on the disk."""
        for file_name, file in self._files.items():
            with errors_of(self.folder / file_name):
                os.fsync(file.fileno())
        stored = Stored(name, self._slots, self._checksums)
        self._begin()
        return stored

    def finish(self, episodes: Sequence[Stored]) -> None:
        """Makes it a recording that is whole."""
        self.close()
        fsync_folder(self.folder)
        meta = {"format": FORMAT, **self.form.to_json(), "episodes": [list(episode) for episode in episodes]}
        write_durably(self.folder / META, sealed("recording", meta))

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _write(self, name: str, array: np.ndarray) -> None:
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        self._checksums[name] = zlib.crc32(content, self._checksums[name])
        with errors_of(self.folder / name):
            while content:
                content = content[self._files[name].write(content) :]


def write_recording(
    folder: Path, episodes: Iterable[Episode], action: Action | None, full_size: bool = False, fps: float | None = None
) -> None:
    """Writes a small recording at once.

    Args:
        folder: a new one.
        episodes: all of one form.
        action: theirs.
        full_size: store ``full_obs``.
        fps: frames a second.

    Raises:
        ValueError: there are none.
        OSError: a file cannot be written.
    """
    writer, stored = None, []
    for number, episode in enumerate(episodes):
        if writer is None:
            full = episode.full_obs.shape[1:] if full_size and episode.full_obs is not None else None
            writer = Writer(folder, Form(episode.obs.shape[1:], action, full, fps))
        writer.append(episode)
        stored.append(writer.end_episode(str(number)))
    if writer is None:
        raise ValueError(f"{folder}: no episodes")
    writer.finish(stored)


class Meta(NamedTuple):
    """What ``recording.json`` says."""

    form: Form
    episodes: list[Stored]

    @property
    def num_slots(self) -> int:
        return sum(episode.slots for episode in self.episodes)


def read_meta(folder: Path) -> Meta:
    """
    Raises:
        ValueError: it is damaged, or a file is shorter or longer than it says.
        NewerFormatError: a newer version of this program wrote it.
        OSError: it cannot be read.
    """
    try:
        meta = _parsed(unsealed("recording", folder / META))
    except ValueError as error:
        raise type(error)(f"{folder}: {error}") from None
    for name, size in meta.form.slot_bytes.items():
        found = (folder / name).stat().st_size
        if found != meta.num_slots * size:
            raise ValueError(f"{folder / name}: expected {meta.num_slots * size} bytes, got {found}")
    return meta


def _parsed(content: Any) -> Meta:
    match content:
        case {"format": int(version)} if version > FORMAT:
            raise NewerFormatError(f"written in format {version}, this program reads up to {FORMAT}")
        case {"frame": [int(h), int(w), int(c)], "full": full, "action": action, "fps": fps, "episodes": [*episodes]}:
            known = None if action is None else action_from_json(action)
            full, scale = (None if given is None else tuple(given) for given in (full, content.get("action_scale")))
            form = Form((h, w, c), known, full, fps, scale)
            return Meta(form, [Stored(*episode) for episode in episodes])
    raise ValueError(f"{META} is not that of a recording")


def recording_in(path: Path) -> Path | None:
    """The recording that is meant by this path: it, or the only half that was imported. None: it is no such folder.

    Raises:
        ValueError: there are two, or it is not whole.
    """
    if any((folder / BEGUN).is_file() for folder in (path, path.parent)):
        raise ValueError(f"{path}: its import has not come to its end; the same command goes on with it")
    if (path / META).is_file():
        return path
    halves = [path / half for half in HALVES if (path / half / META).is_file()]
    if len(halves) > 1:
        raise ValueError(f"{path}: holds two recordings; name one of them, {halves[0]} or {halves[1]}")
    return halves[0] if halves else None


def load(folder: Path) -> Replay:
    """The recording; its frames stay where they are, steps are read into memory.

    Raises:
        ValueError, OSError: as `read_meta`, or its steps are damaged.
    """
    form, episodes = meta = read_meta(folder)
    steps = np.fromfile(folder / "steps", form.step_dtype)
    first = 0
    for episode in episodes:
        if zlib.crc32(steps[first : first + episode.slots].tobytes()) != episode.checksums["steps"]:
            raise ValueError(f"{folder / 'steps'}: {episode.name} differs from its checksum")
        first += episode.slots
    full = None if form.full_shape is None else folder / "full"
    files = FrameFiles(folder / "frames", full, form.full_shape)
    replay = Replay(form.frame_shape, capacity=meta.num_slots, action=form.action, files=files)
    replay.take_slots(steps["act"], steps["rew"], steps["flags"])
    return replay


def first_damage(folder: Path) -> str | None:
    """Reads every byte; what is wrong first, for people, or None."""
    form, episodes = read_meta(folder)
    for name, size in form.slot_bytes.items():
        with open(folder / name, "rb") as file:
            for episode in episodes:
                if _checksum(file, episode.slots * size) != episode.checksums[name]:
                    return f"{folder / name}: {episode.name} differs from its checksum"
    return None


def _checksum(file: BinaryIO, count: int) -> int:
    checksum = 0
    while count > 0 and (part := file.read(min(count, _AT_ONCE))):
        checksum, count = zlib.crc32(part, checksum), count - len(part)
    return checksum
