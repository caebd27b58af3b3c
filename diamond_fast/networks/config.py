"""What the settings of all networks have in common. No torch."""

from collections.abc import Set
from dataclasses import dataclass
from typing import ClassVar

from diamond_fast.settings import Length, RgbChannels, flag, require

GROUP_SIZE = 32  # channels per normalisation group
HEAD_DIM = 8  # channels per attention head


def num_groups(channels: int) -> int:
    """Normalisation groups for a number of channels: 32 channels each, at least one group."""
    return max(1, channels // GROUP_SIZE)


def num_heads(channels: int) -> int:
    """Attention heads for a number of channels: 8 channels each, at least one head."""
    return max(1, channels // HEAD_DIM)


@dataclass(frozen=True)
class NetworkConfig:
    """A denoiser's network, whatever its kind."""

    model: ClassVar[str]  # where its module is: package.module:Name, made from (config, spec)

    img_channels: RgbChannels = 3
    """Number of colour channels of a frame."""
    num_steps_conditioning: Length = 4
    """How many past frames and actions the next frame is predicted from."""

    @property
    def context_noise(self) -> bool:
        """Whether the network is told how much noise there is in the past frames."""
        return False

    def check(self, path: str) -> None:
        """Raises ValueError if settings do not fit together; ``path`` is where they stand in a run's."""


def check_levels(path: str, channels: tuple[int, ...], **per_level: tuple[int, ...]) -> None:
    """There is a level, and one entry for each level everywhere. Raises ValueError with the flag's name."""
    require(len(channels) > 0, f"{path}.channels", "need at least one level")
    for name, entries in per_level.items():
        wanted = f"must have as many entries as {flag(path + '.channels')} ({len(channels)}), got {len(entries)}"
        require(len(entries) == len(channels), f"{path}.{name}", wanted)


def check_groups(path: str, widths: Set[int], joined: Set[int] = frozenset(), name: str = "channels") -> None:
    """Channels, a setting of that name, split evenly into groups; ``joined``: of a level together with its skips."""
    for width in sorted(widths | joined):
        groups = num_groups(width)
        together = "" if width in widths else " (a level and its skips together)"
        message = f"{width} channels{together} do not split into {groups} groups; multiples of {GROUP_SIZE} always do"
        require(width % groups == 0, f"{path}.{name}", message)


def check_heads(path: str, channels: tuple[int, ...], attn_depths: tuple[int, ...], name: str = "channels") -> None:
    """Channels with attention, which the deepest level always has, split evenly into heads."""
    for c in sorted({c for c, attn in zip(channels, attn_depths, strict=True) if attn} | {channels[-1]}):
        heads = num_heads(c)
        message = f"{c} channels with attention do not split into {heads} heads; multiples of {HEAD_DIM} do"
        require(c % heads == 0, f"{path}.{name}", message)
