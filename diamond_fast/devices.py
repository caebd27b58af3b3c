"""Which device the networks run on."""

import re

import torch

from diamond_fast.one_line import one_line
from diamond_fast.threads import limit_torch


def resolve_device(name: str) -> torch.device:
    """The device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` stands for, ready for work.

    A GPU is made this process's current one. Torch keeps to the threads that are allowed.

    Raises:
        ValueError: this machine has no such device; the message says which it has.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError(f"--device: expected auto, cpu, cuda or cuda:N, got '{name}'")
    limit_torch()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not count:
        reason = "no GPU is visible" if torch.version.cuda else f"torch {torch.__version__} is built without CUDA"
        raise ValueError(f"--device {name}: {reason}; use --device cpu, or leave it out")
    if (device.index or 0) >= max(count, 1):
        raise ValueError(f"--device {name}: this machine has cuda:0" + (f" to cuda:{count - 1}" if count > 1 else ""))
    if device.index is not None:
        try:
            torch.cuda.set_device(device)  # libraries, and graphs' memory, are the current device's
        except RuntimeError as error:
            raise ValueError(f"--device {name}: it cannot be used ({one_line(error)}); use --device cpu") from None
    return device
