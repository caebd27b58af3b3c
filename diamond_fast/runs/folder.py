"""The folder of one run: where everything lies, and who may write to it.

::

    config.json        every setting of the run; next to it its checksum, which `sha256sum -c` reads
    metrics.jsonl      one line per epoch
    checkpoints/       the last three epochs
    replay/            the real experience
    pictures/          real and imagined frames of each evaluation; of the last one imagined.gif; learning_curves.png;
                       strip.png, imagined while training; index.html, a page with all of it
    lock               held while a process trains here; holds its process id
    no_checkpoint_yet  there until the first one is committed
"""

import fcntl
import hashlib
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diamond_fast.config import RunConfig, of_kind
from diamond_fast.runs.durable import errors_of, fsync_folder, parse_json, strict_json, write_durably
from diamond_fast.settings import check_limits, from_json, to_json

FORMAT = 1
"""The format of config.json, also of one that names none. A new setting with a default needs no new format."""

IMAGINED, LEARNING_CURVES = "imagined.gif", "learning_curves.png"
"""Pictures that are drawn anew at each evaluation."""
STRIP, PAGE = "strip.png", "index.html"
"""What is drawn anew while training goes on."""


class _Below:
    """A path below a run's folder."""

    def __init__(self, place: str):
        self._place = place

    def __get__(self, run: "RunFolder", owner: type) -> Path:
        return run.path / self._place


@dataclass(frozen=True)
class RunFolder:
    """Paths below ``path``. Make one with :meth:`create` or :meth:`open`."""

    path: Path
    config_file = _Below("config.json")
    config_checksum_file = _Below("config.json.sha256")
    metrics_file = _Below("metrics.jsonl")
    checkpoints = _Below("checkpoints")
    replay = _Below("replay")
    journal = _Below("replay/journal")
    pictures = _Below("pictures")
    lock_file = _Below("lock")
    no_checkpoint_yet = _Below("no_checkpoint_yet")

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
            write_durably(run.no_checkpoint_yet, b"")
            content = (strict_json({"format": FORMAT, **to_json(config)}, indent=2) + "\n").encode()
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

    def read_config(self, env_id: str | None = None) -> RunConfig:
        """The run's settings. Those that did not exist yet when it was made have their defaults.

        Args:
            env_id: an environment that the user of this very program names. One whose id begins with a module, which
                is imported to make it, is taken from the file only if it is this one: who reads a folder made by
                somebody else should not run their code.

        Raises:
            ValueError: the file is damaged, of a newer format, names a setting this version does not know or a value
                out of its limits, or a module that ``env_id`` does not name.
        """
        try:
            settings = self.read_settings()
            config = from_json(_of_kind(settings), settings)
            check_limits(config)
            runs_code = names_module(config)
        except ValueError as error:
            raise ValueError(f"{self.config_file}: {error}") from error
        if runs_code and config.env_id != env_id:
            given = config.env_id if config.env_kwargs is None else f"{config.env_id} with {config.env_kwargs}"
            raise ValueError(
                f"{self.config_file}: its env_id, {given}, would import code, which is done only if the "
                f"command line names it too; if you trust it, add --env-id {shlex.quote(str(config.env_id))}"
            )
        return config

    def read_settings(self) -> dict[str, Any]:
        """What config.json says, its format left out; no more is checked than that it is whole and of this format.

        Raises:
            ValueError: the file is damaged, or of a newer format. The message leaves out its name.
        """
        content = self.config_file.read_bytes()
        has_checksum = self.config_checksum_file.exists()
        if has_checksum and self.config_checksum_file.read_bytes() != _checksum_line(content):
            raise ValueError(f"differs from its checksum in {self.config_checksum_file.name}")
        settings = parse_json(content)
        if isinstance(settings, dict) and "format" in settings and not has_checksum:  # the first runs had neither
            raise ValueError(f"its checksum, {self.config_checksum_file.name}, is missing")
        return without_format(settings)

    def discard(self) -> None:
        """Remove a folder that was created for a run that could not begin."""
        shutil.rmtree(self.path)

    def _is_fresh(self) -> bool:
        """Nothing is there but what a creation left that was cut short."""
        files = (self.no_checkpoint_yet, self.config_file, self.config_checksum_file)
        partial = {file.with_name(f"{file.name}.partial") for file in files}
        folders = {self.checkpoints, self.replay, self.pictures}
        ours = {self.lock_file, self.no_checkpoint_yet, self.config_checksum_file} | folders | partial
        entries = set(self.path.iterdir())
        return entries <= ours and not any(any(entry.iterdir()) for entry in entries if entry.is_dir())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other process out; let go by the operating system even if this one is killed.

        Raises:
            ValueError: another process is at work here; its id is in the message.
        """
        # Emptied before it is written: a link to somebody's file, in a folder made by somebody else, must not be.
        with open(self.lock_file, "a+b", buffering=0, opener=_without_following) as file:
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

    def new_picture(self, name: str) -> Path:
        """Where to draw a picture of that name: its folder is there, and nothing is there yet, not even a link."""
        self.pictures.mkdir(exist_ok=True)
        path = self.pictures / name
        path.unlink(missing_ok=True)
        return path

    @property
    def page(self) -> Path:
        """The page that shows the run; there once it has begun."""
        return self.pictures / PAGE

    def newest_pictures(self) -> list[Path]:
        """What there is to look at: the last evaluation's frames and their GIF, and the learning curves."""
        frames = sorted(self.pictures.glob("epoch_*.png"))[-1:]
        return frames + [path for name in (IMAGINED, LEARNING_CURVES) if (path := self.pictures / name).exists()]


def _without_following(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _checksum_line(content: bytes) -> bytes:
    """As ``sha256sum config.json`` prints it."""
    return f"{hashlib.sha256(content).hexdigest()}  config.json\n".encode()


def without_format(settings: Any) -> dict[str, Any]:
    """The settings in a config.json, without its format.

    Raises:
        ValueError: it is of a newer format, or holds no settings.
    """
    if not isinstance(settings, dict):
        raise ValueError(f"expected an object, got {settings!r}")
    written = settings.pop("format", FORMAT)
    if written != FORMAT:
        raise ValueError(f"has format {written!r}, this version reads {FORMAT}; a newer one may read it")
    if "path" in settings:  # what the engine was called at first
        settings.setdefault("engine", settings.pop("path"))
    return settings


def _of_kind(settings: Any) -> RunConfig:
    """Defaults of the formulation and the network that settings name. Raises ValueError if there are none such."""
    kinds = RunConfig().formulation, RunConfig().network
    if isinstance(settings, dict):
        kinds = settings.get("formulation", kinds[0]), settings.get("network", kinds[1])
    if not all(isinstance(kind, str) for kind in kinds):
        raise ValueError(f"formulation, network: expected names, got {kinds[0]!r} and {kinds[1]!r}")
    return of_kind(RunConfig(), *kinds)


def names_module(config: RunConfig) -> bool:
    """Whether a module may be imported to make the environment: ``module:Id-v0``, in its id or among its arguments.

    Some registered environments take the id of another one as an argument.
    """
    return config.env_id is not None and (":" in config.env_id or _holds_colon(config.env_arguments))


def _holds_colon(value: Any) -> bool:
    """Whether a string within decoded JSON has one."""
    if isinstance(value, dict):
        return any(map(_holds_colon, [*value, *value.values()]))
    if isinstance(value, list):
        return any(map(_holds_colon, value))
    return isinstance(value, str) and ":" in value
