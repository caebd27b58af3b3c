"""Images of another size, by area averaging. No torch."""

import numpy as np


class AreaResize:
    """Makes images of one size from those of another: each new pixel is the mean over its area in the old image.

    Args:
        height, width: of the old images, in pixels.
        size: height and width of the new ones.
    """

    def __init__(self, height: int, width: int, size: int):
        self._shapes = (height, width), (size, size)
        self._rows, self._columns = _area_weights(height, size), _area_weights(width, size)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 [..., height, width, C] -> uint8 [..., size, size, C]; the same array if the sizes are equal."""
        if self._shapes[0] == self._shapes[1]:
            return images
        resized = np.einsum("ih,...hwc,jw->...ijc", self._rows, images, self._columns, optimize=True)
        return np.floor(resized + 0.5).astype(np.uint8)


def _area_weights(size: int, new_size: int) -> np.ndarray:
    """float32 [new_size, size]: the share of each old pixel in the area of each new one; rows sum to 1."""
    edges = np.arange(new_size + 1) * size / new_size
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (overlap.clip(min=0) * new_size / size).astype(np.float32)
