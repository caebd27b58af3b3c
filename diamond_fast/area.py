"""Images of another size, by area averaging. No torch."""

import numpy as np


class AreaResize:
    """Makes images of one size from those of another: each new pixel is the mean over its area in the old image.

    Args:
        old, new: (height, width) in pixels.
    """

    def __init__(self, old: tuple[int, int], new: tuple[int, int]):
        self._same_size = old == new
        self._rows, self._columns = (_area_weights(*sizes) for sizes in zip(old, new, strict=True))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 [..., height, width, C] -> the same in the new size; the same array if the sizes are equal."""
        if self._same_size:
            return images
        resized = np.einsum("ih,...hwc,jw->...ijc", self._rows, images, self._columns, optimize=True)
        return np.floor(resized + 0.5).astype(np.uint8)


def _area_weights(size: int, new_size: int) -> np.ndarray:
    """float32 [new_size, size]: the share of each old pixel in the area of each new one; rows sum to 1."""
    edges = np.arange(new_size + 1) * size / new_size
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (overlap.clip(min=0) * new_size / size).astype(np.float32)
