"""Copies of a network's weights for one loss, whose gradients arrive at the weights themselves.

All weights are cast in one pass into one piece of memory, channels last. Each pass through the network gathers its
gradients in one piece of float32 memory, there passes add up, and the weights' gradients are views of the sum. So
neither number nor precision of the copies' gradients depends on how often a weight is used.
"""

import copy
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_fast.networks.blocks import AdaGroupNorm


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
        modulations = [[f"{name}.linear.{kind}" for name in norms] for kind in ("weight", "bias") if norms]
        joined = {name for names in modulations for name in names}
        alone = [
            name
            for name, _ in network.named_parameters()
            if name not in joined and not name.startswith(tuple(f"{m}." for m in exact))
        ]
        self._names = [name for names in modulations for name in names] + alone
        shapes = {name: p.shape for name, p in network.named_parameters()}
        self._sizes = [shapes[name].numel() for name in self._names]
        rows = sum(norm.linear.out_features for norm in self.norms)
        self._shapes = [(rows, *shapes[names[0]][1:]) for names in modulations] + [tuple(shapes[n]) for n in alone]
        self._slots: list[tuple[object, str]] = [(self, f"modulation_{kind}") for kind in ("weight", "bias") if norms]
        self._slots += [(modules[name.rpartition(".")[0]], name.rpartition(".")[2]) for name in alone]
        self._padding: dict[tuple[object, str], tuple[int, ...]] = {}
        for name, multiples in (pad_channels or {}).items():
            conv = modules[name]
            more_in, more_out = (-c % m for c, m in zip((conv.in_channels, conv.out_channels), multiples, strict=True))
            conv.in_channels, conv.out_channels = conv.in_channels + more_in, conv.out_channels + more_out
            self._padding[conv, "weight"] = (0, 0, 0, 0, 0, more_in, 0, more_out)
            self._padding[conv, "bias"] = (0, more_out)
        for module in modules.values():
            module._parameters.clear()  # their places are for the copies

    def take(self) -> None:
        """Copies the weights as they are now, without waiting for the device."""
        weights = dict(self._source.named_parameters())
        taken = [weights[name] for name in self._names]
        self._handle = _Handle.apply(*taken)
        with torch.no_grad():
            self._copies = torch.empty(sum(self._sizes), dtype=self._dtype, device=taken[0].device)
            torch._foreach_copy_(list(self._copies.split(self._sizes)), [_in_memory_order(w) for w in taken])

    def spread(self) -> None:
        """Puts the copies in the double's places, for one pass through it."""
        copies = _Copies.apply(self._handle, self._copies, self._shapes)
        for (owner, name), value in zip(self._slots, copies, strict=True):
            padding = self._padding.get((owner, name))
            setattr(owner, name, value if padding is None else F.pad(value, padding))


class _Handle(torch.autograd.Function):
    """All weights -> [number of weights], of no content: it stands for them, and its gradient is theirs."""

    @staticmethod
    def forward(ctx, *weights: Tensor) -> Tensor:
        ctx.shapes = [w.shape for w in weights]
        return weights[0].new_zeros(1).expand(sum(map(prod, ctx.shapes)))

    @staticmethod
    def backward(ctx, grad: Tensor):
        return tuple(_unflattened(grad, ctx.shapes))


class _Copies(torch.autograd.Function):
    """The handle, and what lies in memory for it -> the copies."""

    @staticmethod
    def forward(ctx, handle: Tensor, memory: Tensor, shapes: list[tuple[int, ...]]) -> tuple[Tensor, ...]:
        ctx.dtype, ctx.sizes = handle.dtype, list(map(prod, shapes))
        return tuple(_unflattened(memory.detach(), shapes))

    @staticmethod
    def backward(ctx, *grads: Tensor):
        gathered = torch.empty(sum(ctx.sizes), dtype=ctx.dtype, device=grads[0].device)
        torch._foreach_copy_(list(gathered.split(ctx.sizes)), [_in_memory_order(g) for g in grads])
        return gathered, None, None


def _in_memory_order(x: Tensor) -> Tensor:
    """All elements, 1-D, channels last: a view if they lie so."""
    return (x.permute(0, 2, 3, 1) if x.dim() == 4 else x).reshape(-1)


def _unflattened(memory: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """The tensors that lie in memory one behind the other, channels last."""
    pieces = zip(memory.split(list(map(prod, shapes))), shapes, strict=True)
    return [x.view(s[0], *s[2:], s[1]).permute(0, 3, 1, 2) if len(s) == 4 else x.view(*s) for x, s in pieces]
