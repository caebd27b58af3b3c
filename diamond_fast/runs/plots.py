"""Plots of a run: learning curves by steps and by wall clock, and the world model's error over its horizon."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # slow to import, and training can do without
    from diamond_fast.drawing import Axes

STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "font.size": 10,
    "legend.frameon": False,
    "lines.markersize": 4,
}
FAINT, TESTED, TRAINED = "#8a8a90", "#1f5fa8", "#c2410c"
PANELS: tuple[tuple[str, str, str | None], ...] = (
    ("denoiser loss", "denoiser/loss", "denoiser/held_out_loss"),
    ("reward/end loss", "reward_end/loss", "reward_end/held_out_loss"),
    ("policy entropy (bits)", "actor_critic/policy_entropy_bits", None),
)
"""Label, figure in training, and the same on test games; drawn if training has logged it. Losses are logarithmic."""
BASELINE = "last real frame"
"""The curve of a model that would repeat the last frame it saw."""


def save_learning_curves(path: Path, lines: Sequence[Mapping[str, Any]]) -> Path:
    """Draw a run's returns, losses and policy entropy, once over environment steps and once over the clock.

    A run from a recording takes no steps: over the clock alone.

    Args:
        path: the file, PNG; its folder must exist.
        lines: of ``metrics.jsonl``.

    Returns:
        ``path``.
    """
    from diamond_fast.drawing import Figure, rc_context

    panels = [panel for panel in PANELS if any(panel[1] in line for line in lines)]
    hours = bool(lines) and lines[-1]["seconds"] >= 2 * 3600
    abscissae = [("hours", "seconds", 3600.0) if hours else ("minutes", "seconds", 60.0)]
    if len(lines) < 2 or lines[0]["env_steps"] != lines[-1]["env_steps"]:
        abscissae.insert(0, ("environment steps", "env_steps", 1.0))
    with rc_context(STYLE):
        figure = Figure(figsize=(4 + 3 * len(abscissae), 2.6 * (1 + len(panels))), layout="tight")
        axes = figure.subplots(1 + len(panels), len(abscissae), squeeze=False, sharey="row", sharex="col")
        for column, (label, key, unit) in zip(axes.T, abscissae, strict=True):
            _draw_returns(column[0], lines, key, unit)
            for ax, panel in zip(column[1:], panels, strict=True):
                _draw_panel(ax, panel, lines, key, unit)
            column[-1].set_xlabel(label)
        for first, *others in axes:
            if first.get_legend_handles_labels()[1]:
                first.legend(fontsize=8)
            for other in others:
                other.set_ylabel("")
        figure.savefig(path, dpi=110, format="png")
    return path


def save_error_curves(path: Path, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str = "") -> Path:
    """Draw how far imagined frames are from real ones after 1, 2, ... steps, with 95 % intervals.

    Args:
        path: the file, PNG; its folder must exist.
        curves: by label, errors [K] in grey levels and the half widths [K] of their intervals, nan if there are none.
            That of ``BASELINE`` is drawn dashed.
        title: above the plot.

    Returns:
        ``path``.
    """
    from diamond_fast.drawing import Figure, MaxNLocator, rc_context

    with rc_context(STYLE):
        figure = Figure(figsize=(7, 4.2), layout="tight")
        ax = figure.subplots()
        for label, (mean, ci95) in curves.items():
            t = np.arange(1, len(mean) + 1)
            style = {"color": FAINT, "ls": "--"} if label == BASELINE else {"marker": "o" if len(t) <= 30 else None}
            (line,) = ax.plot(t, mean, label=label, **style)
            ax.fill_between(t, mean - ci95, mean + ci95, color=line.get_color(), alpha=0.18, lw=0)
        ax.set_ylim(bottom=0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("imagined steps after the last real frame")
        ax.set_ylabel("mean absolute error (grey levels of 255)")
        ax.set_title(title, fontsize=10)
        ax.legend(fontsize=9)
        figure.savefig(path, dpi=110, format="png")
    return path


def points(lines: Sequence[Mapping[str, Any]], name: str, x: str, unit: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Where a figure was logged: float64 x / unit and values, in the order of the lines."""
    found = [(line[x] / unit, line[name]) for line in lines if line.get(name) is not None]
    xs, ys = zip(*found, strict=True) if found else ((), ())
    return np.array(xs, float), np.array(ys, float)


def _draw_returns(ax: "Axes", lines: Sequence[Mapping[str, Any]], key: str, unit: float) -> None:
    x, collected = points(lines, "collect/return_mean", key, unit)
    if len(x):
        ax.plot(x, collected, color=FAINT, lw=1, alpha=0.8, label="collected")
    for name, marker, label in (("test", "o", "test games, 95 % interval"), ("final_test", "D", "final test")):
        tests = [line for line in lines if line.get(f"{name}/return_mean") is not None]
        if tests:
            x, mean = points(tests, f"{name}/return_mean", key, unit)
            half = [line.get(f"{name}/return_ci95") or 0.0 for line in tests]  # a single game has no interval
            ax.errorbar(x, mean, half, color=TESTED, marker=marker, capsize=2, lw=1.5, label=label)
    ax.set_ylabel("return")


def _draw_panel(
    ax: "Axes", panel: tuple[str, str, str | None], lines: Sequence[Mapping[str, Any]], key: str, unit: float
) -> None:
    label, trained, tested = panel
    ax.set_ylabel(label)
    name = "training" if tested else None
    ax.plot(*points(lines, trained, key, unit), color=TRAINED, marker=".", label=name)
    if tested:
        ax.set_yscale("log")
        x, loss = points(lines, tested, key, unit)
        if len(x):
            ax.plot(x, loss, color=TESTED, marker="o", label="test games")
