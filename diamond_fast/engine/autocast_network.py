"""A network that has no walk, in the arithmetic of a path."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from diamond_fast.world_model import PlainNetwork


class AutocastNetwork(PlainNetwork):
    """Any network, as it is, under autocast.

    Args:
        network: whose weights are used.
        device, dtype: where and in what it runs.
    """

    def __init__(self, network: nn.Module, device: torch.device, dtype: torch.dtype):
        super().__init__(network)
        self._autocast = (device.type, dtype)

    def evaluate(self, network_input: tuple[Tensor, Tensor], conditioning: Any) -> Tensor:
        with self.autocast():
            return super().evaluate(network_input, conditioning).float()

    def autocast(self) -> AbstractContextManager:
        """What the network runs in."""
        kind, dtype = self._autocast
        # autocast keeps casts of weights until it ends: a graph must not read them afterwards
        return torch.autocast(kind, dtype, enabled=dtype != torch.float32, cache_enabled=False)
