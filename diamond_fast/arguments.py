"""What the models' public methods ask of their arguments, said before torch would say it in its own way.

Shapes and dtypes cost nothing to check and are known while a graph is captured. Values are looked at on a CPU only: on
a GPU that would wait for the device.
"""

import torch
from torch import Tensor

from diamond_fast.spec import Action


def check_tensor(name: str, tensor: Tensor, shape: tuple[int | None, ...], weight: Tensor) -> None:
    """A tensor of that shape (None: any size), on the weights' device and of their dtype or, in autocast, any float.

    Raises:
        TypeError: it is no tensor, or of another kind of numbers.
        ValueError: its shape or device is another.
    """
    _check(name, tensor, shape, weight.device)
    if tensor.dtype == weight.dtype:
        return
    kind = weight.device.type
    if not (tensor.is_floating_point() and kind != "meta" and torch.is_autocast_enabled(kind)):
        raise TypeError(f"{name}: expected {weight.dtype}, got {tensor.dtype}")


def check_mask(name: str, mask: Tensor, shape: tuple[int | None, ...], device: torch.device) -> None:
    """A bool tensor of that shape on that device. Raises as :func:`check_tensor`."""
    _check(name, mask, shape, device)
    if mask.dtype != torch.bool:
        raise TypeError(f"{name}: expected bool, got {mask.dtype}")


def check_actions(name: str, act: Tensor, shape: tuple[int | None, ...], device: torch.device, action: Action) -> None:
    """A tensor [*shape, *action.shape] of such actions on that device. Raises as :func:`check_tensor`."""
    _check(name, act, (*shape, *action.shape), device)
    if act.dtype != getattr(torch, action.dtype.name):
        raise TypeError(f"{name}: expected {action.dtype}, got {act.dtype}")
    if act.device.type != "cpu" or torch.compiler.is_compiling() or type(act) is not Tensor or not act.numel():
        return
    if wrong := action.why_not(act.detach().numpy()):
        raise ValueError(f"{name}: {wrong}")


def _check(name: str, tensor: Tensor, shape: tuple[int | None, ...], device: torch.device) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if tensor.dim() != len(shape) or any(n not in (None, m) for n, m in zip(shape, tensor.shape, strict=True)):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{name}: expected shape [{wanted}], got {list(tensor.shape)}")
    if tensor.device.type != device.type:
        raise ValueError(f"{name}: is on {tensor.device}, the model on {device}")
