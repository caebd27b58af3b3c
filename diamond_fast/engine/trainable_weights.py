"""Copies of a network's weights for one loss, whose gradients arrive at the weights themselves.

All weights are cast in one pass into one piece of memory, channels last. Each pass through the network gathers its
gradients in one piece of float32 memory, there passes add up, and the weights' gradients are views of the sum. So
neither number nor precision of the sums depends on how often a weight is used.
"""

import copy
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_fast.networks.blocks import AdaGroupNorm

Shape = tuple[int, ...]


class Layout:
    """Where weights, or their gradients, lie in one piece of memory.

    Args:
        groups: shapes of weights. Those of a group lie one below the other, as one copy.
    """

    ALIGNED = 64  # elements; kernels of cuDNN and cuBLAS need 16 bytes, and like 128

    def __init__(self, groups: list[list[Shape]]):
        self._groups = groups
        self._copies: list[Shape] = [(sum(shape[0] for shape in group), *group[0][1:]) for group in groups]
        self._rooms = [prod(shape) + -prod(shape) % self.ALIGNED for shape in self._copies]
        self.size = sum(self._rooms)

    def copies(self, memory: Tensor) -> list[Tensor]:
        """A tensor for each group."""
        return [_unflattened(x, shape) for x, shape in zip(self.flat_copies(memory), self._copies, strict=True)]

    def weights(self, memory: Tensor) -> list[Tensor]:
        """A tensor for each weight."""
        shapes = [shape for group in self._groups for shape in group]
        return [_unflattened(x, shape) for x, shape in zip(self.flat_weights(memory), shapes, strict=True)]

    def flat_copies(self, memory: Tensor) -> list[Tensor]:
        return [x[: prod(shape)] for x, shape in zip(memory.split(self._rooms), self._copies, strict=True)]

    def flat_weights(self, memory: Tensor) -> list[Tensor]:
        pairs = zip(self.flat_copies(memory), self._groups, strict=True)
        return [weight for x, group in pairs for weight in x.split(list(map(prod, group)))]


class TrainableWeights:
    """A network's double, of copies that are made anew by ``take`` and put in place by ``spread``.

    Args:
        network: whose weights are copied and trained.
        dtype: of the copies.
        pad_channels: as for ``WeightCopies``.
        exact: names of modules whose weights are not copied; the double lacks them.

    Attributes:
        network: the double.
        modulation_weight, modulation_bias: [M,E], [M]: those of all adaptive norms, one below the other.
        norms: the double's adaptive norms in that order.
    """

    modulation_weight: Tensor
    modulation_bias: Tensor

    def __init__(
        self,
        network: nn.Module,
        dtype: torch.dtype,
        pad_channels: dict[str, tuple[int, int]] | None = None,
        exact: Sequence[str] = (),
    ):
        self.network: Any = copy.deepcopy(network)
        self._source = network
        self._dtype = dtype
        modules = dict(self.network.named_modules())
        norms = {name: m for name, m in modules.items() if isinstance(m, AdaGroupNorm)}
        self.norms = list(norms.values())
        modulations = {kind: [f"{name}.linear.{kind}" for name in norms] for kind in ("weight", "bias") if norms}
        joined = {name for names in modulations.values() for name in names}
        shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
        left_out = tuple(f"{name}." for name in exact)
        alone = [name for name in shapes if name not in joined and not name.startswith(left_out)]
        groups = [*modulations.values(), *([name] for name in alone)]
        self._names = [name for names in groups for name in names]
        self._layout = Layout([[shapes[name] for name in names] for names in groups])
        self._places: list[tuple[object, str]] = [(self, f"modulation_{kind}") for kind in modulations]
        self._places += [(modules[name.rpartition(".")[0]], name.rpartition(".")[2]) for name in alone]
        self._padding: dict[tuple[object, str], Shape] = {}
        for name, multiples in (pad_channels or {}).items():
            conv = modules[name]
            more_in, more_out = (-c % m for c, m in zip((conv.in_channels, conv.out_channels), multiples, strict=True))
            conv.in_channels, conv.out_channels = conv.in_channels + more_in, conv.out_channels + more_out
            self._padding[conv, "weight"] = (0, 0, 0, 0, 0, more_in, 0, more_out)
            if more_out:
                self._padding[conv, "bias"] = (0, more_out)
        for module in modules.values():
            module._parameters.clear()  # their places are for the copies

    def take(self) -> None:
        """Copies the weights as they are now, without waiting for the device."""
        self._release()
        weights = dict(self._source.named_parameters())
        taken = [weights[name] for name in self._names]
        self._handle = _Handle.apply(self._layout, *taken)
        with torch.no_grad():
            self._memory = torch.empty(self._layout.size, dtype=self._dtype, device=taken[0].device)
            torch._foreach_copy_(self._layout.flat_weights(self._memory), list(map(_in_memory_order, taken)))

    def _release(self) -> None:
        """Lets go of the last copies: through them the weights' nodes would stay, on the stream that those were on."""
        self._handle = None
        for place in self._places:
            setattr(*place, None)

    def spread(self) -> None:
        """Puts the copies in the double's places, for one pass through it."""
        copies = _Copies.apply(self._handle, self._memory, self._layout)
        for place, value in zip(self._places, copies, strict=True):
            padding = self._padding.get(place)
            setattr(*place, value if padding is None else F.pad(value, padding))


class _Handle(torch.autograd.Function):
    """Weights -> [size of the layout], of no content: it stands for all of them, and its gradient is theirs."""

    @staticmethod
    def forward(ctx, layout: Layout, *weights: Tensor) -> Tensor:
        ctx.layout = layout
        return weights[0].new_zeros(1).expand(layout.size)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return None, *ctx.layout.weights(grad)


class _Copies(torch.autograd.Function):
    """The handle, and the memory behind it -> the copies."""

    @staticmethod
    def forward(ctx, handle: Tensor, memory: Tensor, layout: Layout) -> tuple[Tensor, ...]:
        ctx.layout, ctx.dtype = layout, handle.dtype
        return tuple(layout.copies(memory.detach()))

    @staticmethod
    def backward(ctx, *grads: Tensor):
        gathered = torch.empty(ctx.layout.size, dtype=ctx.dtype, device=grads[0].device)
        torch._foreach_copy_(ctx.layout.flat_copies(gathered), list(map(_in_memory_order, grads)))
        return gathered, None, None


def _in_memory_order(x: Tensor) -> Tensor:
    """All elements, 1-D, channels last: a view if they lie so."""
    return (x.permute(0, 2, 3, 1) if x.dim() == 4 else x).reshape(-1)


def _unflattened(x: Tensor, shape: Shape) -> Tensor:
    """The inverse."""
    if len(shape) != 4:
        return x.view(shape)
    return x.view(shape[0], *shape[2:], shape[1]).permute(0, 3, 1, 2)
