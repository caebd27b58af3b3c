"""The figures behind the study of architectures: means, intervals, and the pictures of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diamond_fast.drawing import Figure, rc_context
from diamond_fast.evaluation.intervals import ci95
from diamond_fast.runs.plots import STYLE
from diamond_fast.studies import output

QUALITIES = ("error", "fid", "fvd", "lpips", "random_network_frechet", "colour_frechet")
"""Lower is better. None where it is not measured."""

Key = tuple[str, int, int]
"""Network, context length, denoising steps."""


def summary(
    measured: Mapping[Key, Sequence[Mapping[str, Any]]], costs: Mapping[tuple[str, int], Mapping[str, int]]
) -> dict[str, Any]:
    """Means and intervals of what was measured.

    Args:
        measured: rows of table 8, with the error, one a training seed.
        costs: by network and context length.

    Returns:
        ``rows``: for each key its costs, and each quality's mean with its 95 % interval over training seeds;
        ``comparisons``: each other network's error minus the first one's, seed by seed; ``remarks`` in words.
    """
    rows, comparisons, remarks = [], [], []
    for (network, context, n), of_seeds in measured.items():
        row: dict[str, Any] = {"network": network, "context": context, "denoising_steps": n}
        row |= costs[network, context]
        for quality in QUALITIES:
            values = [m[quality] for m in of_seeds]
            known = np.array([v for v in values if v is not None], np.float64)
            row[quality] = None if len(known) < len(values) else _interval(known)
        row["parameters"] = of_seeds[0]["parameters"]
        row["frames_per_second"] = max(m["frames_per_second"] for m in of_seeds)
        row["processor_seconds_per_frame"] = min(m["processor_seconds_per_frame"] for m in of_seeds)
        rows.append(row)
    first = next(iter(measured))[0]
    for (network, context, n), of_seeds in measured.items():
        if network == first:
            continue
        pairs = zip(of_seeds, measured[first, context, n], strict=True)
        difference = _interval(np.array([a["error"] - b["error"] for a, b in pairs]))
        of_what = {"network": network, "minus": first, "context": context, "denoising_steps": n}
        comparisons.append({**of_what, "error": difference})
        mean, half = difference["mean"], difference["ci95_over_train_seeds"]
        remarks.append(
            f"{network} minus {first}, {context} past frames, n = {n}: {output.shown(mean, half)} grey levels "
            f"({_verdict(network, first, mean, half)})."
        )
    return {"rows": rows, "comparisons": comparisons, "remarks": remarks}


def _interval(by_seed: np.ndarray) -> dict[str, Any]:
    return {"mean": by_seed.mean(), "ci95_over_train_seeds": float(ci95(by_seed)), "by_train_seed": by_seed}


def _verdict(network: str, first: str, mean: float, half: float) -> str:
    """What the interval over training seeds allows to say."""
    if np.isnan(half):
        return "one training seed: no interval"
    if abs(mean) <= half:
        return "within the 95 % interval over training seeds: undecided"
    return f"{network if mean < 0 else first} is nearer to the real frames; 95 % interval over training seeds"


def curves(results: Mapping[str, Any]) -> Figure:
    """Error, milliseconds a frame and megabytes over the context's length, a line for each network."""
    with rc_context(STYLE):
        figure = Figure(figsize=(12, 3.8), layout="constrained")
        axes = figure.subplots(1, 3)
        steps = max(row["denoising_steps"] for row in results["rows"])
        for network in dict.fromkeys(row["network"] for row in results["rows"]):
            of = [r for r in results["rows"] if (r["network"], r["denoising_steps"]) == (network, steps)]
            of.sort(key=lambda row: row["context"])
            contexts, errors = [row["context"] for row in of], [row["error"] for row in of]
            half = np.nan_to_num([error["ci95_over_train_seeds"] for error in errors])
            axes[0].errorbar(contexts, [e["mean"] for e in errors], half, marker="o", capsize=2, label=network)
            axes[1].plot(contexts, [1000 / row["frames_per_second"] for row in of], marker="o")
            (line,) = axes[2].plot(contexts, [row["training_bytes"] / 1e6 for row in of], marker="o")
            remembered = [row["remembered_bytes"] / 1e6 or np.nan for row in of]  # a logarithm has no zero
            axes[2].plot(contexts, remembered, marker="o", ls="--", color=line.get_color())
        axes[0].set_ylabel("mean absolute error (grey levels)")
        axes[0].legend(fontsize=8)
        axes[1].set_ylabel(f"ms a frame, {steps} steps, one after the other")
        axes[2].set_ylabel("MB a sequence")
        axes[2].set_yscale("log")
        for ax in axes:
            ax.set_xlabel("past frames")
            ax.set_xticks(sorted({row["context"] for row in results["rows"]}))
        for ax in axes[:2]:
            ax.set_ylim(bottom=0)
    return figure


def strips_of(measured: Mapping[Key, Sequence[Mapping[str, Any]]], real: np.ndarray, context: int) -> Figure:
    """The real frames of a video [P,H,W,C], and what each network's first world model makes of them."""
    steps = max(n for _, _, n in measured)
    strips = {
        network: np.array(of_seeds[0]["strip"], np.uint8)
        for (network, seen, n), of_seeds in measured.items()
        if (seen, n) == (context, steps)
    }
    return output.strips({"real": real} | strips, [""] * len(real))


def summary_table(results: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Head and rows, as in table 8; what is not measured is left out."""
    names = {"error": "Error", "fid": "FID", "fvd": "FVD", "lpips": "LPIPS"}
    names |= {"random_network_frechet": "Random 3-D network", "colour_frechet": "Colours"}
    shown = [quality for quality in QUALITIES if results["rows"][0][quality] is not None]
    head = ["Network", "Past frames", "Steps", *(names[q] for q in shown), "ms a frame", "MB remembered"]
    head += ["MB in training", "MFLOP", "Parameters"]
    rows = []
    for row in results["rows"]:
        qualities = [(output.shown(row[q]["mean"], row[q]["ci95_over_train_seeds"]), row[q]["mean"]) for q in shown]
        memory = [row["remembered_bytes"] / 1e6, row["training_bytes"] / 1e6]
        which = [row["network"], row["context"], row["denoising_steps"]]
        speed = 1000 / row["frames_per_second"]
        rows.append([*which, *qualities, speed, *memory, row["operations"] / 1e6, row["parameters"]])
    return head, rows
