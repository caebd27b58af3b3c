"""A sweep as an array of Slurm jobs, through submitit: told before their time is up, they save and queue up again."""

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diamond_fast.runs.durable import strict_json, write_durably
from diamond_fast.sweeps.attempts import OVER, TO_DO, standings
from diamond_fast.sweeps.folder import SweepFolder
from diamond_fast.sweeps.plan import Share
from diamond_fast.sweeps.worker import Attempt

LOOK_EVERY = 5.0
"""Seconds between looks at the runs and at Slurm's queue."""
SQUEUE = ("squeue", "--me", "--noheader", "--array", "--format=%i")
"""Ids of what waits or works. It needs no accounting, which submitit's own question does."""
SAVE_BEFORE = 90
"""Seconds before the end of a job's time at which it is told."""


@dataclass(frozen=True)
class Queue:
    """What Slurm is asked for."""

    minutes: int
    """A job may take; a run may take many jobs."""
    partition: str | None
    options: tuple[str, ...]
    """Further ones of sbatch, such as ``account=me``."""
    cluster: str = "slurm"
    """submitit's own name of it; ``local`` runs the same jobs as processes."""


class Job:
    """What a node runs: submitit calls it, and before the job's time is up asks for what should be queued up again."""

    def __init__(self) -> None:
        self._attempt: Attempt | None = None

    def __call__(self, folder: Path, name: str) -> str:
        self._attempt = Attempt(SweepFolder.open(folder), name)
        return self._attempt.run().state

    def checkpoint(self, folder: Path, name: str) -> Any:
        from submitit.helpers import DelayedSubmission

        if self._attempt is not None:
            self._attempt.stop()
        return DelayedSubmission(Job(), folder, name)


def drive(sweep: SweepFolder, share: Share, queue: Queue, tick: Callable[[], None]) -> None:
    """Submits what is to be done, and looks on until nothing is. If it is left early, the jobs go on all the same.

    Args:
        tick: called every few seconds.
    """
    jobs = _Jobs(sweep, share, queue)
    while True:
        cancelled = sweep.cancelled_file.exists()
        states = {s.name: s.state for s in standings(sweep)}
        queued = jobs.queued()
        if cancelled:
            jobs.cancel(queued)
        else:
            jobs.submit([name for name, state in states.items() if state in TO_DO and name not in queued])
        tick()
        if set(states.values()) <= set(OVER) or (cancelled and not queued):
            return
        time.sleep(LOOK_EVERY)


class _Jobs:
    """Jobs by the name of their run, which are remembered on the disk: Slurm goes on while nobody looks."""

    def __init__(self, sweep: SweepFolder, share: Share, queue: Queue):
        import submitit

        self._folder, self._file = (sweep.path / "slurm").resolve(), sweep.path / "slurm_jobs.json"
        self._sweep = sweep.path.resolve()
        self._on_slurm = queue.cluster == "slurm"
        more = {"slurm_max_num_timeout": 10**6} if self._on_slurm else {}  # a long run times out often
        self._executor = submitit.AutoExecutor(self._folder, cluster=queue.cluster, **more)
        options = dict(option.partition("=")[::2] for option in queue.options)
        if self._on_slurm:
            self._executor.update_parameters(
                slurm_array_parallelism=share.concurrent or 256,
                slurm_signal_delay_s=SAVE_BEFORE,
                slurm_setup=[f"export OMP_NUM_THREADS={share.cores}"],
                slurm_additional_parameters={"requeue": True, **options},
                **({"slurm_partition": queue.partition} if queue.partition else {}),
            )
        self._executor.update_parameters(
            name="diamond_fast", timeout_min=queue.minutes, cpus_per_task=share.cores, gpus_per_node=int(share.gpus)
        )
        job_class = {"slurm": submitit.SlurmJob, "local": submitit.LocalJob}[queue.cluster]
        kept = json.loads(self._file.read_text()) if self._file.exists() else {}
        self._jobs = {name: job_class(self._folder, job_id) for name, job_id in kept.items()}

    def queued(self) -> set[str]:
        """Runs whose job waits or works; of a Slurm that does not answer, all that were submitted."""
        if not self._on_slurm:
            return {name for name, job in self._jobs.items() if not job.done()}
        asked = subprocess.run(SQUEUE, capture_output=True, text=True, check=False)
        if asked.returncode:
            return set(self._jobs)
        ids = set(asked.stdout.split())
        return {name for name, job in self._jobs.items() if job.job_id in ids}

    def submit(self, names: Sequence[str]) -> None:
        if not names:
            return
        jobs = self._executor.map_array(Job(), [self._sweep] * len(names), list(names))
        self._jobs |= dict(zip(names, jobs, strict=True))
        ids = {name: job.job_id for name, job in self._jobs.items()}
        write_durably(self._file, strict_json(ids).encode())

    def cancel(self, names: set[str]) -> None:
        for name in names:
            self._jobs[name].cancel(check=False)
