"""The cross-attention network's settings. No torch."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from diamond_fast.networks.config import NetworkConfig, check_groups, check_heads, check_levels
from diamond_fast.settings import Depth, Switch, Width, require


@dataclass(frozen=True)
class CrossAttentionConfig(NetworkConfig):
    """A U-Net of the noisy frame alone that looks at past frames, which a lighter one has encoded (paper, appendix M).

    The paper leaves open all but that; where attention sits and what the encoder is told are decided here. Its rates
    (7.4 and 2.5 frames a second, frame-stack and this) say that six encoded frames cost about twice the U-Net: an
    encoder of about a third of its operations, which it has as its way up ends early.
    """

    model: ClassVar[str] = "diamond_fast.networks.cross_attention.model:CrossAttentionNetwork"

    cond_channels: Width = 256
    """Width of the vectors that tell the network the noise level and an action."""
    depths: tuple[Depth, ...] = (2, 2, 2, 2)
    """Number of residual blocks of each level of the network."""
    channels: tuple[Width, ...] = (64, 64, 64, 64)
    """Number of channels of each level of the network."""
    attn_depths: tuple[Switch, ...] = (0, 0, 0, 0)
    """Which levels have self-attention in their blocks: 1 for yes, 0 for no, level by level."""
    encoder_depths: tuple[Depth, ...] = (2, 2, 2, 2)
    """Number of residual blocks of each level of the past frames' encoder."""
    encoder_channels: tuple[Width, ...] = (64, 64, 64, 64)
    """Number of channels of each level of the past frames' encoder."""

    def check(self, path: str) -> None:
        check_levels(
            path,
            self.channels,
            depths=self.depths,
            attn_depths=self.attn_depths,
            encoder_depths=self.encoder_depths,
            encoder_channels=self.encoder_channels,
        )
        check_groups(path, {*self.channels}, {2 * c for c in self.channels} | _neighbours(self.channels))
        check_heads(path, self.channels, (1,) * len(self.channels))
        encoder = self.encoder_channels
        check_groups(path, {*encoder}, _neighbours(encoder), "encoder_channels")
        check_heads(path, encoder, (0,) * len(encoder), "encoder_channels")
        message = f"must be even, got {self.cond_channels}"
        require(self.cond_channels % 2 == 0, f"{path}.cond_channels", message)


def _neighbours(channels: tuple[int, ...]) -> set[int]:
    """Channels of two levels together."""
    return {a + b for a, b in pairwise(channels)}
