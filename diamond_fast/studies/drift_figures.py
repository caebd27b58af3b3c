"""The figures behind the study of drift: means, intervals, and the pictures of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diamond_fast.drawing import Figure, MaxNLocator, rc_context
from diamond_fast.evaluation.intervals import ci95
from diamond_fast.runs.plots import FAINT, STYLE
from diamond_fast.studies.output import shown


def summary(errors: Mapping[tuple[str, int], Sequence[np.ndarray]], unchanged: np.ndarray) -> dict[str, Any]:
    """Means and intervals of what was measured.

    Args:
        errors: by formulation and denoising steps, for each training seed, of S trajectories of K frames: [S,K].
        unchanged: [S,K] of the last real frame repeated.

    Returns:
        ``models``: for each formulation and number of steps the curve [K] with its 95 % intervals over trajectories
        (of their means over training seeds) and over training seeds (of their means over trajectories), and the same
        of the mean over all frames; ``comparisons``: the first formulation with the fewest steps minus each other one
        with the most, seed by seed; ``unchanged`` [K]; ``remarks`` in words.
    """
    models = []
    for (name, n), of_seeds in errors.items():
        stacked = np.stack(of_seeds).astype(np.float64)  # [seeds, S, K]
        by_seed = stacked.mean(axis=(1, 2))
        models.append(
            {
                "formulation": name,
                "denoising_steps": n,
                "mean": stacked.mean(axis=(0, 1)),
                "ci95_over_trajectories": ci95(stacked.mean(axis=0)),
                "ci95_over_train_seeds": ci95(stacked.mean(axis=1)),
                "over_horizon": {
                    "mean": by_seed.mean(),
                    "by_train_seed": by_seed,
                    "ci95_over_trajectories": ci95(stacked.mean(axis=(0, 2))),
                    "ci95_over_train_seeds": ci95(by_seed),
                },
            }
        )
    comparisons, remarks = [], []
    first, few, many = models[0]["formulation"], min(n for _, n in errors), max(n for _, n in errors)
    of = {(m["formulation"], m["denoising_steps"]): m["over_horizon"]["by_train_seed"] for m in models}
    for other in dict.fromkeys(name for name, _ in errors):
        if other == first:
            continue
        difference = of[first, few] - of[other, many]
        mean, half = float(difference.mean()), float(ci95(difference))
        comparisons.append(
            {
                "less": [first, few],
                "more": [other, many],
                "difference": mean,
                "ci95_over_train_seeds": half,
                "by_train_seed": difference,
            }
        )
        remarks.append(
            f"{first} with {few} minus {other} with {many} denoising steps: {shown(mean, half)} grey levels over the "
            f"horizon ({_verdict(first, few, other, many, mean, half)})."
        )
    return {"models": models, "comparisons": comparisons, "unchanged": unchanged.mean(axis=0), "remarks": remarks}


def _verdict(first: str, few: int, other: str, many: int, mean: float, half: float) -> str:
    """What the interval over training seeds allows to say."""
    if np.isnan(half):
        return "one training seed: no interval"
    if abs(mean) <= half:
        return "within the 95 % interval over training seeds: undecided"
    winner = f"{first} with {few}" if mean < 0 else f"{other} with {many}"
    return f"{winner} is nearer to the real frames; 95 % interval over training seeds"


def curves(results: Mapping[str, Any]) -> Figure:
    """A panel for each formulation, a curve for each number of steps, and the means over the horizon by steps."""
    names = list(dict.fromkeys(m["formulation"] for m in results["models"]))
    with rc_context(STYLE):
        figure = Figure(figsize=(3.6 * (len(names) + 1), 3.6), layout="constrained")
        axes = figure.subplots(1, len(names) + 1, squeeze=False, sharey=True)[0]
        for ax, name in zip(axes, names, strict=False):
            for m in (m for m in results["models"] if m["formulation"] == name):
                t, half = np.arange(1, len(m["mean"]) + 1), np.nan_to_num(m["ci95_over_trajectories"])
                (line,) = ax.plot(t, m["mean"], label=f"n = {m['denoising_steps']}")
                ax.fill_between(t, m["mean"] - half, m["mean"] + half, color=line.get_color(), alpha=0.18, lw=0)
            ax.plot(t, results["unchanged"], color=FAINT, ls="--")
            ax.set_title(name)
            ax.set_xlabel("imagined steps")
            ax.legend(fontsize=8)
        axes[0].set_ylabel("mean absolute error (grey levels)")
        for name in names:
            over = [(m["denoising_steps"], m["over_horizon"]) for m in results["models"] if m["formulation"] == name]
            half = np.nan_to_num([o["ci95_over_train_seeds"] for _, o in over])
            axes[-1].errorbar(
                [n for n, _ in over], [o["mean"] for _, o in over], half, marker="o", capsize=2, label=name
            )
        axes[-1].set_title("mean over the horizon")
        axes[-1].set_xlabel("denoising steps n (95 % over training seeds)")
        axes[-1].set_ylim(bottom=0)
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[-1].legend(fontsize=8)
    return figure


def summary_table(results: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Head and rows: a row for each formulation and number of steps."""
    last = len(results["unchanged"])
    head = ["Formulation", "Steps", "Mean error, 95 % over training seeds", "95 % over trajectories", f"At t = {last}"]
    rows = []
    for m in results["models"]:
        over = m["over_horizon"]
        mean, of_trajectories = over["mean"], float(over["ci95_over_trajectories"])
        error = shown(mean, over["ci95_over_train_seeds"]), mean
        rows.append([m["formulation"], m["denoising_steps"], error, of_trajectories, float(m["mean"][-1])])
    return head, rows
