"""A sweep as tasks of a Ray cluster, which finds them GPUs and cores and starts anew those whose node is lost."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diamond_fast.one_line import one_line
from diamond_fast.sweeps.attempts import OVER, TO_DO, note_loss, standings
from diamond_fast.sweeps.folder import SweepFolder
from diamond_fast.sweeps.plan import Share
from diamond_fast.sweeps.worker import Attempt

LOOK_EVERY = 1.0
"""Seconds between looks at what ended."""


def attempt(folder: Path, name: str, cores: int) -> None:
    """On whatever node Ray chose, which sees the sweep's folder under the same name."""
    os.environ["OMP_NUM_THREADS"] = str(cores)
    Attempt(SweepFolder.open(folder), name).run()


def connect(share: Share, address: str | None) -> None:
    """To a cluster, for as long as this process lives.

    Args:
        address: ``auto`` for the one this node belongs to; None starts one on this machine.

    Raises:
        ValueError: there is none, or it could never give a run its share.
    """
    import ray

    try:
        ray.init(address=address, log_to_driver=False, include_dashboard=False if address is None else None)
    except ConnectionError as error:
        raise ValueError(f"--address {address}: no Ray cluster answers ({one_line(error)})") from None
    there = ray.cluster_resources()
    for what, flag, wanted in (("CPU", "--cores-per-run", share.cores), ("GPU", "--gpus-per-run", share.gpus)):
        if there.get(what, 0) < wanted:
            raise ValueError(f"{flag} {wanted:g}: the Ray cluster has {there.get(what, 0):g}")


def drive(sweep: SweepFolder, share: Share, tick: Callable[[], None]) -> None:
    """Works until no run is left that could be gone on with. If it is left early, its tasks end, saved.

    Args:
        tick: called about once a second.
    """
    import ray

    # a worker that is lost is seen by what it left; Ray need not start it again behind our back
    task = ray.remote(attempt).options(num_cpus=share.cores, num_gpus=share.gpus, max_retries=0)
    path, at_work = sweep.path.resolve(), dict[Any, str]()
    try:
        while True:
            done, _ = ray.wait(list(at_work), num_returns=len(at_work), timeout=LOOK_EVERY) if at_work else ([], [])
            for reference in done:
                name = at_work.pop(reference)
                try:
                    ray.get(reference)
                except ray.exceptions.RayError as error:
                    note_loss(sweep, name, one_line(error))
            cancelled, given = sweep.cancelled_file.exists(), set(at_work.values())
            states = {s.name: s.state for s in standings(sweep) if s.name not in given}
            wanted = [] if cancelled else [name for name, state in states.items() if state in TO_DO]
            room = len(wanted) if share.concurrent is None else share.concurrent - len(at_work)
            for name in wanted[: max(room, 0)]:
                at_work[task.remote(path, name, share.cores)] = name
            tick()
            if not at_work:
                if cancelled or set(states.values()) <= set(OVER):
                    return
                time.sleep(LOOK_EVERY)  # an earlier worker of ours is still saving
    finally:
        ray.shutdown()
