"""Measuring candidates against each other: they take turns in one process, so that what disturbs one disturbs all.

Every benchmark makes one row: a figure for each candidate, ours against each of the others, the share of what the
machine allows, and on a GPU energy, memory and clocks. ``pages`` makes tables of rows.
"""

import json
import math
import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import torch
from gpu_meter import GpuMeter
from pages.figures import figure, ratio, to_json

from diamond_fast.engine.graphs import WARM_UP_CALLS

Call = Callable[[], object]
Rivals = Literal["with", "without", "only"]


@dataclass(frozen=True)
class Effort:
    """How long is measured."""

    warm_up: float
    """Seconds that each candidate runs before it counts; one call at least, on a GPU until its graph is captured."""
    seconds: float
    """That all turns together should take, as far as the least number of rounds allows."""
    turn: float
    """Seconds of a turn; shorter calls are repeated."""
    min_rounds: int
    max_rounds: int
    rest: float
    """Seconds before a turn on a CPU: threads of the engine before it go on spinning, those of onnxruntime for 0.05."""


EFFORTS = {
    "full": Effort(warm_up=0.5, seconds=3.0, turn=0.05, min_rounds=3, max_rounds=40, rest=0.08),
    "quick": Effort(warm_up=0.2, seconds=1.5, turn=0.02, min_rounds=2, max_rounds=10, rest=0.08),
    "tiny": Effort(warm_up=0.0, seconds=0.0, turn=0.0, min_rounds=2, max_rounds=2, rest=0.0),
}
SLOW_ROUND = 4.0  # seconds; from there on two rounds have to do
ENERGY_SECONDS = 2.0


def only_on_gpu(value: Any, why_not: str) -> Any:
    """A benchmark's parameter that a CPU would take too long for."""
    return pytest.param(value, marks=pytest.mark.skipif(not torch.cuda.is_available(), reason=why_not))


def not_quick(value: Any, why_not: str) -> Any:
    """One that a CPU skips with ``--effort quick``."""
    return pytest.param(value, marks=pytest.mark.not_quick(why_not))


class Turns(NamedTuple):
    """What was measured."""

    seconds: dict[str, list[float]]
    """Seconds of one call of each candidate, turn by turn."""
    peak_bytes: dict[str, int]
    """Peak of GPU memory beyond what was there before the first call (weights and inputs); empty on a CPU."""
    left_out: dict[str, str]
    """Candidates without a figure, and why."""


