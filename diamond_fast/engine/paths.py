"""Which path is the fast one on a device."""

import torch

from diamond_fast.engine import cpu_program


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 if tensor cores or AMX make it fast, else float32."""
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = runs_on_amx(device, torch.bfloat16)
    return torch.bfloat16 if fast else torch.float32


def runs_on_amx(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a network of this type runs as a compiled program."""
    return device.type == "cpu" and dtype == torch.bfloat16 and cpu_program.why_unavailable() is None
