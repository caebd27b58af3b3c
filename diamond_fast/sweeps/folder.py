"""A sweep's folder: which runs it has, and what became of each attempt at one.

::

    sweep.json          every run's name and arguments, and the command that made it
    runs/NAME/          an ordinary run
    attempts/NAME.jsonl one line as a process begins with the run, one as it ends
    attempts/NAME.alive touched while a process is at work; attempts/NAME.lock keeps a second one out
    logs/NAME.log       what all attempts printed
    cancelled           there if the sweep was told to stop

Nothing is shared between runs but sweep.json, which is only read once the sweep began. So no run waits for another
one, and what is known after any crash is what lies here.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from diamond_fast.runs.durable import sealed, unsealed, write_durably
from diamond_fast.runs.folder import RunFolder

FORMAT = 1
"""Of sweep.json."""


@dataclass(frozen=True)
class Planned:
    """A run as the sweep wants it."""

    name: str
    variant: str
    """The grid's settings in short, such as ``num-steps=3``; empty without a grid."""
    argv: tuple[str, ...]
    """Of ``python -m diamond_fast.train``, without the folder."""


@dataclass(frozen=True)
class SweepFolder:
    """Paths below ``path``, and the runs. Make one with :meth:`create` or :meth:`open`."""

    path: Path
    command: str
    """That began it, and goes on with it."""
    where: str
    """The folder that the command was called in, where relative paths among the arguments begin."""
    runs: tuple[Planned, ...]

    @classmethod
    def create(cls, path: Path, command: str, runs: Sequence[Planned]) -> "SweepFolder":
        """A new sweep, or one that is there and has some of these runs, and no others.

        Raises:
            ValueError: something else is there.
        """
        if path.exists() and not path.is_dir():
            raise ValueError(f"--out {path}: is a file; name a folder")
        if _manifest(path).exists():
            wanted = {run.name: run for run in runs}
            for run in cls.open(path).runs:
                if run.name not in wanted:
                    raise ValueError(
                        f"--out {path}: holds a sweep with {run.name}, which is not asked for; name another"
                    )
                if run != wanted[run.name]:
                    raise ValueError(f"--out {path}: holds a sweep whose {run.name} has other settings; name another")
        elif path.exists() and any(path.iterdir()):
            raise ValueError(f"--out {path}: the folder is not empty; name a new one")
        sweep = cls(path, command, os.getcwd(), tuple(runs))
        for name in ("runs", "attempts", "logs"):
            (path / name).mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT, "command": command, "where": sweep.where, "runs": [asdict(run) for run in runs]}
        write_durably(_manifest(path), sealed("sweep", content))
        return sweep

    @classmethod
    def open(cls, path: Path) -> "SweepFolder":
        """Raises ValueError if no sweep is there, or a damaged one, or one of a newer format."""
        if not is_sweep(path):
            raise ValueError(f"{path}: not the folder of a sweep (it has no sweep.json)")
        try:
            content = unsealed("sweep", _manifest(path))
            if content["format"] != FORMAT:
                raise ValueError(f"has format {content['format']!r}, this version reads {FORMAT}")
            command, where = content["command"], content["where"]
            runs = tuple(Planned(r["name"], r["variant"], tuple(r["argv"])) for r in content["runs"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{_manifest(path)}: damaged: {error}") from None
        return cls(path, command, where, runs)

    def run(self, name: str) -> RunFolder:
        return RunFolder(self.path / "runs" / name)

    def planned(self, name: str) -> Planned:
        return next(run for run in self.runs if run.name == name)

    def attempts_file(self, name: str) -> Path:
        return self.path / "attempts" / f"{name}.jsonl"

    def alive_file(self, name: str) -> Path:
        return self.path / "attempts" / f"{name}.alive"

    def log_file(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"

    @property
    def cancelled_file(self) -> Path:
        return self.path / "cancelled"

    @contextmanager
    def only_attempt(self, name: str) -> Iterator[bool]:
        """Yields whether this process is the only one at this run; let go by the system even if it is killed."""
        with open(self.path / "attempts" / f"{name}.lock", "w") as file:
            try:
                flock(file, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    @contextmanager
    def only_driver(self) -> Iterator[None]:
        """Raises ValueError if another process drives this sweep on this machine."""
        with open(self.path / "lock", "w") as file:
            try:
                flock(file, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"--out {self.path}: another process drives this sweep; sweep status shows how far it is"
                ) from None
            yield


def is_sweep(path: Path) -> bool:
    return _manifest(path).is_file()


def _manifest(path: Path) -> Path:
    return path / "sweep.json"
