"""The arithmetic of the networks: float32, TF32 or bfloat16."""

from contextlib import AbstractContextManager

import torch

from diamond_fast.config import Precision
from diamond_fast.engine.paths import fast_dtype


def set_matmul_precision(precision: Precision) -> None:
    """Lets matrix products and convolutions on a GPU use TF32 unless ``fp32`` is asked for. For the whole process."""
    allow = precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = allow
    torch.backends.cudnn.allow_tf32 = allow


def network_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """What networks compute in: bfloat16 if asked for and the machine is made for it, else float32."""
    return fast_dtype(device) if precision == "bf16" else torch.float32


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager:
    """On a GPU networks inside run in ``network_dtype``; weights and losses stay in float32.

    On a CPU the networks see to it themselves (training/paths.py).
    """
    enabled = device.type == "cuda" and network_dtype(precision, device) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
