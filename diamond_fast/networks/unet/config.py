"""The U-Net's settings. No torch."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from diamond_fast.networks.config import NetworkConfig, check_groups, check_heads, check_levels
from diamond_fast.settings import Depth, Switch, Width, require


@dataclass(frozen=True)
class InnerModelConfig(NetworkConfig):
    """The denoiser's U-Net F (paper, appendix C)."""

    model: ClassVar[str] = "diamond_fast.networks.unet.model:InnerModel"

    cond_channels: Width = 256
    """Width of the vector that tells the network the noise level and the actions. The actions' embeddings stand in it
    side by side if it is a multiple of --num-steps-conditioning, as published; else a linear map makes them fit."""
    depths: tuple[Depth, ...] = (2, 2, 2, 2)
    """Number of residual blocks of each level of the network."""
    channels: tuple[Width, ...] = (64, 64, 64, 64)
    """Number of channels of each level of the network."""
    attn_depths: tuple[Switch, ...] = (0, 0, 0, 0)
    """Which levels have self-attention in their blocks: 1 for yes, 0 for no, level by level."""

    context_noise: bool = False
    """The network is told how much noise there is in the past frames."""

    def check(self, path: str) -> None:
        check_levels(path, self.channels, depths=self.depths, attn_depths=self.attn_depths)
        joined = {2 * c for c in self.channels} | {a + b for a, b in pairwise(self.channels)}
        check_groups(path, set(self.channels), joined)
        check_heads(path, self.channels, self.attn_depths)
        require(self.cond_channels % 2 == 0, f"{path}.cond_channels", f"must be even, got {self.cond_channels}")
