"""How far the picture moves from one frame to the next, as a whole (Lucas and Kanade, 1981)."""

import torch
import torch.nn.functional as F
from torch import Tensor

_SMALLEST = 8  # pixels, height and width of the coarsest picture
_ITERATIONS = 10  # at each size
_DAMPING = 1e-3  # of the gradients' energy: a picture without structure has not moved


def motion(before: Tensor, after: Tensor) -> Tensor:
    """The shift that explains the second picture best, by least squares, from coarse pictures to fine ones.

    Args:
        before, after: [N,C,H,W], any float.

    Returns:
        [N,2] float32: pixels to the right and down, by which what is seen has moved.
    """
    pair = torch.stack((before, after)).float().mean(dim=2, keepdim=True)
    pictures = [pair]
    while min(pictures[-1].shape[-2:]) >= 2 * _SMALLEST:
        pictures.append(F.avg_pool2d(pictures[-1].flatten(0, 1), 2).unflatten(0, (2, -1)))
    shift = pair.new_zeros(len(before), 2)
    for first, second in reversed(pictures):
        shift = 2 * shift
        most = shift.new_tensor([first.size(3), first.size(2)]) / 2
        for _ in range(_ITERATIONS):
            shift = (shift + _step(first, second, shift)).clamp(-most, most)
    return shift


def _step(first: Tensor, second: Tensor, shift: Tensor) -> Tensor:
    """A Gauss-Newton step of sum (second(x + shift) - first(x))^2 over the pixels x that both pictures show."""
    height, width = first.shape[-2:]
    rows, columns = (torch.arange(n, dtype=first.dtype, device=first.device) for n in (height, width))
    x = (columns + shift[:, :1])[:, None].expand(-1, height, -1)
    y = (rows + shift[:, 1:])[..., None].expand(-1, -1, width)
    scaled = torch.stack((2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1), dim=-1)
    moved = F.grid_sample(second, scaled, padding_mode="border", align_corners=True)
    seen = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    down, right = torch.gradient(moved, dim=(2, 3))
    error = first - moved

    def total(a: Tensor, b: Tensor) -> Tensor:
        return (a * b)[:, 0].mul(seen).sum((1, 2))

    xx, xy, yy = total(right, right), total(right, down), total(down, down)
    damping = _DAMPING * (xx + yy) + torch.finfo(first.dtype).eps
    xx, yy = xx + damping, yy + damping
    bx, by = total(right, error), total(down, error)
    return torch.stack((yy * bx - xy * by, xx * by - xy * bx), dim=1) / (xx * yy - xy * xy)[:, None]
