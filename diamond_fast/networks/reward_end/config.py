"""The reward/end model's settings. No torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import arg

from diamond_fast.networks.config import check_groups, check_heads, check_levels
from diamond_fast.settings import Depth, RgbChannels, Switch, Width

RewardHead = Literal["sign", "symlog-bins"]


@dataclass(frozen=True)
class RewardEndConfig:
    """The reward and termination model: convolutions and an LSTM (paper, appendix C)."""

    img_channels: RgbChannels = 3
    """Number of colour channels of a frame."""
    lstm_dim: Width = 512
    """Width of the LSTM's state, the model's memory."""
    cond_channels: Width = 128
    """Width of the vector that tells the network the action."""
    depths: tuple[Depth, ...] = (2, 2, 2, 2)
    """Number of residual blocks of each level of the network."""
    channels: tuple[Width, ...] = (32, 32, 32, 32)
    """Number of channels of each level of the network."""
    attn_depths: tuple[Switch, ...] = (0, 0, 0, 0)
    """Which levels have self-attention in their blocks: 1 for yes, 0 for no, level by level."""
    reward_head: Annotated[RewardHead, arg(aliases=("--reward-head",))] = "sign"
    """The model predicts the signs of rewards, and the policy learns from signs, as published (sign), or rewards of any
    size, as a mean over bins whose distance grows with them, and the policy learns from those (symlog-bins)."""

    def check(self, path: str) -> None:
        """Raises ValueError if settings do not fit together; ``path`` is where they stand in a run's."""
        check_levels(path, self.channels, depths=self.depths, attn_depths=self.attn_depths)
        check_groups(path, set(self.channels))
        check_heads(path, self.channels, self.attn_depths)
