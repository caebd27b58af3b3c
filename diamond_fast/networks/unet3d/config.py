"""The settings of the U-Net over space and time. No torch."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from diamond_fast.networks.config import NetworkConfig, check_groups, check_heads, check_levels
from diamond_fast.settings import Depth, Switch, Width, require


@dataclass(frozen=True)
class UNet3DConfig(NetworkConfig):
    """A U-Net of each frame, past ones and the noisy one, with attention over time between them (Ho et al. 2022)."""

    model: ClassVar[str] = "diamond_fast.networks.unet3d.model:UNet3D"

    cond_channels: Width = 256
    """Width of the vector that tells the network a frame's noise level and action."""
    depths: tuple[Depth, ...] = (2, 2, 2, 2)
    """Number of residual blocks of each level of the network."""
    channels: tuple[Width, ...] = (64, 64, 64, 64)
    """Number of channels of each level of the network."""
    attn_depths: tuple[Switch, ...] = (0, 0, 0, 0)
    """Which levels have self-attention over space in their blocks: 1 for yes, 0 for no, level by level."""

    def check(self, path: str) -> None:
        check_levels(path, self.channels, depths=self.depths, attn_depths=self.attn_depths)
        joined = {2 * c for c in self.channels} | {a + b for a, b in pairwise(self.channels)}
        check_groups(path, {*self.channels}, joined)
        check_heads(path, self.channels, (1,) * len(self.channels))
        require(self.cond_channels % 2 == 0, f"{path}.cond_channels", f"must be even, got {self.cond_channels}")
