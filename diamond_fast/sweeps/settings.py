"""What runs of a sweep are given."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """What one run gets, and how many there may be at a time."""

    concurrent: int | None
    """Runs at a time; None: as many as fit."""
    gpus: float
    """GPUs of a run. A fraction: several runs share one."""
    cores: int
    """Cores of a run, and its threads."""
