"""The sizes of a U-Net's levels, each half as high and wide as the one above."""

import torch.nn.functional as F
from torch import Tensor

from diamond_fast.spec import Frame


def first_looking(frame: Frame, num_levels: int, most_positions: int) -> int:
    """The finest level of at most ``most_positions`` positions; the deepest if all have more."""
    multiple = 2 ** (num_levels - 1)
    height, width = (-(-size // multiple) * multiple for size in (frame.height, frame.width))
    small = [(height >> level) * (width >> level) <= most_positions for level in range(num_levels - 1)]
    return [*small, True].index(True)


def padded(x: Tensor, num_levels: int) -> Tensor:
    """x [N,C,H,W] with zeros at the right and the bottom, so that every level halves its size."""
    multiple = 2 ** (num_levels - 1)
    return F.pad(x, (0, -x.size(-1) % multiple, 0, -x.size(-2) % multiple))
