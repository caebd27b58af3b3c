"""An evaluation's results: written down, drawn, and told in a few lines."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from diamond_fast.evaluation.compounding import Compounding
from diamond_fast.evaluation.faithfulness import boxed_frames
from diamond_fast.evaluation.open_loop import Predictions
from diamond_fast.evaluation.table8 import told
from diamond_fast.one_line import counted, one_line
from diamond_fast.runs.durable import strict_json, write_durably
from diamond_fast.runs.pictures import pictured_times, save_frame_grid, save_gif

NUM_PICTURED = 3


def write(folder: Path, results: dict[str, Any]) -> Path:
    """Write evaluation.json, in full or not at all, and return its path.

    Raises:
        OSError: the disk refused.
    """
    path = folder / "evaluation.json"
    write_durably(path, (strict_json(results, indent=2) + "\n").encode())
    return path


def draw(folder: Path, results: dict[str, Any], compounding: Compounding) -> tuple[list[Path], list[str]]:
    """Pictures of what was imagined.

    Returns:
        The files, and a line for each picture that could not be drawn, whatever the reason: none is worth the figures.
    """
    drawn, problems = [], []
    for name, save in _pictures(results, compounding).items():
        path = folder / name
        try:
            save(path)
            drawn.append(path)
        except Exception as error:
            with suppress(OSError):
                path.unlink()
            problems.append(f"{path}: not drawn: {getattr(error, 'strerror', None) or one_line(error)}")
    return drawn, problems


def _pictures(results: dict[str, Any], compounding: Compounding) -> dict[str, Callable[[Path], object]]:
    """What writes each picture to a path, by the file's name."""
    first = next(iter(compounding.predictions.values()))
    shown = np.linspace(0, len(first.real) - 1, min(NUM_PICTURED, len(first.real))).astype(int)
    segments = [(first.real[s], first.imagined[s]) for s in shown]
    return {
        "compounding_error.png": lambda path: _draw_error_curves(path, results, compounding),
        "strips.png": lambda path: save_frame_grid(path, segments, pictured_times(first.real.shape[1])),
        "imagined.gif": lambda path: save_gif(path, segments),
        "objects.png": lambda path: _draw_objects(path, results, first, compounding.beside),
    }


def _draw_error_curves(path: Path, results: dict[str, Any], compounding: Compounding) -> None:
    from diamond_fast.runs.plots import BASELINE, save_error_curves  # matplotlib: only once the figures are safe

    curves = {_steps(n): curve for n, curve in compounding.curves.items()}
    if compounding.beside is not None:
        curves |= {f"{_steps(n)}, beside": curve for n, curve in compounding.beside.curves.items()}
    curves[BASELINE] = compounding.unchanged
    bands = {label: (curve.mean_absolute, curve.mean_absolute_ci95) for label, curve in curves.items()}
    save_error_curves(path, bands, f"{results['game']}: {results['agent']}")


def _draw_objects(path: Path, results: dict[str, Any], predictions: Predictions, beside: Compounding | None) -> None:
    from diamond_fast.runs.boxes import save_boxed_frames  # matplotlib, as above

    title, rows, other = f"{results['game']}: {results['agent']}", 2, None
    if beside is not None:
        title, rows = f"{title}, beside {results['beside']['agent']}", 3
        other = next(iter(beside.predictions.values()))
    save_boxed_frames(path, boxed_frames(predictions, beside=other), title, rows)


def summary(results: dict[str, Any]) -> str:
    """The results in a few lines. None stands for what is not defined, as in the JSON."""
    lines = [f"{results['game']}: {results['agent']}"]
    if returns := results.get("returns"):
        interval = "" if returns["ci95"] is None else " (95 % interval)"
        games = counted(len(returns["returns"]), "game")
        lines.append(f"return: {_between(returns['mean'], returns['ci95'])}{interval}, {games}")
    if not (model := results.get("world_model")):
        return "\n".join(lines)
    held_out, quality = model["held_out"], model["reward_end"]
    lines.append(f"held-out: {held_out['steps']} steps in {held_out['episodes']} episodes ({held_out['source']})")
    if quality is None and model["denoiser_loss"] is not None:
        lines.append(f"denoiser loss: {model['denoiser_loss']:.4f}")
    for kind, classes in (("reward", ("-1", "+1")), ("end", ("ends",))) if quality else ():
        for name in classes:
            precision = _percent(quality[kind][f"precision/{name}"], "undefined (never predicted)")
            recall = _percent(quality[kind][f"recall/{name}"], "undefined (never occurred)")
            lines.append(f"{kind} {name}: precision {precision}, recall {recall}")
    if (errors := model["pixel_error"]) is None:
        lines.append("pixel error: no held-out episode is as long as context, --watched and --horizon together")
        return "\n".join(lines)
    lines += _about_errors(errors)
    for n, distances in model["perceptual"].items():
        if distances["lpips"] is not None:
            times = pictured_times(errors["horizon"])
            errors_at = ", ".join(f"{distances['lpips'][t - 1]:.3f}" for t in times)
            lines.append(f"LPIPS, {_steps(int(n))}: {errors_at} after as many steps")
        if distances["fid"] is not None:
            lines.append(f"FID, {_steps(int(n))}: {distances['fid']:.2f} ({distances['fid_frames']} frames)")
    lines += _about_objects(model["faithfulness"])
    for n, (plain, fast) in model["sampling"].items():
        rates = f"{plain['frames_per_second']:.1f}, with FastDenoiser ({fast['path']}) {fast['frames_per_second']:.1f}"
        where = f"in batches of {plain['batch_size']} ({results['device']})"
        lines.append(f"sampling, {_steps(int(n))}: {rates} frames/s {where}")
    if table := model.get("table8"):
        lines += told(table, results["device"])
    if beside := results.get("beside"):
        lines.append(f"beside: {beside['agent']}")
        lines += _about_errors(beside["pixel_error"]) + _about_objects(beside["faithfulness"])
    return "\n".join(lines)


def _about_errors(errors: dict[str, Any]) -> list[str]:
    times = pictured_times(errors["horizon"])
    seen = f", behind {watched} more that a memory sees" if (watched := errors.get("watched")) else ""
    lines = ["pixel error after " + ", ".join(map(str, times)) + f" imagined steps{seen}, in grey levels of 255:"]
    rows = {_steps(int(n)): curve for n, curve in errors["by_denoising_steps"].items()}
    for label, curve in (rows | {"the last real frame repeated": errors["unchanged"]}).items():
        shown = (_between(curve["mean_absolute"][t - 1], curve["mean_absolute_ci95"][t - 1]) for t in times)
        lines.append(f"  {label}: {', '.join(shown)}")
    return lines


def _about_objects(by_steps: dict[str, Any]) -> list[str]:
    lines = []
    for n, objects in by_steps.items():
        counted_events = (
            f"{what} {objects['imagined'][what]:.1f} (really {objects['real'][what]:.1f})" for what in objects["real"]
        )
        lines.append(f"small objects, {_steps(int(n))}: per 100 frames {', '.join(counted_events)}")
        if objects["digits_readable"] is not None:
            lines.append(f"score, {_steps(int(n))}: readable in {_percent(objects['digits_readable'], '')} of frames")
    return lines


def _between(mean: float, ci95: float | None) -> str:
    return f"{mean:.2f}" if ci95 is None else f"{mean:.2f} +- {ci95:.2f}"


def _steps(n: int) -> str:
    return counted(n, "denoising step")


def _percent(share: float | None, undefined: str) -> str:
    return undefined if share is None else f"{100 * share:.1f} %"
