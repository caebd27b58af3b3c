"""The settings of a world model's memory. No torch."""

from dataclasses import dataclass
from typing import Literal

from diamond_fast.networks.config import check_groups, check_levels
from diamond_fast.settings import Depth, Length, Switch, Width, require

Memory = Literal["none", "mamba", "gru", "attention"]

HEAD_WIDTH = 64
"""Of attention over past embeddings."""


@dataclass(frozen=True)
class MemoryConfig:
    """The memory of --memory, as EDELINE has it: an encoder of frames, the action beside it, and recurrent layers."""

    channels: tuple[Width, ...] = (64, 64, 64, 64)
    """Number of channels of each level of the encoder."""
    down: tuple[Switch, ...] = (1, 1, 1, 1)
    """Which levels end with 2x2 max-pooling: 1 for yes, 0 for no, level by level."""
    action_width: Width = 128
    """Width of the vector that stands for an action."""
    width: Width = 512
    """Width of the vector that stands for what came before: the denoiser is told it, and rewards are read off it."""
    layers: Depth = 3
    """Number of recurrent layers."""
    state: Width = 16
    """Numbers that each channel of a mamba layer remembers."""
    expansion: Depth = 2
    """Channels inside a mamba layer, as a multiple of the width."""
    convolution: Length = 4
    """Steps that the convolution of a mamba layer sees."""
    window: Length = 32
    """Steps, the present one included, that attention looks back on, and a gru when training begins."""

    def check(self, path: str, kind: Memory) -> None:
        """Raises ValueError if they do not fit together for such a memory; ``path`` is where they stand in a run's."""
        check_levels(path, self.channels, down=self.down)
        check_groups(path, set(self.channels))
        heads = num_heads(self.width)
        message = f"{self.width} does not split into {heads} heads of attention; multiples of {HEAD_WIDTH} do"
        require(kind != "attention" or self.width % heads == 0, f"{path}.width", message)


def num_heads(width: int) -> int:
    return max(1, width // HEAD_WIDTH)
