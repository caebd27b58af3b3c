"""What this machine is, and what it can do at most: the rates that floors are derived from, measured once a session."""

import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from gpu_meter import describe_gpu

from diamond_fast.engine.cpu_program import instruction_set
from diamond_fast.timing import timed, wait_for

DTYPES = (torch.float32, torch.bfloat16)
PACKAGES = ("torch", "triton", "numpy", "openvino", "onnxruntime")
INSTRUCTIONS = {"amx": "AMX", "avx512": "AVX-512", "avx2": "AVX2", "neon": "NEON", "portable": "plain C++"}
LARGEST, LEAST_SECONDS = 2048, 0.02
"""Of a CPU's matrix products: what takes so long, or is as large, says what the machine can do."""
MEASURED = ("diamond_fast", "kernels", "csrc", "benchmarks", "setup.py", ":!benchmarks/results", ":!benchmarks/pages")
"""What figures depend on, for git."""


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
        of_what = f"a {name} matrix product's rate on the whole machine"  # also if a call has one thread alone
        return flops / rate, f"{flops / 1e9:.3g} GFLOP at {rate / 1e12:.3g} TFLOP/s, {of_what}"

    def memory(self, num_bytes: float) -> tuple[float, str]:
        """The least seconds it takes to move so many bytes, and what that rests on."""
        return (
            num_bytes / self.copy_bytes,
            f"{num_bytes / 1e6:.3g} MB at {self.copy_bytes / 1e9:.3g} GB/s, a copy's rate",
        )


def hardware(device: torch.device) -> dict[str, Any]:
    """Processor with the instructions that the engine uses, number of cores, GPU or None."""
    cpu = platform.processor() or platform.machine()
    with suppress(OSError):
        cpu = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)[0]
    # A hypervisor calls processors of several generations by one name.
    used = instruction_set(torch.bfloat16) or instruction_set(torch.float32)
    name = f"{cpu} with {INSTRUCTIONS[used]}" if used else cpu
    return {"cpu": name, "cores": os.cpu_count(), "gpu": describe_gpu(device)}


def versions() -> dict[str, str | None]:
    """The versions of what the figures depend on; None: not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        found[name] = None
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return {**found, "CUDA": torch.version.cuda}


def commit(root: Path) -> dict[str, Any]:
    """Of a checkout: its ``id``, None if git does not know; whether it is ``dirty``; and if so, which ``changes``.

    Only changes to what is measured count: figures and pages that an earlier run wrote do not.
    """
    head, changes = _git(root, "rev-parse", "HEAD"), _git(root, "diff", "HEAD", "--binary", "--", *MEASURED)
    described: dict[str, Any] = {"id": head.decode().strip() if head else None, "dirty": bool(changes)}
    return described | ({"changes": hashlib.sha256(changes).hexdigest()[:10]} if changes else {})


def _git(root: Path, *arguments: str) -> bytes:
    with suppress(OSError):
        return subprocess.run(["git", "-C", root, *arguments], capture_output=True, check=False).stdout
    return b""


@cache
def measure_machine(device: torch.device, seconds: float) -> Machine:
    """Best of several, within so many seconds for each rate; tiny sizes if 0."""
    on_gpu = device.type == "cuda"
    num_bytes = 2**16 if not seconds else 2**30 if on_gpu else 2**28
    flops = {str(d).removeprefix("torch."): _product_rate(device, d, seconds) for d in DTYPES}
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return Machine(flops, 2 * num_bytes / _best(lambda: target.copy_(source), device, seconds))


def _product_rate(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """FLOP/s. On a CPU sizes grow: one without bfloat16 would take minutes for a product of the largest."""
    size = 64 if not seconds else 8192 if device.type == "cuda" else 128
    while True:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        grows = bool(seconds) and device.type != "cuda" and size < LARGEST
        took = _best(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device, 0.0 if grows else seconds)
        if not grows or took > LEAST_SECONDS:
            return 2 * size**3 / took
        size *= 2


def _best(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    def run() -> None:
        call()
        wait_for(device)

    return min(t.wall for t in timed(run, seconds))
