"""How far the picture moves from one frame to the next, as a whole (Lucas and Kanade, 1981)."""

from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_SMALLEST = 8  # pixels, height and width of the coarsest picture
_ITERATIONS = 10  # at each size
_REACH = 0.3  # of the sides: the furthest shift; of one beyond, too little would be seen twice
_CLEARLY = 0.01  # of the variance: so much more of it has the shift found by searching to explain
_AT_ONCE = 64  # pairs of pictures
_DAMPING = 1e-3  # of the gradients' energy: a picture without structure has not moved


def motion(before: Tensor, after: Tensor) -> Tensor:
    """The shift that explains the second picture best, by least squares, from coarse pictures to fine ones.

    It is looked for twice: from no shift on, and from the best whole pixels of the coarsest picture, without which far
    ones are missed.

    Args:
        before, after: [N,C,H,W], any float.

    Returns:
        [N,2] float32: pixels to the right and down, by which what is seen has moved; at most three tenths of the sides.
    """
    pair = torch.stack((before, after)).float().mean(dim=2, keepdim=True)
    pictures = [pair]
    while min(pictures[-1].shape[-2:]) >= 2 * _SMALLEST:
        pictures.append(F.avg_pool2d(pictures[-1].flatten(0, 1), 2).unflatten(0, (2, -1)))
    near, far = (_refined(pictures, start) for start in (pair.new_zeros(len(before), 2), _searched(*pictures[-1])))
    first, second = pair
    more = _CLEARLY * first.var((1, 2, 3))
    better = _left_over(first, second, far) + more < _left_over(first, second, near)
    return torch.where(better[:, None], far, near)


def flow(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """:func:`motion` of frames uint8 [...,H,W,C]. -> float32 [...,2]"""
    pairs = (torch.from_numpy(x.reshape(-1, *x.shape[-3:])).movedim(-1, 1).split(_AT_ONCE) for x in (before, after))
    moved = [motion(first / 255, second / 255) for first, second in zip(*pairs, strict=True)]
    return torch.cat(moved).numpy().reshape(*before.shape[:-3], 2)


def _refined(pictures: list[Tensor], shift: Tensor) -> Tensor:
    """From a shift [N,2] in the last and coarsest pair of pictures to one in the first."""
    for first, second in reversed(pictures):
        if first is not pictures[-1][0]:
            shift = 2 * shift
        most = _REACH * shift.new_tensor([first.size(3), first.size(2)])
        for _ in range(_ITERATIONS):
            shift = (shift + _step(first, second, shift)).clamp(-most, most)
    return shift


def _searched(first: Tensor, second: Tensor) -> Tensor:
    """The shift [N,2] by whole pixels under which what both pictures show differs least."""
    height, width = first.shape[-2:]
    across, along = int(_REACH * width), int(_REACH * height)
    shifts = list(product(range(-across, across + 1), range(-along, along + 1)))
    differences = []
    for right, down in shifts:
        seen = first[..., max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)]
        still = second[..., max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)]
        differences.append((still - seen).square().mean((1, 2, 3)))
    return first.new_tensor(shifts)[torch.stack(differences).argmin(dim=0)]


def _left_over(first: Tensor, second: Tensor, shift: Tensor) -> Tensor:
    """Mean square [N] of what a shift does not explain."""
    moved, seen = _moved_back(second, shift)
    return ((first - moved).square()[:, 0] * seen).sum((1, 2)) / seen.sum((1, 2)).clamp(min=1)


def _moved_back(second: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """second(x + shift) [N,1,H,W], and whether the picture shows that place [N,H,W]."""
    height, width = second.shape[-2:]
    rows, columns = (torch.arange(n, dtype=second.dtype, device=second.device) for n in (height, width))
    x = (columns + shift[:, :1])[:, None].expand(-1, height, -1)
    y = (rows + shift[:, 1:])[..., None].expand(-1, -1, width)
    scaled = torch.stack((2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1), dim=-1)
    moved = F.grid_sample(second, scaled, padding_mode="border", align_corners=True)
    return moved, (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def _step(first: Tensor, second: Tensor, shift: Tensor) -> Tensor:
    """A Gauss-Newton step of sum (second(x + shift) - first(x))^2 over the pixels x that both pictures show."""
    moved, seen = _moved_back(second, shift)
    down, right = torch.gradient(moved, dim=(2, 3))
    error = first - moved

    def total(a: Tensor, b: Tensor) -> Tensor:
        return (a * b)[:, 0].mul(seen).sum((1, 2))

    xx, xy, yy = total(right, right), total(right, down), total(down, down)
    damping = _DAMPING * (xx + yy) + torch.finfo(first.dtype).eps
    xx, yy = xx + damping, yy + damping
    bx, by = total(right, error), total(down, error)
    return torch.stack((yy * bx - xy * by, xx * by - xy * bx), dim=1) / (xx * yy - xy * xy)[:, None]
