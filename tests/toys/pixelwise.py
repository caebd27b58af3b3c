"""A toy network in one file: every pixel sees its own past alone, through two 1x1 convolutions."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from diamond_fast.networks.blocks import ActionEmbedding
from diamond_fast.networks.config import NetworkConfig


@dataclass(frozen=True)
class PixelwiseConfig(NetworkConfig):
    """Two 1x1 convolutions."""

    model: ClassVar[str] = "toys.pixelwise:Pixelwise"

    width: int = 8
    """Channels between the convolutions."""


class Pixelwise(nn.Module):
    def __init__(self, cfg, spec):
        super().__init__()
        self.level = nn.Linear(1, cfg.width)
        self.action = ActionEmbedding(spec.action, cfg.width)
        self.first = nn.Conv2d((spec.context + 1) * spec.frame.channels, cfg.width, 1)
        self.last = nn.Conv2d(cfg.width, spec.frame.channels, 1)

    def forward(self, noisy_next_obs, c_noise, obs, act):
        cond = self.level(c_noise[:, None]) + self.action(act).sum(dim=1)
        x = self.first(torch.cat((obs, noisy_next_obs), dim=1)) + cond[:, :, None, None]
        return self.last(F.silu(x))
