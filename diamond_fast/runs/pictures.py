"""Pictures that show what the world model imagines next to what really happened."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FRAME_WIDTH = 192
"""Least width of a frame in the picture, in pixels; frames grow by whole factors, so pixels stay square and sharp."""
GAP = 6
MARGIN = 24
BACKGROUND = (250, 250, 248)
INK = (40, 40, 44)
FAINT = (130, 130, 136)
ROWS = ("real", "imagined", "difference")


def pictured_times(horizon: int) -> list[int]:
    """The steps that are pictured: 1, 5, 10 and 15 as far as the horizon goes, and its last."""
    return sorted({t for t in (1, 5, 10, 15) if t <= horizon} | {horizon})


def save_frame_grid(
    path: Path,
    segments: Sequence[tuple[np.ndarray, np.ndarray]],
    times: Sequence[int],
    titles: Sequence[str] | None = None,
) -> Path:
    """Write one PNG with, for each segment, rows of real frames, imagined frames and their absolute difference.

    Args:
        path: the file; its folder must exist.
        segments: (real, imagined) pairs, each uint8 [T, H, W, 3]. Index t - 1 holds the t-th frame after the
            context that the imagination started from.
        times: columns, from 1 to T.
        titles: a line above each segment, such as where it was cut.

    Returns:
        ``path``.

    Raises:
        TypeError: frames that are not uint8.
        ValueError: shapes that do not match, or a time outside 1..T.
    """
    _check(segments, times, titles)
    height, width = segments[0][0].shape[1:3]
    scale = max(1, -(-FRAME_WIDTH // width))
    cell_w, cell_h = width * scale, height * scale
    font_size = 20
    font, title_font = ImageFont.load_default(font_size), ImageFont.load_default(font_size + 2)
    left = MARGIN + round(max(font.getlength(row) for row in ROWS)) + 16
    head = font_size + 14
    title_height = font_size + 22 if titles else 0
    block = title_height + head + 3 * cell_h + 2 * GAP
    size = (
        left + len(times) * (cell_w + GAP) - GAP + MARGIN,
        MARGIN + len(segments) * (block + MARGIN),
    )
    picture = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for number, (real, imagined) in enumerate(segments):
        top = MARGIN + number * (block + MARGIN)
        if titles:
            draw.text((left, top), titles[number], INK, title_font)
            top += title_height
        for column, t in enumerate(times):
            x = left + column * (cell_w + GAP)
            draw.text((x + cell_w / 2, top + head / 2), f"t = {t}", FAINT, font, anchor="mm")
            _paste_column(picture, (x, top + head), real[t - 1], imagined[t - 1], (cell_w, cell_h))
        for row, label in enumerate(ROWS):
            middle = top + head + row * (cell_h + GAP) + cell_h / 2
            draw.text((left - 16, middle), label, INK, font, anchor="rm")
    picture.save(path, format="PNG")
    return path


def save_gif(path: Path, segments: Sequence[tuple[np.ndarray, np.ndarray]], frames_per_second: float = 5.0) -> Path:
    """Write one GIF that plays, in a column for each segment, real frames above imagined ones above their difference.

    Args:
        path: the file; its folder must exist.
        segments: (real, imagined) pairs, each uint8 [T, H, W, 3], all of one T.
        frames_per_second: a GIF counts hundredths of a second; 15 Atari steps a second would be real time.

    Returns:
        ``path``.

    Raises:
        TypeError: frames that are not uint8.
        ValueError: shapes that do not match.
    """
    times = range(1, len(segments[0][0]) + 1) if segments else ()
    _check(segments, times, titles=None)
    height, width = segments[0][0].shape[1:3]
    scale = max(1, -(-FRAME_WIDTH // width))
    cell_w, cell_h = width * scale, height * scale
    font = ImageFont.load_default(20)
    left = MARGIN + round(max(font.getlength(row) for row in ROWS)) + 16
    head = MARGIN + 20
    size = (left + len(segments) * (cell_w + GAP) - GAP + MARGIN, head + 3 * (cell_h + GAP) - GAP + MARGIN)
    pages = []
    for t in times:
        page = Image.new("RGB", size, BACKGROUND)
        draw = ImageDraw.Draw(page)
        draw.text((left, head / 2), f"t = {t}", FAINT, font, anchor="lm")
        for row, label in enumerate(ROWS):
            draw.text((left - 16, head + row * (cell_h + GAP) + cell_h / 2), label, INK, font, anchor="rm")
        for column, (real, imagined) in enumerate(segments):
            _paste_column(page, (left + column * (cell_w + GAP), head), real[t - 1], imagined[t - 1], (cell_w, cell_h))
        pages.append(page)
    pause = round(1000 / frames_per_second)
    pages[0].save(
        path,
        format="GIF",
        save_all=True,
        append_images=pages[1:],
        duration=[*[pause] * (len(pages) - 1), 4 * pause],
        loop=0,
    )
    return path


def _paste_column(
    picture: Image.Image, corner: tuple[int, int], real: np.ndarray, imagined: np.ndarray, size: tuple[int, int]
) -> None:
    """Real frame, imagined frame and absolute difference below each other, each enlarged to ``size``."""
    difference = np.abs(real.astype(np.int16) - imagined).astype(np.uint8)
    for row, frame in enumerate((real, imagined, difference)):
        enlarged = Image.fromarray(np.ascontiguousarray(frame)).resize(size, Image.Resampling.NEAREST)
        picture.paste(enlarged, (corner[0], corner[1] + row * (size[1] + GAP)))


def _check(segments: Sequence, times: Sequence[int], titles: Sequence[str] | None) -> None:
    if not segments or not times:
        raise ValueError("segments and times: need at least one of each")
    if titles is not None and len(titles) != len(segments):
        raise ValueError(f"titles: {len(titles)} for {len(segments)} segments")
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
