"""What this machine can do at most: the rates that floors are derived from, measured once a session."""

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from diamond_fast.timing import timed, wait_for

DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Machine:
    """Rates of one device, with as many threads as torch uses. float32 on a GPU means TF32, as published."""

    flops: dict[str, float]
    """FLOP/s of a large matrix product, by dtype."""
    copy_bytes: float
    """Bytes a second, read and written, of a large copy."""

    def arithmetic(self, flops: float, dtype: torch.dtype) -> tuple[float, str]:
        """The least seconds so many operations take, and what that rests on."""
        name = str(dtype).removeprefix("torch.")
        rate = self.flops[name]
        return flops / rate, f"{flops / 1e9:.3g} GFLOP at {rate / 1e12:.3g} TFLOP/s, a {name} matrix product's rate"

    def memory(self, num_bytes: float) -> tuple[float, str]:
        """The least seconds it takes to move so many bytes, and what that rests on."""
        return (
            num_bytes / self.copy_bytes,
            f"{num_bytes / 1e6:.3g} MB at {self.copy_bytes / 1e9:.3g} GB/s, a copy's rate",
        )


def versions() -> dict[str, str | None]:
    """The versions of what the figures depend on."""
    packages = {name: importlib.metadata.version(name) for name in ("torch", "triton", "numpy")}
    return {**packages, "CUDA": torch.version.cuda}


@cache
def measure_machine(device: torch.device, seconds: float) -> Machine:
    """Best of several, within so many seconds for each rate; tiny sizes if 0."""
    if not seconds:
        size, num_bytes = 64, 2**16
    elif device.type == "cuda":
        size, num_bytes = 8192, 2**30
    else:
        size, num_bytes = 2048, 2**28
    flops = {}
    for dtype in DTYPES:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        took = _best(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device, seconds)
        flops[str(dtype).removeprefix("torch.")] = 2 * size**3 / took
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return Machine(flops, 2 * num_bytes / _best(lambda: target.copy_(source), device, seconds))


def _best(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    def run() -> None:
        call()
        wait_for(device)

    return min(t.wall for t in timed(run, seconds))
