"""How many threads may work at once: more than the cores that this process may use only wait for each other."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from diamond_fast import control_groups


def allowed_threads(root: Path = Path("/")) -> int:
    """The fewest of: cores of the machine, cores this process may run on, whole cores that its control groups may use
    (versions 1 and 2), and ``OMP_NUM_THREADS``. At least 1.

    Args:
        root: the folder that holds ``proc`` and ``sys``.
    """
    cores = len(allowed_cores())
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # the outermost of nested levels
    limits = [cores, *(int(quota) for quota in _quotas(root))]
    if asked.isdecimal() and int(asked) > 0:
        limits.append(int(asked))
    return max(1, min(limits))


def allowed_cores() -> list[int]:
    """Numbers of the cores that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def limit_torch() -> None:
    """Makes torch use no more threads than are allowed; it knows nothing of control groups."""
    if torch.get_num_threads() > (allowed := allowed_threads()):
        torch.set_num_threads(allowed)


def engine_threads() -> int:
    """As many as torch uses, and no more than are allowed."""
    return min(torch.get_num_threads(), allowed_threads())


def _quotas(root: Path) -> Iterator[float]:
    """Cores' worth of time that this process's control groups and all above them may use, of those that say so."""
    for folder in control_groups.folders("cpu", root):
        quota, _, period = control_groups.text(folder / "cpu.max").partition(" ")
        if not quota:
            quota, period = (control_groups.text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if quota.strip().isdecimal() and period.strip().isdecimal() and int(period) > 0:  # not "max", not -1
            yield int(quota) / int(period)
