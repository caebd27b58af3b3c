"""Quality against evaluations of the network and against seconds, for every sampler that world models have."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from diamond_fast.one_line import counted
from diamond_fast.settings import PositiveInt
from diamond_fast.studies.trained import OfTrained

if TYPE_CHECKING:  # torch is slow to import, and --help needs none of it
    import torch

    from diamond_fast.drawing import Figure
    from diamond_fast.formulations.config import StepsConfig
    from diamond_fast.replay import Replay
    from diamond_fast.runs.agents import TrainedAgent
    from diamond_fast.runs.signals import StopSignals


@dataclass(frozen=True)
class Nfe(OfTrained):
    """What a frame's quality costs: errors of imagined trajectories against evaluations and seconds for each frame.

    The world models that a study of drift has trained:
        python -m diamond_fast.study nfe --data studies/drift/data/held_out.journal --runs studies/drift
    """

    QUICK: ClassVar[Mapping[str, Any]] = {"denoising_steps": (1, 3), "horizon": 10, "trajectories": 8}
    MAY_GROW: ClassVar[tuple[str, ...]] = ("denoising_steps",)

    horizon: PositiveInt = 100
    """Number of frames imagined from each start."""
    trajectories: PositiveInt = 32
    """Number of starts in the episodes."""


@dataclass(frozen=True)
class Task:
    args: Nfe
    out: Path
    agents: "dict[str, TrainedAgent]"
    replay: "Replay"
    starts: list[tuple[int, int]]

    def todo(self) -> "list[tuple[str, str, StepsConfig, Path]]":
        """Run, sampler, its settings, and where its figures are kept."""
        found = []
        for run, trained in self.agents.items():
            for n in self.args.denoising_steps:
                for sampler, steps in samplers(trained.config.formulation, trained, n).items():
                    found.append(
                        (
                            run,
                            sampler,
                            steps,
                            self.out / "measured" / f"{run}-{sampler.replace(', ', '-')}-{n}steps.json",
                        )
                    )
        return found


def samplers(formulation: str, trained: "TrainedAgent", n: int) -> "dict[str, StepsConfig]":
    """By name: the formulation's own, and each order of those that have one."""
    steps = trained.config.world_model.with_denoising_steps(n).sampler
    if not hasattr(steps, "order"):
        return {formulation: steps}
    return {f"{formulation}, {name}": replace(steps, **{"order": i}) for i, name in ((1, "Euler"), (2, "Heun"))}


def set_up(args: Nfe, out: Path) -> Task:
    """Raises ValueError, OSError: what is asked for does not fit together."""
    from diamond_fast.studies.data import starts_of
    from diamond_fast.studies.trained import load_all

    agents, replay = load_all(args)
    context = next(iter(agents.values())).agent.spec.context
    return Task(args, out, agents, replay, starts_of(replay, context, args.horizon, args.trajectories))


def run(task: Task, device: "torch.device", stop: "StopSignals") -> Path:
    """Measure what is not measured yet, and write the page. Returns the page. Raises OSError, Stopped."""
    from diamond_fast.evaluation.sampling_rate import frames_per_second
    from diamond_fast.frames import to_float
    from diamond_fast.runs.durable import strict_json, write_durably
    from diamond_fast.runs.progress import Progress
    from diamond_fast.studies.trained import sampler_of
    from diamond_fast.studies.trajectories import imagine

    args, todo = task.args, [unit for unit in task.todo() if not unit[-1].exists()]
    (task.out / "measured").mkdir(exist_ok=True)
    frames = len(task.starts) * args.horizon
    plan = {"imagine": frames * sum(steps.num_evaluations for _, _, steps, _ in todo)}
    with Progress(len(todo), plan, unit="measurement") as progress:
        for name, sampler_name, steps, file in todo:
            trained, batch_size = task.agents[name], min(args.batch_size, len(task.starts))
            context = trained.agent.spec.context
            sampler: Any = sampler_of(trained, steps, args, batch_size, device)
            with progress.phase("imagine", frames * steps.num_evaluations) as phase:
                imagined, _ = imagine(
                    sampler,
                    task.replay,
                    task.starts,
                    context,
                    args.horizon,
                    [1],
                    args.seed,
                    batch_size,
                    device,
                    lambda count, each=steps.num_evaluations: phase.advance(count * each),  # type: ignore[misc]
                )
            batch = task.replay.cut(task.starts[:batch_size], context)
            rate = frames_per_second(sampler, to_float(batch.frames.to(device)), batch.act.to(device), 1.0)
            figures = {
                "run": name,
                "sampler": sampler_name,
                "denoising_steps": steps.num_steps,
                "evaluations": steps.num_evaluations,
                "seconds_per_frame": 1 / rate,
                "batch_size": batch_size,
                "error": float(imagined.errors.mean()),
            }
            write_durably(file, strict_json(figures).encode())
            progress.epoch_done(
                f"{name}, {sampler_name}, {counted(steps.num_steps, 'step')}: {figures['error']:.2f} grey levels"
            )
    return _write(task, device)


