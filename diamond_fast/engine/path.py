"""A path: how networks are computed on a device. Which one is taken is decided in ``choose.py``."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from diamond_fast.engine import cpu_program
from diamond_fast.engine.fused_torch import Techniques
from diamond_fast.frames import ToFloat, to_float
from diamond_fast.kernels.frames_to_float import frames_to_float

Engine = Literal["fused", "torch", "amx", "program", "readable"]
ENGINES: dict[Engine, str] = {
    "fused": "fused kernels",
    "torch": "torch's operations, channels last,",
    "amx": "AMX programs",
    "program": "compiled programs",
    "readable": "readable networks",
}
WITHOUT_TRITON = Techniques(
    fused_norms=False, fused_epilogues=False, fused_edm=False, fused_frames=False, fused_memory=False
)
PROGRAMS = ("amx", "program")
"""Engines whose networks are compiled programs, ``CpuProgram``."""


@dataclass(frozen=True)
class Path:
    """How networks are computed. As a string, one line for people."""

    device: torch.device
    dtype: torch.dtype
    """What networks compute in; the weights that are trained, sums and losses are float32 on every path."""
    engine: Engine
    """fused: with Triton kernels, operation by operation; torch: the same operations by torch; amx: compiled programs
    on a CPU, in bfloat16; program: the same in float32; readable: as written."""
    graphs: bool
    """Whether updates and rollouts are captured as CUDA graphs."""
    why: str
    techniques: Techniques = field(default_factory=Techniques)
    """Of fused and torch."""
    variant: str = ""
    """What sets it apart from another path of the same engine."""

    @property
    def name(self) -> str:
        """No other path on the device has it."""
        return f"{self.engine} {self.variant}".strip()

    @property
    def what(self) -> str:
        """In a few words, for people."""
        return f"{ENGINES[self.engine].rstrip(',')}{', CUDA graphs' if self.graphs else ''}"

    def slower(self) -> "Path | None":
        """What remains if this path fails: at first without graphs, in the end the readable networks; then nothing.

        Each step down shows in ``flags``, so that a run that starts anew for each never does so endlessly.
        """
        if self.graphs:
            return replace(self, graphs=False, why="CUDA graphs fail")
        if self.engine == "fused":
            return replace(self, engine="torch", techniques=WITHOUT_TRITON, variant="", why="the fused kernels fail")
        if self.engine != "readable":
            return Path(self.device, torch.float32, "readable", False, "nothing faster works")
        return None

    @property
    def loses(self) -> str:
        """What it costs to have come down to this path, in one sentence."""
        if self.engine == "readable":
            return "Going on with the networks as they are written, in float32: slower, and with more memory."
        if self.engine == "torch":
            return "Going on with torch's own operations: norms and their neighbours take several passes each."
        return "Going on without CUDA graphs: Python launches every kernel, and small ones wait for it."

    def flags(self) -> list[str]:
        """Command-line flags that ask for it."""
        return ["--engine", self.engine, "--cuda-graphs" if self.graphs else "--no-cuda-graphs"]

    @property
    def to_float(self) -> ToFloat:
        """``frames.to_float`` as the path computes it."""
        return frames_to_float if self.engine == "fused" and self.techniques.fused_frames else to_float

    def autocast(self) -> AbstractContextManager:
        """Around losses: on a GPU networks inside run in ``dtype``. On a CPU they see to it themselves."""
        enabled = self.device.type == "cuda" and self.dtype == torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    @property
    def short(self) -> str:
        """Engine, variant and dtype, such as ``program avx2 float32``."""
        dtype = str(self.dtype).removeprefix("torch.")
        return " ".join(part for part in (self.engine, self.variant.replace(dtype, ""), dtype) if part)

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        variant = f" ({self.variant})" if self.variant not in ("", dtype) else ""
        graphs = ", CUDA graphs" if self.graphs else ""
        return f"Path: {ENGINES[self.engine]}{variant} in {dtype}{graphs} ({self.why})"


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where tensor cores or AMX make it fast, else float32."""
    if device.type == "cuda":
        fast = has_fast_products(device)
    else:
        fast = runs_on_amx(device, torch.bfloat16)
    return torch.bfloat16 if fast else torch.float32


def has_fast_products(device: torch.device) -> bool:
    """Whether a GPU's tensor cores multiply bfloat16 and TF32: from compute capability 8.0 on."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def runs_on_amx(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a network of this type runs as a compiled program."""
    return device.type == "cpu" and dtype == torch.bfloat16 and cpu_program.why_unavailable() is None
