"""A sweep on this machine: a bounded number of processes, each with its own GPU, or share of one, and its own cores."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from diamond_fast.runs.signals import stop_with_parent
from diamond_fast.sweeps.attempts import OVER, TO_DO, note_loss, standings
from diamond_fast.sweeps.folder import SweepFolder
from diamond_fast.sweeps.plan import Share
from diamond_fast.sweeps.worker import PATIENCE

WORKER = (sys.executable, "-m", "diamond_fast.sweeps.worker")
LOOK_EVERY = 0.5
"""Seconds between looks at what ended."""


@dataclass(frozen=True)
class Slot:
    """What a run is given while it is at work."""

    gpu: str | None
    """As CUDA_VISIBLE_DEVICES names it."""
    cores: tuple[int, ...]


def slots(share: Share, gpus: Sequence[str], cores: Sequence[int]) -> list[Slot]:
    """As many as fit onto GPUs and cores, or as are asked for; beyond what fits they share cores.

    Args:
        share: of one run.
        gpus: of this machine, as CUDA_VISIBLE_DEVICES names them.
        cores: that this process may use.

    Raises:
        ValueError: a run needs more GPUs than one, or there are none.
    """
    if share.gpus > 1:
        raise ValueError(f"--gpus-per-run: at most 1 with --engine local, got {share.gpus:g}")
    if share.gpus and not gpus:
        raise ValueError("--gpus-per-run: this machine has no GPU that torch can use; take 0 or leave it out")
    if share.cores > len(cores):
        raise ValueError(f"--cores-per-run: this process may use {len(cores)} cores, got {share.cores}")
    groups = len(cores) // share.cores
    number = share.concurrent or (share.runs_per_gpu * len(gpus) if share.gpus else groups)
    return [
        Slot(
            gpus[i % len(gpus)] if share.gpus else None,
            tuple(cores[i % groups * share.cores : (i % groups + 1) * share.cores]),
        )
        for i in range(number)
    ]


def drive(sweep: SweepFolder, places: list[Slot], tick: Callable[[], None]) -> None:
    """Works until no run is left that could be gone on with. If it is left early, so is every run, saved.

    Args:
        places: of runs.
        tick: called about twice a second.
    """
    free, at_work = list(places), dict[str, tuple[subprocess.Popen, Slot]]()
    try:
        while True:
            for name, (worker, slot) in list(at_work.items()):
                if (code := worker.poll()) is not None:
                    if code:
                        note_loss(sweep, name, f"its worker ended with {code}")
                    del at_work[name]
                    free.append(slot)
            cancelled = sweep.cancelled_file.exists()
            states = {s.name: s.state for s in standings(sweep) if s.name not in at_work}
            for name, state in states.items():
                if free and state in TO_DO and not cancelled:
                    slot = free.pop(0)
                    at_work[name] = _start(sweep, name, slot), slot
            tick()
            if not at_work and (cancelled or set(states.values()) <= set(OVER)):
                return
            time.sleep(LOOK_EVERY)
    finally:
        for worker, _ in at_work.values():
            worker.terminate()
        for worker, _ in at_work.values():
            with suppress(subprocess.TimeoutExpired):  # it is told once more as this process ends
                worker.wait(2 * PATIENCE)


def _start(sweep: SweepFolder, name: str, slot: Slot) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": str(len(slot.cores))}
    if slot.gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = slot.gpu

    def place() -> None:
        stop_with_parent()
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, slot.cores)

    command = [*WORKER, str(sweep.path), name]
    with open(sweep.log_file(name), "ab") as log:  # what the worker itself has to say is a bug's traceback
        return subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True, preexec_fn=place
        )
