"""Pictures that show what the world model imagines next to what really happened."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

FRAME_WIDTH = 192
"""Least width of a frame in the picture, in pixels; frames grow by whole factors, so pixels stay square and sharp."""
GAP = 6
MARGIN = 24
HEAD = 34  # above frames, for the step they show
BACKGROUND = (250, 250, 248)
INK = (40, 40, 44)
FAINT = (130, 130, 136)
ROWS = ("real", "imagined", "difference")

Segment = tuple[np.ndarray, np.ndarray]
"""Real and imagined frames, each uint8 [T, H, W, 3]. Index t - 1 holds the t-th frame after the imagination's start."""


@contextmanager
def if_installed(say: Callable[[str], None]) -> Iterator[None]:
    """For what draws: if Pillow or matplotlib is not installed, ``say`` is told, and nothing is drawn."""
    try:
        yield
    except ModuleNotFoundError as error:
        say(f"Not drawn: {error}; pip install pillow matplotlib")


def pictured_times(horizon: int) -> list[int]:
    """The steps that are pictured: 1, 5, 10 and 15 as far as the horizon goes, and its last."""
    return sorted({t for t in (1, 5, 10, 15) if t <= horizon} | {horizon})


def save_frame_grid(path: Path, segments: Sequence[Segment], times: Sequence[int]) -> Path:
    """Write one PNG with, for each segment, rows of real frames, imagined frames and their absolute difference.

    Args:
        path: the file; its folder must exist.
        segments: all of one frame size.
        times: columns, from 1 to T.

    Returns:
        ``path``.

    Raises:
        TypeError: frames that are not uint8.
        ValueError: shapes that do not match, or a time outside 1..T.
    """
    _check(segments, times)
    sheet = _Sheet(segments[0], columns=len(times), blocks=len(segments))
    for block, segment in enumerate(segments):
        for column, t in enumerate(times):
            sheet.put(segment, t, column, block)
    sheet.picture.save(path, format="PNG")
    return path


def save_gif(path: Path, segments: Sequence[Segment], frames_per_second: float = 5.0) -> Path:
    """Write one GIF that plays, in a column for each segment, real frames above imagined ones above their difference.

    Args:
        path: the file; its folder must exist.
        segments: all of one frame size and one T.
        frames_per_second: a GIF counts hundredths of a second; 15 Atari steps a second would be real time.

    Returns:
        ``path``.

    Raises:
        TypeError: frames that are not uint8.
        ValueError: shapes that do not match.
    """
    times = range(1, len(segments[0][0]) + 1) if segments else ()
    _check(segments, times)
    pages = []
    for t in times:
        sheet = _Sheet(segments[0], columns=len(segments))
        for column, segment in enumerate(segments):
            sheet.put(segment, t, column)
        pages.append(sheet.picture)
    pause = round(1000 / frames_per_second)
    pauses = [pause] * (len(pages) - 1) + [4 * pause]
    pages[0].save(path, format="GIF", save_all=True, append_images=pages[1:], duration=pauses, loop=0)
    return path


class _Sheet:
    """A picture with room for columns of three frames below each other, in one or more blocks of such columns."""

    def __init__(self, like: Segment, columns: int, blocks: int = 1):
        from PIL import Image, ImageDraw, ImageFont

        height, width = like[0].shape[1:3]
        scale = max(1, -(-FRAME_WIDTH // width))
        self._cell = width * scale, height * scale
        self._font = ImageFont.load_default(20)
        self._left = MARGIN + round(max(map(self._font.getlength, ROWS))) + 16
        self._block_height = HEAD + 3 * (self._cell[1] + GAP) - GAP + MARGIN
        size = self._left + columns * (self._cell[0] + GAP) - GAP + MARGIN, MARGIN + blocks * self._block_height
        self.picture = Image.new("RGB", size, BACKGROUND)
        self._draw = ImageDraw.Draw(self.picture)
        for block in range(blocks):
            for row, label in enumerate(ROWS):
                place = self._left - 16, self._top(row, block) + self._cell[1] / 2
                self._draw.text(place, label, INK, self._font, anchor="rm")

    def put(self, segment: Segment, t: int, column: int, block: int = 0) -> None:
        """The real frame after t steps, the imagined one and their absolute difference."""
        from PIL import Image

        real, imagined = (frames[t - 1] for frames in segment)
        difference = np.abs(real.astype(np.int16) - imagined).astype(np.uint8)
        x = self._left + column * (self._cell[0] + GAP)
        title = x + self._cell[0] / 2, self._top(0, block) - HEAD / 2
        self._draw.text(title, f"t = {t}", FAINT, self._font, anchor="mm")
        for row, frame in enumerate((real, imagined, difference)):
            enlarged = Image.fromarray(np.ascontiguousarray(frame)).resize(self._cell, Image.Resampling.NEAREST)
            self.picture.paste(enlarged, (x, self._top(row, block)))

    def _top(self, row: int, block: int) -> int:
        return MARGIN + block * self._block_height + HEAD + row * (self._cell[1] + GAP)


def _check(segments: Sequence[Segment], times: Sequence[int]) -> None:
    if not segments or not times:
        raise ValueError("segments and times: need at least one of each")
    expected = segments[0][0].shape
    for frames in (frames for pair in segments for frames in pair):
        if frames.dtype != np.uint8:
            raise TypeError(f"segments: frames must be uint8, got {frames.dtype}")
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.shape[1:] != expected[1:]:
            raise ValueError(
                f"segments: frames must all be [T, H, W, 3] of one size, got {frames.shape} and {expected}"
            )
        if not all(1 <= t <= len(frames) for t in times):
            raise ValueError(f"times: {tuple(times)} do not lie within the {len(frames)} frames of a segment")
