"""CUDA without a GPU: tensors that have a device, a shape and a type but no memory, and a watch over host traffic."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diamond_fast.kernels import launch


class _NothingOnTheHost(TorchDispatchMode):
    """Reading a value raises by itself; what this adds is that no operation takes or gives a tensor of the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves((args, kwargs, out)):
            if isinstance(x, Tensor) and x.device.type != "cuda":
                raise AssertionError(f"{func} touches a tensor of shape {list(x.shape)} on the {x.device.type}")
        return out


class _BasicIndexing(TorchFunctionMode):
    """x[...] with numbers, slices and None, copies, enlarging: torch's own ask for a driver the CPU build lacks."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.__getitem__:
            return _index(*args)
        if func is Tensor.__setitem__:
            x, index, value = args
            _copy(_index(x, index), value)
            return None
        if func is Tensor.copy_:
            return _copy(*args)
        if func is F.interpolate and kwargs["mode"] == "bicubic":  # one kernel, whose fake asks for that driver
            return args[0].new_empty(*args[0].shape[:2], *(n * kwargs["scale_factor"] for n in args[0].shape[2:]))
        if func is Tensor.contiguous:
            memory_format = (kwargs or {}).get("memory_format", torch.contiguous_format)
            x = args[0]
            same = x.is_contiguous(memory_format=memory_format)
            return x if same else torch.empty_like(x, memory_format=memory_format)
        return func(*args, **(kwargs or {}))


def _copy(to: Tensor, value: Tensor | float) -> Tensor:
    if isinstance(value, Tensor):
        assert value.device == to.device
        assert torch.broadcast_shapes(value.shape, to.shape) == to.shape
    return to


def _index(x: Tensor, index) -> Tensor:
    index = index if isinstance(index, tuple) else (index,)
    if Ellipsis in index:
        at = index.index(Ellipsis)
        index = index[:at] + (slice(None),) * (x.dim() - sum(i is not None for i in index) + 1) + index[at + 1 :]
    dim = 0
    for i in index:
        if i is None:
            x = x.unsqueeze(dim)
        elif isinstance(i, int):
            x, dim = x.select(dim, i), dim - 1
        else:
            start, stop, step = i.indices(x.size(dim))
            assert step == 1
            x = x.narrow(dim, start, max(0, stop - start))
        dim += 1
    return x


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Inside, tensors made on "cuda" are fake, and the chip is an H100."""
    with FakeTensorMode(), _BasicIndexing(), patch.object(launch, "chip_of", lambda device: launch.Chip(90, 132)):
        yield


@contextmanager
def no_host_traffic() -> Iterator[None]:
    """Inside, everything stays on the (fake) GPU, and no shape depends on data."""
    with _NothingOnTheHost():
        yield


def fake(x: Tensor) -> Tensor:
    """A fake CUDA tensor like x; under ``fake_cuda``."""
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda")


def move_to_fake_cuda(holder: object) -> None:
    """Replaces all tensors held by an object, its modules, and ours among its attributes, under ``fake_cuda``."""
    if isinstance(holder, nn.Module):
        for module in holder.modules():
            for name, p in module._parameters.items():
                if p is not None:
                    module._parameters[name] = nn.Parameter(fake(p), requires_grad=False)
            for name, b in module._buffers.items():
                if b is not None:
                    module._buffers[name] = fake(b)
        return
    for name, value in vars(holder).items():
        if isinstance(value, Tensor):
            setattr(holder, name, fake(value))
        elif isinstance(value, nn.Module) or type(value).__module__.startswith("diamond_fast.engine"):
            move_to_fake_cuda(value)
