"""Copies of a network's weights in the type and layout that run fastest, at addresses that never change.

Training goes on with the float32 weights; captured graphs read the copies. ``refresh`` brings them up to date in place.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diamond_fast.engine.lasting import lasting
from diamond_fast.networks.blocks import AdaGroupNorm


class WeightCopies:
    """A network's double.

    Args:
        network: whose weights are copied; float32.
        dtype: of the copies.
        pad_channels: input channels of a convolution, output channels of one, or both, are padded with zeros to a
            multiple of what is given here for it: {module name: (input multiple, output multiple)}.
        exact: names of modules that stay float32.

    Attributes:
        network: a module like the original; convolutions' weights lie channels last.
        modulation_weight, modulation_bias: [M,E], [M]: those of all adaptive norms, one below the other in the order of
            ``network.modules()``; the norms' own are views of them.
        offsets: norm -> where its scale and shift begin among the M.
    """

    @lasting
    def __init__(
        self,
        network: nn.Module,
        dtype: torch.dtype,
        pad_channels: dict[str, tuple[int, int]] | None = None,
        exact: Sequence[str] = (),
    ):
        self.network: Any = copy.deepcopy(network).requires_grad_(False).to(dtype)
        for name in exact:
            self.network.get_submodule(name).float()
        self._copies: dict[str, Tensor] = dict(self.network.named_parameters())
        for name, (in_multiple, out_multiple) in (pad_channels or {}).items():
            self._pad(name, in_multiple, out_multiple)
        for module in self.network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        self._join_modulations()
        self.refresh(network)

    def _pad(self, name: str, in_multiple: int, out_multiple: int) -> None:
        conv = self.network.get_submodule(name)
        o, i, kh, kw = conv.weight.shape
        padded = conv.weight.new_zeros(o + -o % out_multiple, i + -i % in_multiple, kh, kw)
        padded = padded.contiguous(memory_format=torch.channels_last)
        bias = conv.bias.new_zeros(len(padded))
        conv.weight, conv.bias = nn.Parameter(padded, requires_grad=False), nn.Parameter(bias, requires_grad=False)
        conv.out_channels, conv.in_channels = padded.shape[:2]
        self._copies[f"{name}.weight"], self._copies[f"{name}.bias"] = padded[:o, :i], bias[:o]

    def _join_modulations(self) -> None:
        norms = [m for m in self.network.modules() if isinstance(m, AdaGroupNorm)]
        self.offsets: dict[AdaGroupNorm, int] = {}
        self.modulation_weight: Tensor | None = None
        self.modulation_bias: Tensor | None = None
        if not norms:
            return
        weight = self.modulation_weight = torch.cat([norm.linear.weight for norm in norms])
        bias = self.modulation_bias = torch.cat([norm.linear.bias for norm in norms])
        start = 0
        for norm in norms:
            rows = slice(start, start + norm.linear.out_features)
            self.offsets[norm] = start
            norm.linear.weight.data, norm.linear.bias.data = weight[rows], bias[rows]
            start = rows.stop

    @torch.no_grad()
    def refresh(self, network: nn.Module) -> None:
        """Copies the weights and buffers of a network like the original, without waiting for the device."""
        source = dict(network.named_parameters())
        torch._foreach_copy_(list(self._copies.values()), [source[name] for name in self._copies])
        for name, buffer in self.network.named_buffers():
            buffer.copy_(network.get_buffer(name))
