"""What a study leaves: figures as JSON, pictures as PNG, and one page with all of it."""

import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from diamond_fast.drawing import Figure, rc_context
from diamond_fast.reporting.html import Cell, document, figure_of, table
from diamond_fast.runs.durable import strict_json, write_durably
from diamond_fast.runs.metrics import plain
from diamond_fast.runs.plots import STYLE


def write(
    out: Path,
    title: str,
    remarks: Sequence[str],
    results: Mapping[str, Any],
    pictures: Mapping[str, tuple[Figure, str]],
    head: Sequence[str],
    rows: Sequence[Sequence[Any]],
) -> Path:
    """Write results.json, each picture and index.html, in this order.

    Args:
        remarks: what a reader must know, one sentence or two each.
        pictures: by the file's name without its ending, with a caption.
        head, rows: of the page's table; cells are strings, or numbers to sort by.

    Returns:
        the page.

    Raises:
        OSError: the disk refused; each file is the new one or the one before, never a part.
    """
    write_durably(out / "results.json", (strict_json(plain(results), indent=2) + "\n").encode())
    figures = []
    for name, (figure, caption) in pictures.items():
        png = as_png(figure)
        write_durably(out / f"{name}.png", png)
        figures.append(figure_of(png, "png", name, escape(caption)))
    cells = [("", [_cell(value) for value in row]) for row in rows]
    body = f"""<h1>{escape(title)}</h1>
<ul class="remarks">{"".join(f"<li>{escape(remark)}</li>" for remark in remarks)}</ul>
{"".join(figures)}
<h2>Figures</h2>
<p class="note">Press a heading to sort. All figures are in results.json.</p>
{table([(name, "ascending") for name in head], cells)}
"""
    write_durably(out / "index.html", document(escape(title), body).encode())
    return out / "index.html"


def as_png(figure: Figure) -> bytes:
    content = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(content, format="png", dpi=110)
    return content.getvalue()


def strips(rows: Mapping[str, np.ndarray], columns: Sequence[str]) -> Figure:
    """Frames in rows, uint8 [P,H,W,C] by label, under the columns' titles."""
    with rc_context(STYLE):
        figure = Figure(figsize=(1.2 + 1.15 * len(columns), 0.4 + 1.2 * len(rows)), layout="constrained")
        axes = figure.subplots(len(rows), len(columns), squeeze=False)
        for line, (label, frames) in zip(axes, rows.items(), strict=True):
            for ax, frame in zip(line, frames, strict=True):
                ax.imshow(frame, interpolation="nearest")
                ax.set_xticks([])
                ax.set_yticks([])
                ax.grid(False)
            line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
        for ax, title in zip(axes[0], columns, strict=True):
            ax.set_title(title, fontsize=8)
    return figure


def shown(mean: float, half: float) -> str:
    """A mean and half the width of its interval, if it has one."""
    return f"{mean:.2f}" if np.isnan(half) else f"{mean:.2f} ± {half:.2f}"


def _cell(value: Any) -> Cell:
    if isinstance(value, tuple):  # what is shown, and what it is sorted by
        return Cell(escape(value[0]), value[1])
    return Cell(f"{value:.3f}" if isinstance(value, float) else escape(str(value)), value)
