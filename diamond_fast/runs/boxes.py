"""Frames with boxes around what is found in them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diamond_fast.drawing import Figure, Line2D, Rectangle, rc_context
from diamond_fast.runs.plots import STYLE

COLOURS = {"same": "#9ca3af", "appeared": "#22c55e", "vanished": "#ef4444", "changed": "#eab308"}


def save_boxed_frames(
    path: Path, shown: Sequence[tuple[str, np.ndarray, list[tuple[Any, str]]]], title: str, rows: int = 2
) -> Path:
    """Write a PNG of rows of frames.

    Args:
        path: the file; its folder must exist.
        shown: title, frame uint8 [H,W,C] and boxes (top, left, bottom, right) with a name of ``COLOURS``; row by row.
    """
    columns = len(shown) // rows
    with rc_context(STYLE):
        figure = Figure(figsize=(1 + 2.1 * columns, 0.8 + 2.3 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for ax, (name, frame, boxes) in zip(axes.flat, shown, strict=True):
            ax.imshow(frame, interpolation="nearest")
            for (top, left, bottom, right), what in boxes:
                place, size = (left - 1, top - 1), (right - left + 1, bottom - top + 1)
                ax.add_patch(
                    Rectangle(place, *size, fill=False, ec=COLOURS[what], lw=1.5, ls="-" if what != "vanished" else ":")
                )
            ax.set_title(name, fontsize=9)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.grid(False)
        handles = [Line2D([], [], color=colour, label=what) for what, colour in COLOURS.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9)
        figure.suptitle(title, fontsize=10)
        figure.savefig(path, dpi=110, format="png")
    return path
