"""Plots of a run: learning curves by steps and by wall clock, and the world model's error over its horizon."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diamond_fast.drawing import Axes, Figure, MaxNLocator, rc_context

STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "font.size": 10,
    "legend.frameon": False,
    "lines.markersize": 4,
}
FAINT, TESTED, TRAINED = "#8a8a90", "#1f5fa8", "#c2410c"
LOSSES = {"denoiser": "denoiser loss", "reward_end": "reward/end loss"}
BASELINE = "last real frame"
"""The curve of a model that would repeat the last frame it saw."""


class Band:
    """A mean and the half width of its 95 % interval (nan if there is none), by time.

    Args:
        mean, ci95: [K].
    """

    def __init__(self, mean: Sequence[float], ci95: Sequence[float]):
        self.mean = np.asarray(mean, float)
        self.ci95 = np.asarray(ci95, float)


def save_learning_curves(path: Path, lines: Sequence[Mapping[str, Any]]) -> Path:
    """Draw a run's returns, losses and policy entropy, once over environment steps and once over hours.

    Args:
        path: the file, PNG; its folder must exist.
        lines: of ``metrics.jsonl``.

    Returns:
        ``path``.
    """
    panels = [_draw_returns]
    panels += [_loss_panel(name) for name in LOSSES if any(f"{name}/loss" in line for line in lines)]
    if any("actor_critic/policy_entropy_bits" in line for line in lines):
        panels.append(_draw_entropy)
    hours = lines[-1]["seconds"] >= 2 * 3600 if lines else False
    clock = ("hours", 3600.0) if hours else ("minutes", 60.0)
    columns = (("environment steps", "env_steps", 1.0), (clock[0], "seconds", clock[1]))
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 2.6 * len(panels)), layout="constrained")
        axes = figure.subplots(len(panels), 2, squeeze=False, sharey="row", sharex="col")
        for row, draw in zip(axes, panels, strict=True):
            for ax, (_, key, unit) in zip(row, columns, strict=True):
                draw(ax, lines, key, unit)
            if row[0].get_legend_handles_labels()[1]:
                row[0].legend(fontsize=8)
        for ax, (label, *_) in zip(axes[-1], columns, strict=True):
            ax.set_xlabel(label)
        for ax in axes.flat:
            ax.label_outer()
        figure.savefig(path, dpi=110, format="png")
    return path


def save_error_curves(path: Path, curves: Mapping[str, Band], title: str = "") -> Path:
    """Draw how far imagined frames are from real ones after 1, 2, ... steps, with 95 % intervals.

    Args:
        path: the file, PNG; its folder must exist.
        curves: errors in grey levels by label; that of ``BASELINE`` is drawn dashed.
        title: above the plot.

    Returns:
        ``path``.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        ax = figure.subplots()
        for label, band in curves.items():
            t = np.arange(1, len(band.mean) + 1)
            baseline = label == BASELINE
            (line,) = ax.plot(
                t,
                band.mean,
                color=FAINT if baseline else None,
                linestyle="--" if baseline else "-",
                marker="o" if len(t) <= 30 and not baseline else None,
                label=label,
            )
            ax.fill_between(t, band.mean - band.ci95, band.mean + band.ci95, color=line.get_color(), alpha=0.18, lw=0)
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


def _draw_returns(ax: Axes, lines: Sequence[Mapping[str, Any]], key: str, unit: float) -> None:
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


def _loss_panel(name: str):
    def draw(ax: Axes, lines: Sequence[Mapping[str, Any]], key: str, unit: float) -> None:
        ax.plot(*points(lines, f"{name}/loss", key, unit), color=TRAINED, marker=".", label="training")
        x, loss = points(lines, f"{name}/held_out_loss", key, unit)
        if len(x):
            ax.plot(x, loss, color=TESTED, marker="o", label="test games")
        ax.set_yscale("log")
        ax.set_ylabel(LOSSES[name])

    return draw


def _draw_entropy(ax: Axes, lines: Sequence[Mapping[str, Any]], key: str, unit: float) -> None:
    ax.plot(*points(lines, "actor_critic/policy_entropy_bits", key, unit), color=TRAINED, marker=".")
    ax.set_ylabel("policy entropy (bits)")
