"""How long calls take."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch


class Timing(NamedTuple):
    """Seconds of one call."""

    wall: float
    cpu: float
    """Processor time of all threads together."""


def timed(call: Callable[[], object], seconds: float, at_least: int = 1) -> list[Timing]:
    """Call again and again for so many seconds, ``at_least`` so often, after one call that warms up.

    Args:
        call: has to wait for its device itself.
    """
    call()
    timings: list[Timing] = []
    while len(timings) < at_least or sum(t.wall for t in timings) < seconds:
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        timings.append(Timing(time.perf_counter() - wall, time.process_time() - cpu))
    return timings


def wait_for(device: torch.device) -> None:
    """Until the device has computed all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
