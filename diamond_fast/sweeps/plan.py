"""Which runs a sweep has, every game with every combination of the grid and every seed, and what each is given."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from diamond_fast.sweeps.folder import Planned


@dataclass(frozen=True)
class Share:
    """What one run gets, and how many there may be at a time."""

    concurrent: int | None
    """Runs at a time; None: as many as fit."""
    gpus: float
    """GPUs of a run. A fraction: several runs share one."""
    cores: int
    """Cores of a run, and its threads."""

    @property
    def runs_per_gpu(self) -> int:
        """As many as share one; 1 if a run has a whole GPU, more, or none."""
        return int(1 / self.gpus) if 0 < self.gpus < 1 else 1


def plan(
    worlds: Sequence[tuple[str, Sequence[str]]],
    grid: Sequence[Sequence[str]],
    seeds: Sequence[int],
    settings: Sequence[str],
) -> list[Planned]:
    """In the order in which they should start: first seeds of everything, so that a first picture comes early.

    Args:
        worlds: each one's title and the flags that choose it.
        grid: each a setting's dotted name and its values.
        seeds: of every random number of a run.
        settings: flags that all runs share.

    Raises:
        ValueError: a setting of the grid has no values, or is there twice.
    """
    for name, *values in grid:
        if not values:
            raise ValueError(f"--grid {name}: needs values behind the setting's name, such as --grid {name} 1 3")
    if len({name for name, *_ in grid}) < len(grid):
        raise ValueError("--grid: names a setting twice; give all its values behind one")
    choices = [[(name.lstrip("-"), value) for value in values] for name, *values in grid]
    short = _short_names([name.lstrip("-") for name, *_ in grid])
    runs = []
    for seed, chosen, (title, world) in product(seeds, product(*choices), worlds):
        variant = ",".join(f"{short[name]}={value}" for name, value in chosen)
        flags = [word for name, value in chosen for word in (f"--{name}", value)]
        name = "-".join(part for part in (title, variant, f"seed{seed}") if part)
        argv = (*world, *settings, *flags, "--seed", str(seed))
        runs.append(Planned(file_name(name), variant, argv))
    if len({run.name for run in runs}) < len(runs):
        raise ValueError("--games, --grid: name something twice")
    return runs


def file_name(text: str) -> str:
    """Of a run or a variant."""
    return re.sub(r"[^\w.,=+-]", "_", text)


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted name; all of it if that is another one's too."""
    last = [name.rpartition(".")[2] for name in names]
    return {name: end if last.count(end) == 1 else name for name, end in zip(names, last, strict=True)}
