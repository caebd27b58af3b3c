"""Recurrent layers whose single steps are few kernels, on the layers' own weights as they are."""

import torch
from torch import Tensor, nn

from diamond_fast.kernels.mamba_step import mamba_step
from diamond_fast.networks.recurrent.layer import RecurrentLayer
from diamond_fast.networks.recurrent.mamba import MambaLayer


class FusedMambaLayer(RecurrentLayer):
    """What ``layer`` computes: single steps without gradients, sequences as they are written."""

    def __init__(self, layer: MambaLayer):
        super().__init__()
        self.layer = layer
        self.state_width = layer.state_width

    def forward(self, x: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x, real)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        layer = self.layer
        u, z = layer.in_proj(layer.norm(x)).chunk(2, dim=1)
        steering = layer.x_proj.weight, layer.dt_proj.weight, layer.dt_proj.bias
        gated, new = mamba_step(u, z, state, layer.taps, layer.taps_bias, *steering, layer.a_log, layer.skip)
        return torch.addmm(x, gated, layer.out_proj.weight.t()), new


def fused(layers: nn.ModuleList) -> nn.ModuleList:
    """The same layers, those that have kernels in their fused form."""
    return nn.ModuleList(FusedMambaLayer(layer) if isinstance(layer, MambaLayer) else layer for layer in layers)
