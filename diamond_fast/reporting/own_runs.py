"""Our own runs as a report needs them: who played what, how it went over time, and how it ended."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from diamond_fast.config import MACHINE_FLAGS, world_name
from diamond_fast.domains.atari.games import ATARI_100K
from diamond_fast.runs.durable import parse_json
from diamond_fast.runs.folder import RunFolder, without_format
from diamond_fast.runs.metrics import flat, read_metrics
from diamond_fast.settings import flag

IDENTITY = ("game", "env_id", "domain", "seed", *MACHINE_FLAGS)
"""Settings in which runs of one agent may differ."""


@dataclass(frozen=True)
class OwnRun:
    """One run's folder, read once."""

    path: Path
    game: str
    """The game, or the id of another environment."""
    seed: int
    settings: Mapping[str, Any]
    """Every setting by its dotted path, as written in config.json."""
    epochs: int
    """Finished so far."""
    env_steps: int
    """Real steps so far."""
    seconds: float
    """Seconds of training so far."""
    steps: np.ndarray
    """int64 [E]: real steps at each evaluation, the final one included."""
    hours: np.ndarray
    """float64 [E]: hours of training at each evaluation."""
    returns: np.ndarray
    """float64 [E]: mean return of each evaluation."""
    num_final_episodes: int
    """Episodes of the final evaluation; 0 while the run is unfinished."""

    def __str__(self) -> str:
        return f"{self.game} seed {self.seed}"

    @property
    def finished(self) -> bool:
        """Whether the final evaluation was played."""
        return self.num_final_episodes > 0

    @property
    def score(self) -> float | None:
        """Mean return of the newest evaluation: of a finished run the final one. None before the first."""
        return float(self.returns[-1]) if len(self.returns) else None


def read_run(path: Path) -> OwnRun:
    """A finished or unfinished run. Settings that this version does not know are no hindrance.

    Raises:
        ValueError: no run is there, or what it wrote is damaged.
    """
    folder = RunFolder.open(path)
    settings = _read_settings(folder.config_file)
    lines = read_metrics(folder.metrics_file) if folder.metrics_file.is_file() else []
    try:
        course = _course(lines)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{folder.metrics_file}: damaged: {what}") from None
    return OwnRun(path, world_name(settings), settings["seed"], settings, **course)


def _course(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How a run went, from the lines of its metrics."""
    last = lines[-1] if lines else {"epoch": 0, "env_steps": 0, "seconds": 0.0}
    final = next((line for line in lines if "final_test/returns" in line), None)
    evaluated = [line for line in lines if line.get("test/return_mean") is not None]
    returns = [float(line["test/return_mean"]) for line in evaluated]
    if final is not None:
        evaluated.append(final)
        returns.append(_mean_of_final(final["final_test/returns"]))
    if not np.isfinite(returns).all():
        raise ValueError("a return is not a finite number")
    return {
        "epochs": int(last["epoch"]),
        "env_steps": int(last["env_steps"]),
        "seconds": float(last["seconds"]),
        "steps": np.array([int(line["env_steps"]) for line in evaluated], np.int64),
        "hours": np.array([float(line["seconds"]) / 3600 for line in evaluated], np.float64),
        "returns": np.array(returns, np.float64),
        "num_final_episodes": len(final["final_test/returns"]) if final else 0,
    }


def read_runs(paths: Sequence[Path], skip: Callable[[str], object] | None = None) -> list[OwnRun]:
    """Runs in the order of games and seeds; a folder that is named twice counts once.

    Args:
        paths: of folders.
        skip: told in one line about each folder that holds no run, or a damaged one.

    Raises:
        ValueError, OSError: as :func:`read_run`, if there is no ``skip``.
    """
    runs = []
    for path in {path.resolve(): path for path in paths}.values():
        try:
            runs.append(read_run(path))
        except (ValueError, OSError) as error:
            if skip is None:
                raise
            skip(str(error) if isinstance(error, ValueError) else f"{error.filename or path}: {error.strerror}")
    return sorted(runs, key=lambda run: (run.game, run.seed, str(run.path)))


def by_game(runs: Sequence[OwnRun]) -> dict[str, list[OwnRun]]:
    """The runs of each game, which are its seeds."""
    games: dict[str, list[OwnRun]] = {}
    for run in runs:
        games.setdefault(run.game, []).append(run)
    return games


def remarks(runs: Sequence[OwnRun]) -> list[str]:
    """What a reader should know before taking these runs for seeds of one agent on Atari 100k, one sentence each."""
    said = []
    for game, seeds in by_game(runs).items():
        numbers = [run.seed for run in seeds]
        for seed in sorted({n for n in numbers if numbers.count(n) > 1}):
            twice = ", ".join(str(run.path) for run in seeds if run.seed == seed)
            said.append(f"{game}, seed {seed}: {numbers.count(seed)} runs have the same seed ({twice}); each counts.")
    benchmark = [run for run in runs if run.game in ATARI_100K]
    unlike_paper = {
        "without 100 000 real steps": [r for r in benchmark if r.settings.get("collection.num_steps_total") != 100_000],
        "model-free": [r for r in benchmark if r.settings.get("model_free")],
        "trained from a recording": [r for r in benchmark if r.settings.get("static_dataset")],
        "with another number of final games than 100": [
            r for r in benchmark if r.finished and r.num_final_episodes != 100
        ],
    }
    said += [
        f"Not the benchmark's rules: {len(those)} of {len(benchmark)} runs {what} ({_listed([str(r) for r in those])})."
        for what, those in unlike_paper.items()
        if those
    ]
    others = [seeds for game, seeds in by_game(runs).items() if game not in ATARI_100K]
    for group in [benchmark, *others]:
        if changed := _differing_settings(group):
            listed = _listed([f"{flag(name)} {' / '.join(values)}" for name, values in changed.items()], "; ")
            name = "Atari 100k" if group is benchmark else group[0].game
            said.append(f"Runs of {name} differ in their settings and are shown as one agent all the same: {listed}.")
    return said


def _differing_settings(runs: Sequence[OwnRun]) -> dict[str, list[str]]:
    """Settings that all the runs know, and that differ: the values as text."""
    names = [name for name in (runs[0].settings if runs else ()) if all(name in run.settings for run in runs)]
    values = {name: list(dict.fromkeys(str(run.settings[name]) for run in runs)) for name in names}
    return {name: found for name, found in values.items() if len(found) > 1 and name not in IDENTITY}


def _listed(items: Sequence[str], separator: str = ", ", at_most: int = 6) -> str:
    more = len(items) - at_most
    return separator.join(items[:at_most]) + (f" and {more} more" if more > 0 else "")


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        settings = flat(without_format(parse_json(file.read_bytes())), ".")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: {error}") from None
    if not isinstance(settings.get("seed"), int) or not world_name(settings):
        raise ValueError(f"{file}: names no game or no seed")
    return settings


def _mean_of_final(returns: Any) -> float:
    if not isinstance(returns, list) or not returns or not all(isinstance(r, int | float) for r in returns):
        raise ValueError("final_test/returns is not a list of numbers")
    return fmean(returns)
