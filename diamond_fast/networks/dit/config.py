"""The diffusion transformer's settings. No torch."""

from dataclasses import dataclass
from typing import ClassVar

from diamond_fast.networks.config import NetworkConfig
from diamond_fast.settings import Depth, Length, Width, flag, require


@dataclass(frozen=True)
class DiTConfig(NetworkConfig):
    """A transformer over patches (Peebles & Xie 2023), which look at those of past frames as well."""

    model: ClassVar[str] = "diamond_fast.networks.dit.model:DiT"

    patch_size: Length = 8
    """Height and width of a patch in pixels. Half of it takes four times as many patches, and is more exact."""
    width: Width = 256
    """Numbers that a patch is described by; they are also as many as tell the noise level and an action."""
    depth: Depth = 6
    """Number of transformer blocks."""
    num_heads: Width = 4
    """Number of attention heads of each block."""

    def check(self, path: str) -> None:
        message = f"must be even and a multiple of {flag(path + '.num_heads')} ({self.num_heads}), got {self.width}"
        require(self.width % 2 == 0 and self.width % self.num_heads == 0, f"{path}.width", message)
