"""The folder of one run: where everything lies, and who may write to it.

::

    config.json      every setting of the run; beside it its checksum, which `sha256sum -c` reads
    metrics.jsonl    one line per epoch
    checkpoints/     the last three epochs
    replay/          the real experience
    pictures/        real and imagined frames of each evaluation; of the last one imagined.gif; learning_curves.png
    lock             held while a process trains here; holds its process id
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from diamond_fast.config import RunConfig
from diamond_fast.runs.durable import errors_of, fsync_folder, strict_json, write_durably
from diamond_fast.settings import from_json, to_json


@dataclass(frozen=True)
class RunFolder:
    """Paths below ``path``. Make one with :meth:`create` or :meth:`open`."""

    path: Path

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> "RunFolder":
        """A new run's folder, with its settings written down.

        Raises:
            ValueError: something is there already.
        """
        run = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ValueError(f"{path}: is a file, or lies below one; name a new folder") from None
        with run.lock():
            if run.config_file.exists():
                raise ValueError(f"{path}: a run is there already; continue it with --resume {path}")
            if not run._is_fresh():
                raise ValueError(f"{path}: the folder is not empty; name a new one")
            for folder in (run.checkpoints, run.replay, run.pictures):
                folder.mkdir(exist_ok=True)
            content = (strict_json(to_json(config), indent=2) + "\n").encode()
            write_durably(run.config_checksum_file, _checksum_line(content))
            write_durably(run.config_file, content)  # from here on it is a run
            fsync_folder(path.parent)
        return run

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """An existing run's folder.

        Raises:
            ValueError: no run is there.
        """
        run = cls(path)
        if not path.is_dir():
            raise ValueError(f"{path}: no such folder")
        if not run.config_file.is_file():
            raise ValueError(f"{path}: not the folder of a run (it has no config.json)")
        return run

    def read_config(self) -> RunConfig:
        """The run's settings, exactly as they were.

        Raises:
            ValueError: the file is damaged, or names a setting this version does not know or misses one.
        """
        try:
            content = self.config_file.read_bytes()
            if not self.config_checksum_file.exists() or self.config_checksum_file.read_bytes() != _checksum_line(
                content
            ):
                raise ValueError(f"differs from its checksum in {self.config_checksum_file.name}")
            return from_json(RunConfig, json.loads(content))
        except ValueError as error:  # malformed JSON and UTF-8 included
            raise ValueError(f"{self.config_file}: {error}") from error

    def _is_fresh(self) -> bool:
        """Nothing is there but what a creation left that was cut short."""
        partial = {file.with_name(f"{file.name}.partial") for file in (self.config_file, self.config_checksum_file)}
        ours = {self.lock_file, self.checkpoints, self.replay, self.pictures, self.config_checksum_file} | partial
        entries = set(self.path.iterdir())
        return entries <= ours and not any(any(entry.iterdir()) for entry in entries if entry.is_dir())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other process out; let go by the operating system even if this one is killed.

        Raises:
            ValueError: another process is at work here; its id is in the message.
        """
        with open(self.lock_file, "a+b", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().decode(errors="replace").strip() or "unknown"
                raise ValueError(f"{self.path}: in use by process {holder}; wait for it or stop it first") from None
            with errors_of(self.lock_file):
                file.truncate(0)
                file.write(f"{os.getpid()}\n".encode())
            yield

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def config_checksum_file(self) -> Path:
        return self.path / "config.json.sha256"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def replay(self) -> Path:
        return self.path / "replay"

    @property
    def pictures(self) -> Path:
        return self.path / "pictures"

    @property
    def imagined(self) -> Path:
        return self.pictures / "imagined.gif"

    @property
    def learning_curves(self) -> Path:
        return self.pictures / "learning_curves.png"

    def newest_pictures(self) -> list[Path]:
        """What there is to look at: the last evaluation's strips and their GIF, and the learning curves."""
        strips = sorted(self.pictures.glob("epoch_*.png"))[-1:]
        return strips + [path for path in (self.imagined, self.learning_curves) if path.exists()]

    @property
    def lock_file(self) -> Path:
        return self.path / "lock"


def _checksum_line(content: bytes) -> bytes:
    """As ``sha256sum config.json`` prints it."""
    return f"{hashlib.sha256(content).hexdigest()}  config.json\n".encode()
