"""How cost grows: one picture a machine, a panel for each quantity that was measured over several sizes."""

from pathlib import Path
from typing import NamedTuple

from pages.document import Document, Row


class Panel(NamedTuple):
    """Rows of a stem over one part of their case."""

    title: str
    stem: str
    over: str
    only: dict[str, object]
    memory: bool = False
    """The GPU's peak memory instead of the figure."""


PANELS = [
    Panel("Denoiser, 3 steps", "denoiser", "batch", {"steps": 3}),
    Panel("Denoiser update", "denoiser update over batch", "batch", {}),
    Panel("Denoiser update, memory", "denoiser update over batch", "batch", {}, memory=True),
    Panel("Reward/end update", "reward/end update over sequence length", "frames", {}),
    Panel("Replay", "replay over buffer size", "steps", {}),
]


def measured_panels(document: Document) -> list[Panel]:
    """Those that were measured at two sizes or more."""
    return [panel for panel in PANELS if _points(document, panel)]


def save_plot(document: Document, path: Path) -> None:
    """Draws all measured panels, of which there has to be one."""
    from diamond_fast.drawing import Figure, NullFormatter

    panels = [(panel, _points(document, panel)) for panel in measured_panels(document)]
    figure = Figure(figsize=(3.6 * len(panels), 3.2), layout="constrained")
    for axes, (panel, points) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, line in points.items():
            xs, ys, lows, highs = zip(*line, strict=True)
            axes.plot(xs, ys, marker="o", markersize=3, label=name)
            axes.fill_between(xs, lows, highs, alpha=0.2)
        unit = "MB" if panel.memory else _rows(document, panel)[0]["unit"]
        axes.set(xscale="log", yscale="log", title=panel.title, xlabel=panel.over, ylabel=unit)
        sizes = sorted({point[0] for line in points.values() for point in line})
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
        if len(points) > 1:
            axes.legend(fontsize=7)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _rows(document: Document, panel: Panel) -> list[Row]:
    rows = [r for r in document["rows"] if r["stem"] == panel.stem and panel.only.items() <= r["case"].items()]
    return sorted(rows, key=lambda row: row["case"][panel.over])


def _points(document: Document, panel: Panel) -> dict[str, list[tuple[float, float, float, float]]]:
    """By candidate: size, median and spread, of those measured at two sizes or more."""
    lines: dict[str, list[tuple[float, float, float, float]]] = {}
    for row in _rows(document, panel):
        x = row["case"][panel.over]
        if panel.memory:
            for name, mb in row.get("gpu", {}).get("peak_mb", {}).items():
                lines.setdefault(name, []).append((x, mb, mb, mb))
        else:
            for name, f in row["figures"].items():
                lines.setdefault(name, []).append((x, f["median"], f["low"], f["high"]))
    return {name: line for name, line in lines.items() if len(line) > 1}