def _write(task: Task, device: "torch.device") -> Path:
    from diamond_fast.runs.durable import parse_json
    from diamond_fast.studies import output

    measured = [parse_json(file.read_bytes()) for *_, file in task.todo()]
    points = summary(measured)
    args = task.args
    results = {
        "study": "nfe",
        "unit": "grey levels of 255, mean absolute difference from the real frame over the horizon",
        "trajectories": len(task.starts),
        "horizon": args.horizon,
        "batch_size": args.batch_size,
        "device": str(device),
        "points": points,
        "measured": measured,
    }
    caption = (
        "Mean over runs, with 95 % intervals over them. Ringed: no other sampler is at least as good and as cheap. "
        "Down and to the left is better."
    )
    head = ["Sampler", "Steps", "Evaluations", "ms a frame", "Error, 95 % over runs", "Best for its cost"]
    rows = [
        [
            p["sampler"],
            p["denoising_steps"],
            p["evaluations"],
            1000 * p["seconds_per_frame"],
            (output.shown(p["error"], p["ci95_over_runs"]), p["error"]),
            "yes" if p["on_front"] else "",
        ]
        for p in points
    ]
    remarks = [
        f"{len(task.agents)} world models, {len(task.starts)} trajectories of {args.horizon} frames.",
        f"Seconds are of next frames drawn in batches of up to {args.batch_size} on {device} of this machine: medians.",
    ]
    pictures = {"pareto": (pareto(points), caption)}
    return output.write(task.out, "Quality against evaluations", remarks, results, pictures, head, rows)


def summary(measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A point for each sampler and number of steps, over runs; ``on_front``: none is as cheap and as good."""
    import numpy as np

    from diamond_fast.evaluation.intervals import ci95

    points = []
    for sampler, n in dict.fromkeys((m["sampler"], m["denoising_steps"]) for m in measured):
        of = [m for m in measured if (m["sampler"], m["denoising_steps"]) == (sampler, n)]
        errors = np.array([m["error"] for m in of])
        seconds = float(np.mean([m["seconds_per_frame"] for m in of]))
        points.append(
            {
                "sampler": sampler,
                "denoising_steps": n,
                "evaluations": of[0]["evaluations"],
                "seconds_per_frame": seconds,
                "error": float(errors.mean()),
                "ci95_over_runs": float(ci95(errors)),
            }
        )
    for p in points:
        p["on_front"] = not any(
            q["evaluations"] <= p["evaluations"]
            and q["error"] <= p["error"]
            and (q["evaluations"], q["error"]) != (p["evaluations"], p["error"])
            for q in points
        )
    return points


def pareto(points: list[dict[str, Any]]) -> "Figure":
    """Errors against evaluations, and against milliseconds a frame."""
    import numpy as np

    from diamond_fast.drawing import Figure, rc_context
    from diamond_fast.runs.plots import STYLE

    with rc_context(STYLE):
        figure = Figure(figsize=(10, 4), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for ax, key, unit, label in (
            (axes[0], "evaluations", 1, "evaluations a frame"),
            (axes[1], "seconds_per_frame", 1000, "ms a frame"),
        ):
            for sampler in dict.fromkeys(p["sampler"] for p in points):
                of = sorted((p for p in points if p["sampler"] == sampler), key=lambda p: p["denoising_steps"])
                half = np.nan_to_num([p["ci95_over_runs"] for p in of])
                x = [unit * p[key] for p in of]
                ax.errorbar(x, [p["error"] for p in of], half, marker="o", capsize=2, label=sampler)
            best = [p for p in points if p["on_front"]] if key == "evaluations" else []
            ax.plot([p[key] for p in best], [p["error"] for p in best], "o", ms=11, mfc="none", mec="black")
            ax.set_xlim(left=0)
            ax.set_xlabel(label)
        axes[0].set_ylabel("mean absolute error (grey levels)")
        axes[0].legend(fontsize=8)
    return figure
