"""The arithmetic of the networks: float32, TF32 or bfloat16."""

from contextlib import AbstractContextManager

import torch

from diamond_fast.config import Precision


def set_matmul_precision(precision: Precision) -> None:
    """Lets matrix products and convolutions on a GPU use TF32 unless ``fp32`` is asked for. For the whole process."""
    allow = precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = allow
    torch.backends.cudnn.allow_tf32 = allow


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager:
    """On a GPU networks inside run in bfloat16 where ``bf16`` is asked for; weights and losses stay in float32.

    On a CPU the networks see to it themselves (training/paths.py).
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16" and device.type == "cuda")
