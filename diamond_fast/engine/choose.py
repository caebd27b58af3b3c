"""Which path networks take on a device: decided here and nowhere else."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch

from diamond_fast.config import PathChoice, Precision
from diamond_fast.engine import cpu_program


@dataclass(frozen=True)
class Path:
    """How networks are computed. As a string, one line for people."""

    device: torch.device
    dtype: torch.dtype
    """What networks compute in; the weights that are trained, sums and losses are float32 on every path."""
    engine: Literal["fused", "amx", "readable"]
    """fused: with Triton kernels, operation by operation; amx: compiled programs on a CPU; readable: as written."""
    graphs: bool
    """Whether updates and rollouts are captured as CUDA graphs."""
    why: str

    def autocast(self) -> AbstractContextManager:
        """Around losses: on a GPU networks inside run in ``dtype``. On a CPU they see to it themselves."""
        enabled = self.device.type == "cuda" and self.dtype == torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def __str__(self) -> str:
        engine = {"fused": "fused kernels", "amx": "AMX programs", "readable": "readable networks"}[self.engine]
        dtype = str(self.dtype).removeprefix("torch.")
        return f"Path: {engine} in {dtype}{', CUDA graphs' if self.graphs else ''} ({self.why})"


def choose_path(
    device: torch.device, precision: Precision = "bf16", choice: PathChoice = "auto", graphs: bool = True
) -> Path:
    """The fastest path that a device has for a precision, or the readable one.

    Args:
        graphs: whether CUDA graphs may be used.
    """
    if choice == "readable":
        return Path(device, torch.float32, "readable", False, "asked for")
    dtype = fast_dtype(device) if precision == "bf16" else torch.float32
    if device.type == "cuda":
        coarse = "the GPU has tensor cores for it" if dtype == torch.bfloat16 else "the GPU is not made for bfloat16"
        return Path(device, dtype, "fused", graphs, coarse if precision == "bf16" else f"precision {precision}")
    if runs_on_amx(device, dtype):
        return Path(device, dtype, "amx", False, "the processor has AMX")
    why = cpu_program.why_unavailable() if device.type == "cpu" else f"there is no faster one on {device.type}"
    return Path(device, dtype, "readable", False, why if precision == "bf16" and why else f"precision {precision}")


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where tensor cores or AMX make it fast, else float32."""
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = runs_on_amx(device, torch.bfloat16)
    return torch.bfloat16 if fast else torch.float32


def runs_on_amx(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a network of this type runs as a compiled program."""
    return device.type == "cpu" and dtype == torch.bfloat16 and cpu_program.why_unavailable() is None


def set_matmul_precision(precision: Precision) -> None:
    """Lets matrix products and convolutions on a GPU use TF32 unless ``fp32`` is asked for. For the whole process."""
    allow = precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = allow
    torch.backends.cudnn.allow_tf32 = allow
