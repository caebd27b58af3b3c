"""Methods whose tensors outlive the call they were made in."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def lasting(method: Callable[P, R]) -> Callable[P, R]:
    """Runs a method without gradients, and never in inference mode.

    What it makes and keeps can then be written by a later call, whichever mode that one is called in.
    """

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.inference_mode(False), torch.no_grad():
            return method(*args, **kwargs)

    return call
