"""What became of a run's attempts, and so what is to be done with it next."""

import json
import os
import re
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from diamond_fast.reporting.own_runs import OwnRun, read_run
from diamond_fast.runs.durable import strict_json
from diamond_fast.sweeps.folder import SweepFolder

State = Literal["waiting", "running", "stopped", "lost", "failed", "finished"]
"""stopped: it saved and left because it was told to. lost: its process or node is gone. failed: the trainer itself
gave up, as with too little memory or a loss that is not finite, and would do so again."""
TO_DO: tuple[State, ...] = ("waiting", "stopped", "lost")
OVER: tuple[State, ...] = ("finished", "failed")
SILENT = 90.0
"""Seconds without a sign of life after which a process counts as lost."""
GO_ON = " Go on from the last checkpoint with: "
"""A run alone says so as it stops; within a sweep, the sweep's command goes on with it."""
MOST_LOST = 3
"""Attempts in a row that may be lost without finishing an epoch; then the run counts as failed."""


@dataclass(frozen=True)
class Standing:
    """Where a run stands."""

    name: str
    variant: str
    state: State
    epochs: int
    """Finished."""
    score: float | None
    """Mean return of the newest evaluation."""
    seconds: float
    """Of training."""
    left: float | None
    """Seconds of training to come, by the mean of its epochs so far; None unless it is at work and has finished one."""
    node: str
    """Of the newest attempt; empty before the first."""
    line: str
    """What it said last, or why it is lost or failed; empty if it is finished."""


def note(sweep: SweepFolder, name: str, event: Literal["start", "end", "retry"], **more: Any) -> None:
    """Appends a line to a run's attempts."""
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()  # as Slurm's commands call it
    line = {"event": event, "time": time.time(), "node": node, "pid": os.getpid(), **more}
    with open(sweep.attempts_file(name), "ab", buffering=0) as file:
        file.write((strict_json(line) + "\n").encode())


def note_loss(sweep: SweepFolder, name: str, why: str) -> None:
    """Of a process at a run that could not say so itself."""
    attempts = _read(sweep.attempts_file(name))
    if not attempts or attempts[-1]["event"] != "start":  # it did not even begin
        note(sweep, name, "start", epochs=epochs_done(sweep, name))
    note(sweep, name, "end", how="lost", why=why)


def times_begun(sweep: SweepFolder, name: str) -> int:
    return sum(line["event"] == "start" for line in _read(sweep.attempts_file(name)))


def standings(sweep: SweepFolder) -> list[Standing]:
    """Of every run, in the sweep's order."""
    return [standing(sweep, run.name) for run in sweep.runs]


def standing(sweep: SweepFolder, name: str) -> Standing:
    """Of a run, from what lies on the disk."""
    attempts, run = _read(sweep.attempts_file(name)), _run(sweep.run(name).path)
    epochs = run.epochs if run else 0
    state, why = _state(sweep.alive_file(name), attempts, epochs)
    said = last_line(sweep.log_file(name))
    return Standing(
        name=name,
        variant=sweep.planned(name).variant,
        state=state,
        epochs=epochs,
        score=run.score if run else None,
        seconds=run.seconds if run else 0.0,
        left=_left(run, said) if run and state == "running" else None,
        node=str(attempts[-1]["node"]) if attempts else "",
        line=(why or ("" if state == "finished" else said)).partition(GO_ON)[0],
    )


def last_line(log: Path) -> str:
    """The last line of a log that says something; empty if there is none."""
    if not log.exists():
        return ""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _left(run: OwnRun, said: str) -> float | None:
    of = re.match(r"epoch \d+/(\d+):", said)  # as each line of a trainer at work begins
    return run.seconds / run.epochs * max(int(of[1]) - run.epochs, 0) if of and run.epochs else None


def epochs_done(sweep: SweepFolder, name: str) -> int:
    run = _run(sweep.run(name).path)
    return run.epochs if run else 0


def _state(alive: Path, attempts: Sequence[dict[str, Any]], epochs: int) -> tuple[State, str]:
    """The state, and why it is that if its log does not say so."""
    if not attempts or attempts[-1]["event"] == "retry":
        return "waiting", ""
    last = attempts[-1]
    if last["event"] == "end" and last["how"] != "lost":
        return last["how"], last.get("why", "")
    if last["event"] == "start" and alive.exists() and time.time() - alive.stat().st_mtime < SILENT:
        return "running", ""
    why = last.get("why") or f"no sign of life from {last['node']}"
    if _lost_in_vain(attempts, epochs) >= MOST_LOST:
        return "failed", f"lost {MOST_LOST} times in a row without finishing an epoch; the last time: {why}"
    return "lost", why


def _lost_in_vain(attempts: Sequence[dict[str, Any]], epochs: int) -> int:
    """How many of the newest attempts were lost and had begun where the run still is."""
    began_at: list[int] = []
    for line in attempts:
        if line["event"] == "start":
            began_at.append(line["epochs"])
        elif line["event"] == "retry" or line["how"] != "lost":
            began_at = []
    return sum(at >= epochs for at in began_at)


def _read(path: Path) -> list[dict[str, Any]]:
    """Whole lines: one that a crash cut short says nothing."""
    found = []
    for raw in path.read_bytes().splitlines() if path.exists() else []:
        with suppress(ValueError):
            if isinstance(line := json.loads(raw), dict):
                found.append(line)
    return found


def _run(path: Path) -> OwnRun | None:
    """None if it is not there yet, or damaged, which its own log tells."""
    with suppress(OSError):
        written = (path / "metrics.jsonl").stat()
        return _run_as_of(path, written.st_mtime_ns, written.st_size)
    return None


@lru_cache(maxsize=1024)  # many runs are looked at again and again, and few have changed
def _run_as_of(path: Path, mtime_ns: int, size: int) -> OwnRun | None:
    with suppress(OSError, ValueError):
        return read_run(path)
    return None
