"""A sweep as an array of Slurm jobs, through submitit: told before their time is up, they save and queue up again."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diamond_fast.one_line import one_line
from diamond_fast.runs.durable import strict_json, write_durably
from diamond_fast.sweeps.attempts import OVER, TO_DO, Standing, note_loss, standings, times_begun
from diamond_fast.sweeps.folder import SweepFolder
from diamond_fast.sweeps.plan import Share
from diamond_fast.sweeps.worker import Attempt, on_termination

LOOK_EVERY = 5.0
"""Seconds between looks at the runs and at Slurm's queue."""
SQUEUE = ("squeue", "--me", "--noheader", "--array", "--format=%i")
"""Ids of what waits or works. It needs no accounting, which submitit's own question does."""
SAVE_BEFORE = 90
"""Seconds before the end of a job's time at which it is told."""
MOST_AT_A_TIME = 256
"""Runs, if nobody says how many."""


class Refused(Exception):
    """Slurm takes no job, as if there is no such partition or no controller."""


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
        self._attempts: list[Attempt] = []
        self._ends: list[Future[Standing]] = []

    def __call__(self, folder: Path, names: Sequence[str]) -> list[str]:
        """Runs that share what the job was given, side by side."""
        sweep = SweepFolder.open(folder)
        self._attempts = [Attempt(sweep, name) for name in names]
        with on_termination(self._tell_to_stop), ThreadPoolExecutor(len(names)) as threads:
            self._ends = [threads.submit(attempt.run) for attempt in self._attempts]
            wait(self._ends)
        return [end.result().state for end in self._ends]

    def checkpoint(self, folder: Path, names: Sequence[str]) -> Any:
        from submitit.helpers import DelayedSubmission

        self._tell_to_stop()
        wait(self._ends)
        return DelayedSubmission(Job(), folder, names)

    def _tell_to_stop(self) -> None:
        for attempt in self._attempts:
            attempt.tell_to_stop()


def drive(sweep: SweepFolder, share: Share, queue: Queue, tick: Callable[[], None]) -> None:
    """Submits what is to be done, and looks on until nothing is. If it is left early, the jobs go on all the same.

    Args:
        tick: called every few seconds.

    Raises:
        Refused: by Slurm, before it took any job.
    """
    jobs = _Jobs(sweep, share, queue)
    while True:
        cancelled = sweep.cancelled_file.exists()
        queued = jobs.queued()
        states = {s.name: s.state for s in standings(sweep)}
        due = [name for name, state in states.items() if state in TO_DO and name not in queued]
        if cancelled:
            jobs.cancel(queued)
        elif in_vain := jobs.ended_in_vain(due):
            for name, why in in_vain.items():
                note_loss(sweep, name, why)  # submitted again at the next look, if not too often
        else:
            jobs.submit(due)
        tick()
        if set(states.values()) <= set(OVER) or (cancelled and not queued):
            return
        time.sleep(LOOK_EVERY)


class _Jobs:
    """Jobs by the names of their runs, which are remembered on the disk: Slurm goes on while nobody looks."""

    def __init__(self, sweep: SweepFolder, share: Share, queue: Queue):
        import submitit

        self._folder, self._file = (sweep.path / "slurm").resolve(), sweep.path / "slurm_jobs.json"
        self._sweep = replace(sweep, path=sweep.path.resolve())
        self._begun = dict[str, int]()  # how often each run had been begun as its job was submitted
        self._taken, self._refusal = False, ""  # whether Slurm has taken any of ours, and what it said last if not
        self._on_slurm = queue.cluster == "slurm"
        more = {"slurm_max_num_timeout": 10**6} if self._on_slurm else {}  # a long run times out often
        self._executor = submitit.AutoExecutor(self._folder, cluster=queue.cluster, **more)
        options = dict(option.partition("=")[::2] for option in queue.options)
        at_a_time = share.concurrent or MOST_AT_A_TIME
        self._runs_per_job = min(share.runs_per_gpu, at_a_time)  # Slurm gives whole GPUs, whose runs share them
        cores = share.cores * self._runs_per_job
        if self._on_slurm:
            self._executor.update_parameters(
                slurm_array_parallelism=at_a_time // self._runs_per_job,
                slurm_signal_delay_s=SAVE_BEFORE,
                slurm_srun_args=[f"--cpus-per-task={cores}"],  # which Slurm 22.05 and later do not take from the job
                slurm_setup=[f"export OMP_NUM_THREADS={share.cores}"],
                slurm_additional_parameters={"requeue": True, **options},
                **({"slurm_partition": queue.partition} if queue.partition else {}),
            )
        self._executor.update_parameters(
            name="diamond_fast", timeout_min=queue.minutes, cpus_per_task=cores, gpus_per_node=math.ceil(share.gpus)
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

    def ended_in_vain(self, names: Sequence[str]) -> dict[str, str]:
        """Runs whose last job is over without having begun them, and where that is told: a node may lack a program."""
        begun = {name: self._begun.pop(name) for name in names if name in self._begun}
        jobs = {name: self._jobs[name] for name, times in begun.items() if times == times_begun(self._sweep, name)}
        return {name: f"job {job.job_id} ended before it began; see {job.paths.stderr}" for name, job in jobs.items()}

    def submit(self, names: Sequence[str]) -> None:
        """If Slurm, which took some before, refuses them now, it is asked again at the next look.

        Raises:
            Refused: these are the first ones.
        """
        from submitit.core.utils import FailedJobError

        if not names:
            return
        of_jobs = [tuple(names[i : i + self._runs_per_job]) for i in range(0, len(names), self._runs_per_job)]
        begun = {name: times_begun(self._sweep, name) for name in names}
        try:
            jobs = self._executor.map_array(Job(), [self._sweep.path] * len(of_jobs), of_jobs)
        except FailedJobError as error:
            before, self._refusal = self._refusal, f"--engine slurm: no job is taken: {one_line(error)}"
            if not self._taken:
                raise Refused(self._refusal) from None
            if self._refusal != before:
                print(self._refusal, file=sys.stderr, flush=True)
            return
        self._taken, self._refusal = True, ""
        self._begun |= begun
        self._jobs |= {name: job for job, those in zip(jobs, of_jobs, strict=True) for name in those}
        ids = {name: job.job_id for name, job in self._jobs.items()}
        write_durably(self._file, strict_json(ids).encode())

    def cancel(self, names: set[str]) -> None:
        for job in {self._jobs[name].job_id: self._jobs[name] for name in names}.values():
            job.cancel(check=False)
