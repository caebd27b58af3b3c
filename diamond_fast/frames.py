"""Frames as stored (uint8, channels last) and as the models see them (float32 in [-1, 1], channels first).

Going there and back changes no grey level: the way back rounds. The published code truncates, which lowers a
quarter of the 256 levels by one each time a frame is saved.
"""

from collections.abc import Callable

import torch
from torch import Tensor

ToFloat = Callable[..., Tensor]
"""``to_float``, or what does the same faster."""


def to_float(frames: Tensor, mask: Tensor | None = None) -> Tensor:
    """Returns frames / 255 * 2 - 1, with frames outside the mask exactly 0.0 (mid grey, which no byte stores).

    Args:
        frames: uint8 [..., H, W, C].
        mask: bool [...], True where a frame is real; None if all are.

    Returns:
        float32 [..., C, H, W]; in memory the channels stay last.

    Raises:
        TypeError: frames is not uint8, or the mask not bool.
        ValueError: the mask's shape is not that of the frames without H, W, C.
    """
    if frames.dtype != torch.uint8:
        raise TypeError(f"frames: expected uint8, got {frames.dtype}")
    if mask is not None and mask.dtype != torch.bool:
        raise TypeError(f"mask: expected bool, got {mask.dtype}")
    if mask is not None and mask.shape != frames.shape[:-3]:
        raise ValueError(f"mask: expected shape {tuple(frames.shape[:-3])}, got {tuple(mask.shape)}")
    obs = frames.movedim(-1, -3).to(torch.float32).div_(255).mul_(2).sub_(1)
    return obs if mask is None else obs.mul_(mask[..., None, None, None])


def to_uint8(obs: Tensor) -> Tensor:
    """Returns the grey levels nearest to obs: the exact inverse of `to_float` on its 256 values.

    Args:
        obs: floating point [..., C, H, W]; values outside [-1, 1] are clipped.

    Returns:
        uint8 [..., H, W, C], contiguous.

    Raises:
        TypeError: obs is not floating point.
    """
    if not obs.is_floating_point():
        raise TypeError(f"obs: expected floating point, got {obs.dtype}")
    levels = obs.float().add(1).mul_(127.5).round_().clamp_(0, 255)
    return levels.to(torch.uint8).movedim(-3, -1).contiguous()


def quantise(x: Tensor) -> Tensor:
    """Rounds values in [-1, 1] down to the 256 levels a stored frame can take. Values outside are clamped first.

    NaN stays NaN, so that it shows in the losses; as a byte it would be a black pixel.
    """
    levels = x.clamp(-1, 1).add(1).div(2).mul(255).floor()
    return levels.to(torch.promote_types(x.dtype, torch.float32)).div(255).mul(2).sub(1)
