"""What it costs if another process keeps one core busy: evaluations of the network a second, quiet and beside it.

    python benchmarks/busy_core.py --batch-sizes 1 2 8

The compiled engine and the readable network take turns with all allowed threads, and the engine with one too.
The fair share of a thread beside another one on its core is a half: two cores of which one is busy have 75 % to give.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from workloads import PAPER, SPEC, TINY

from diamond_fast.engine.cpu_program import CpuProgram
from diamond_fast.threads import allowed_threads, limit_torch
from diamond_fast.world_model import Denoiser


class Row(NamedTuple):
    """Evaluations a second of a candidate."""

    name: str
    batch_size: int
    quiet: float
    busy: float


def candidates(denoiser: Denoiser, batch_size: int, threads: int) -> dict[str, Callable[[], object]]:
    """Calls that evaluate the network once for a batch."""
    network: Any = denoiser.inner_model
    spec = denoiser.spec
    channels, height, width = spec.frame.channels, spec.frame.height, spec.frame.width
    context = torch.randn(batch_size, spec.context * channels, height, width)
    noisy = torch.randn(batch_size, channels, height, width)
    c_noise, act = torch.zeros(batch_size), torch.zeros(batch_size, spec.context, dtype=torch.long)
    pieces = [(context.size(1), 1.0), (channels, 1.0)]
    calls: dict[str, Callable[[], object]] = {}
    for n in sorted({1, threads}):
        program = CpuProgram(network.walk, pieces, height, width, n, dtype=torch.float32)
        rows = program.modulation(network.conditioning(c_noise, act))
        calls[f"engine, threads: {n}"] = partial(program, [context, noisy], rows)
    return calls | {f"readable, threads: {threads}": partial(network, noisy, c_noise, context, act)}


def rate(call: Callable[[], object], seconds: float, evaluations: int) -> float:
    """Evaluations a second, over so many seconds and two calls at least."""
    start, calls = time.perf_counter(), 0
    while calls < 2 or time.perf_counter() - start < seconds:
        call()
        calls += 1
    return calls * evaluations / (time.perf_counter() - start)


@contextmanager
def busy_core() -> Iterator[None]:
    core = min(os.sched_getaffinity(0))
    process = subprocess.Popen(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"]
    )
    time.sleep(0.5)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@torch.no_grad()
def measure(denoiser: Denoiser, batch_sizes: list[int], seconds: float, rounds: int) -> list[Row]:
    """Medians of the rounds, in which all candidates take turns, quiet and beside a busy process."""
    calls: dict[tuple[str, int], Callable[[], object]] = {}
    for n in batch_sizes:
        calls |= {(name, n): call for name, call in candidates(denoiser, n, allowed_threads()).items()}
    for call in calls.values():
        call()
    quiet: list[list[float]] = []
    busy: list[list[float]] = []
    for _ in range(rounds):
        quiet.append([rate(call, seconds, n) for (_, n), call in calls.items()])
        with busy_core():
            busy.append([rate(call, seconds, n) for (_, n), call in calls.items()])
    medians = ([statistics.median(of) for of in zip(*turns, strict=True)] for turns in (quiet, busy))
    return [Row(*key, *rates) for key, *rates in zip(calls, *medians, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--seconds", type=float, default=3.0, help="of every turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="a tiny network, to see that this works")
    args = parser.parse_args()
    limit_torch()
    denoiser = Denoiser((TINY if args.tiny else PAPER).denoiser, SPEC).eval()
    print("| evaluations/s | batch | quiet | one core busy | |\n| --- | --- | --- | --- | --- |")
    for name, n, quiet, busy in measure(denoiser, args.batch_sizes, args.seconds, args.rounds):
        print(f"| {name} | {n} | {quiet:.1f} | {busy:.1f} | {busy / quiet:.0%} |")


if __name__ == "__main__":
    main()