class Measurement:
    """Measures one benchmark's candidates and writes its row.

    Args:
        benchmark: of pytest-benchmark, whose own statistics are not used.
        device: that the candidates run on.
        effort: how long.
        rivals: whether others' compilers take part, which take minutes: with or without them, or only benchmarks that
            have one.
        rows: a file that each row is appended to as soon as it is there, as a line of JSON.
        deadline: of ``time.perf_counter``; from then on no further round begins, but the first.
    """

    def __init__(
        self,
        benchmark,
        device: torch.device,
        effort: Effort,
        rivals: Rivals = "with",
        rows: Path | None = None,
        deadline: float = math.inf,
    ):
        self.benchmark, self.device, self.effort = benchmark, device, effort
        self.rivals, self.rows, self.deadline = rivals, rows, deadline
        self.meter = GpuMeter(device)
        self.written: list[dict[str, Any]] = []
        """Rows of this benchmark."""

    def take_turns(self, candidates: Mapping[str, Call], optional: Collection[str] = ()) -> Turns:
        """Times a call of each candidate, in turns.

        Args:
            candidates: by name.
            optional: those that may fail, which is then noted: what others' compilers can do is not for us to promise.
        """
        if self.rivals == "only" and not set(optional) & set(candidates):
            pytest.skip("no rival to measure")
        clock_before = self.meter.clock()
        running, calls, warm_ups, peaks, left_out = {}, {}, {}, {}, {}
        if self.rivals == "without":
            left_out = {name: "rivals are measured apart" for name in candidates if name in optional}
            candidates = {name: call for name, call in candidates.items() if name not in left_out}
        for name, call in candidates.items():
            memory_before = self._memory()
            try:
                if name in optional:  # the first call compiles
                    call()
                took = self._warm_up(call)
            except Exception as error:
                if name not in optional:
                    raise
                left_out[name] = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
                continue
            running[name], warm_ups[name] = call, took
            calls[name] = max(1, math.ceil(self.effort.turn / took))
            if self.device.type == "cuda":
                peaks[name] = torch.cuda.max_memory_allocated(self.device) - memory_before
        round_seconds = sum(warm_ups[name] * calls[name] for name in running)
        slow = round_seconds > SLOW_ROUND
        seconds: dict[str, list[float]] = {name: [] for name in running}

        wanted = max(self.effort.min_rounds, int(self.effort.seconds / round_seconds))

        def all_rounds() -> None:
            for done in range(2 if slow else min(wanted, self.effort.max_rounds)):
                if done and time.perf_counter() > self.deadline:
                    break
                for name, call in running.items():
                    if self.device.type == "cpu":
                        time.sleep(self.effort.rest)
                    seconds[name].append(self._timed(call, calls[name]))

        self.benchmark.pedantic(all_rounds, rounds=1)
        self.meter.note_clocks(clock_before)
        return Turns(seconds, peaks, left_out)

    def row(
        self,
        stem: str,
        case: Mapping[str, Any],
        turns: Turns,
        ours: str,
        *,
        work: float | None = None,
        unit: str = "ms",
        floor: tuple[float, str] | None = None,
        energy_of: Call | None = None,
        left_out: Mapping[str, str] | None = None,
        also: Mapping[str, Any] | None = None,
        ladder: bool = False,
    ) -> None:
        """Adds a row to ``written``.

        Args:
            stem: of the table it belongs to.
            case: what tells it from the other rows of that table.
            turns: from ``take_turns``.
            ours: the candidate that the others are compared with.
            work: done by a call; figures are then work per second, else milliseconds.
            unit: of the figures.
            floor: seconds that this machine would need at least for a call of ours, and for what.
            energy_of: ours, to be run alone once more while the GPU's energy is read.
            left_out: candidates that were not tried, and why.
            also: further figures for the table, by name.
            ladder: whether each candidate builds on the one before.
        """
        rates = work is not None

        def values(seconds: list[float]) -> list[float]:
            return [work / s for s in seconds] if rates else [s * 1e3 for s in seconds]

        row: dict[str, Any] = {
            "stem": stem,
            "case": dict(case),
            "unit": unit,
            "higher_is_better": rates,
            "ours": ours,
            "figures": {name: to_json(figure(values(s), rates)) for name, s in turns.seconds.items()},
            "ratios": {
                name: to_json(ratio(turns.seconds[ours], s)) for name, s in turns.seconds.items() if name != ours
            },
            "left_out": {**turns.left_out, **(left_out or {})},
            "rivals": self.rivals,
            "load": round(os.getloadavg()[0], 2),
            "threads": torch.get_num_threads(),
            "also": dict(also or {}),
            "ladder": ladder,
        }
        if floor is not None:
            best = min(turns.seconds[ours])
            row["floor"] = {"ms": float(f"{floor[0] * 1e3:.4g}"), "what": floor[1], "share": round(floor[0] / best, 3)}
        if self.device.type == "cuda":
            row["gpu"] = self.meter.notes | {"peak_mb": {name: b // 10**6 for name, b in turns.peak_bytes.items()}}
            if energy_of is not None:
                row["gpu"] |= self.meter.energy(energy_of, work or 1.0, unit if rates else "call", ENERGY_SECONDS)
        self.written.append(row)
        if self.rows is not None:
            with open(self.rows, "a") as file:
                file.write(json.dumps(row) + "\n")

    def _warm_up(self, call: Call) -> float:
        """Returns the seconds that the last call took."""
        deadline = time.perf_counter() + self.effort.warm_up
        # on a GPU the first calls compile kernels, warm up and capture a graph
        left = WARM_UP_CALLS + 2 if self.device.type == "cuda" else 1
        while True:
            took = self._timed(call, 1)
            left -= 1
            if left <= 0 and time.perf_counter() >= deadline:
                return max(took, 1e-9)

    def _timed(self, call: Call, calls: int) -> float:
        """Seconds a call; on a GPU by its own clock, from the first launch to the end of the last kernel."""
        if self.device.type != "cuda":
            started = time.perf_counter()
            for _ in range(calls):
                call()
            return (time.perf_counter() - started) / calls
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / calls

    def _memory(self) -> int:
        """Bytes allocated on the GPU, from where peaks are counted now; 0 on a CPU."""
        if self.device.type != "cuda":
            return 0
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)
