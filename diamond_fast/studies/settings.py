"""What all studies are told, and how one is recognised that is gone on with. No torch."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tyro.conf import FlagCreatePairsOff, arg

from diamond_fast.config import EngineChoice
from diamond_fast.runs.durable import parse_json, strict_json, write_durably
from diamond_fast.settings import BatchSize, PositiveInt, Seed, flag, require


class UnfitInputError(ValueError):
    """What the user gave turned out not to fit when the work had begun; the message says what."""


@contextmanager
def users_input() -> Iterator[None]:
    """For what reads the user's files behind a study's beginning: a ValueError there is no bug."""
    try:
        yield
    except ValueError as error:
        raise UnfitInputError(str(error)) from error


NOT_OF_THE_STUDY = ("out", "device", "engine", "quick")
"""Flags that may change when a study is gone on with."""


@dataclass(frozen=True)
class StudyFlags:
    QUICK: ClassVar[Mapping[str, Any]] = {}  # defaults of --quick
    MAY_GROW: ClassVar[tuple[str, ...]] = ()  # flags that may change too: what was measured is kept for each value

    data: Annotated[Path | None, arg(metavar="PATH")] = None
    """The recording: a journal, a .npz file, a published dataset folder, or the folder of a run, for its experience."""
    denoising_steps: tuple[PositiveInt, ...] = (1, 2, 3, 5, 10)
    """Numbers of denoising steps per frame that are compared."""
    batch_size: BatchSize = 32
    """Number of futures that are imagined together."""
    seed: Seed = 0
    """Fixes every random number of the measurements."""
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: studies/<name>)")] = None
    """The folder for everything. If it holds part of this study, the rest is done."""
    device: Annotated[str, arg(metavar="auto|cpu|cuda|cuda:N")] = "auto"
    """The device that the networks run on."""
    engine: EngineChoice = "auto"
    """How networks are computed. auto: the fastest way this machine has. readable: as they are written."""
    quick: FlagCreatePairsOff[bool] = False
    """Smaller defaults, which take minutes on two processors and prove nothing but that all of it works."""

    def check(self) -> None:
        """Raises ValueError if what is asked for cannot be."""
        require(self.data is not None, "data", "is needed: a recording, or the folder of a run")
        steps = self.denoising_steps
        require(bool(steps), "denoising_steps", "needs at least one number")
        require(len(set(steps)) == len(steps), "denoising_steps", f"{' '.join(map(str, steps))}: one is named twice")


def begin(out: Path, name: str, args: StudyFlags) -> bool:
    """Makes the study's folder, or goes on in it, with more of ``MAY_GROW`` or less. Returns whether it is new.

    Raises:
        ValueError: it holds something else; the message names the flag that differs.
        OSError: the disk refused.
    """
    asked = {"study": name} | {
        flag(f.name): _told(getattr(args, f.name)) for f in fields(args) if f.name not in NOT_OF_THE_STUDY
    }
    file = out / "study.json"
    if file.exists():
        held = parse_json(file.read_bytes())
        fixed = [key for key in asked if key not in map(flag, args.MAY_GROW)]
        changed = [key for key in fixed if not isinstance(held, dict) or held.get(key) != asked[key]]
        if changed:
            was = held.get(changed[0]) if isinstance(held, dict) else held
            raise ValueError(f"--out {out}: holds a study with {changed[0]} {was}, not {asked[changed[0]]}")
        return False
    require(not out.exists() or (out.is_dir() and not any(out.iterdir())), "out", f"{out} is there and holds no study")
    out.mkdir(parents=True, exist_ok=True)
    write_durably(file, (strict_json(asked, indent=2) + "\n").encode())
    return True


def _told(value: Any) -> Any:
    """As JSON keeps it."""
    if isinstance(value, tuple):
        return [_told(item) for item in value]
    return str(value) if isinstance(value, Path) else value
