"""Parts of the networks that stay in float32 whatever the rest is computed in."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def outside_autocast(device: torch.device) -> AbstractContextManager:
    """Inside, autocast is off: operations run in the dtype of their inputs.

    Recurrent layers need it: on a GPU autocast runs ``nn.LSTM`` in float16 whatever dtype was asked for, forward and
    back, and without loss scaling small gradients vanish there. So does what knows the noise level: training would see
    other numbers than sampling.
    """
    # "meta" has no autocast; asking torch whether a device has one would break a trace of torch 2.11's compiler
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32 if it is coarser; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
