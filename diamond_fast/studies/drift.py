"""Drift: how far imagined trajectories leave the real ones, by formulation and denoising steps (figures 3 and 8)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from tyro.conf import arg

from diamond_fast.one_line import counted
from diamond_fast.settings import Length, PositiveInt
from diamond_fast.studies.settings import StudyFlags, users_input

if TYPE_CHECKING:  # torch is slow to import, and --help needs none of it
    import torch

    from diamond_fast.config import RunConfig
    from diamond_fast.replay import Replay
    from diamond_fast.runs.signals import StopSignals


@dataclass(frozen=True)
class Drift(StudyFlags):
    """Train formulations side by side and compare how imagined trajectories drift from held-out real ones.

    On the experience of a run, in minutes:
        python -m diamond_fast.study drift --data runs/catch --quick

    As in the paper, on a GPU:
        python -m diamond_fast.study drift --data breakout.journal --formulations edm ddpm --updates 50000
    """

    QUICK: ClassVar[Mapping[str, Any]] = {
        "preset": "quick",
        "updates": 40,
        "train_seeds": 2,
        "denoising_steps": (1, 3),
        "horizon": 15,
        "trajectories": 4,
    }

    MAY_GROW: ClassVar[tuple[str, ...]] = ("formulations", "train_seeds", "denoising_steps")

    held_out: Annotated[Path | None, arg(metavar="PATH")] = None
    """Judge on this recording. If not given, every fifth episode of --data is held out."""
    formulations: tuple[str, ...] = ("edm", "ddpm", "flow")
    """What is compared; the first one with the others."""
    preset: Annotated[str, arg(metavar="NAME")] = "atari100k"
    """The network and how it is trained, as python -m diamond_fast.train --preset has them."""
    updates: PositiveInt = 20_000
    """Number of updates of each world model."""
    train_seeds: Length = 3
    """Number of world models of each formulation, trained with other seeds."""
    horizon: PositiveInt = 1000
    """Number of frames imagined from each start."""
    trajectories: PositiveInt = 100
    """Number of starts in the held-out episodes."""

    def check(self) -> None:
        super().check()
        from diamond_fast.config import of_kind
        from diamond_fast.presets import PRESETS
        from diamond_fast.registry import find
        from diamond_fast.studies.side_by_side import check_formulations

        check_formulations(self.formulations)
        cfg = find(PRESETS, "--preset", self.preset)
        for name in self.formulations:
            for count in self.denoising_steps:
                of_kind(cfg, name, cfg.network).world_model.with_denoising_steps(count)


@dataclass(frozen=True)
class Task:
    """A study that can begin."""

    args: Drift
    out: Path
    held_out: "Replay"
    starts: list[tuple[int, int]]
    configs: "dict[tuple[str, int], RunConfig]"
    """By formulation and training seed."""

    @property
    def context(self) -> int:
        return next(iter(self.configs.values())).denoiser.inner_model.num_steps_conditioning

    @property
    def times(self) -> list[int]:
        """Steps that are pictured."""
        from diamond_fast.studies.trajectories import pictured_times

        return pictured_times(self.args.horizon)

    def run_of(self, formulation: str, seed: int) -> Path:
        return self.out / "runs" / f"{formulation}-seed{seed}"

    def measured(self, formulation: str, seed: int, steps: int) -> Path:
        return self.out / "measured" / f"{formulation}-seed{seed}-{steps}steps.npz"


def set_up(args: Drift, out: Path) -> Task:
    """Raises ValueError, OSError: the data does not fit what is asked for."""
    from diamond_fast.replay import load_recording
    from diamond_fast.studies import side_by_side
    from diamond_fast.studies.data import split, starts_of

    assert args.data is not None  # checked
    recordings = split(args.data, args.held_out, out / "data")
    held_out = load_recording(recordings[1])
    configs = {
        (name, seed): side_by_side.run_config(args.preset, name, seed, args.updates, recordings, args.engine)
        for seed in range(args.train_seeds)
        for name in args.formulations
    }
    context = next(iter(configs.values())).denoiser.inner_model.num_steps_conditioning
    return Task(args, out, held_out, starts_of(held_out, context, args.horizon, args.trajectories), configs)


def run(task: Task, device: "torch.device", stop: "StopSignals") -> Path:
    """Train, measure, and write the page, doing only what is not done yet. Returns the page.

    Raises:
        OSError: the disk refused.
        Stopped: a signal came.
    """
    from diamond_fast.studies import side_by_side

    page, seeds = task.out / "index.html", range(task.args.train_seeds)
    for number, ((name, seed), cfg) in enumerate(task.configs.items(), 1):
        if todo := [n for n in task.args.denoising_steps if not task.measured(name, seed, n).exists()]:
            print(f"world model {number} of {len(task.configs)}: {name}, seed {seed}", flush=True)
            side_by_side.train(cfg, task.run_of(name, seed), device, stop)
            _measure(task, name, seed, todo, device)
        # whenever a seed is done: what is stopped later has a page all the same
        if name == task.args.formulations[-1] and (todo or seed == seeds[-1]):
            page = _write(task, seed + 1)
    return page


def _measure(task: Task, name: str, seed: int, todo: list[int], device: "torch.device") -> None:
    """All trajectories of a world model, with each of these numbers of denoising steps."""
    import numpy as np

    from diamond_fast.runs.agents import load_agent
    from diamond_fast.runs.progress import Progress
    from diamond_fast.studies.trained import sampler_of
    from diamond_fast.studies.trajectories import imagine

    args = task.args
    (task.out / "measured").mkdir(exist_ok=True)
    with users_input():  # a folder that somebody changed meanwhile
        trained = load_agent(task.run_of(name, seed))
    frames = len(task.starts) * args.horizon
    with Progress(len(todo), {"imagine": frames * sum(todo)}, unit="measurement") as progress:
        for n in todo:
            steps = trained.config.world_model.with_denoising_steps(n).sampler
            sampler = sampler_of(trained, steps, args, min(args.batch_size, len(task.starts)), device)
            noise = int(np.random.SeedSequence((args.seed, n)).generate_state(1)[0])
            with progress.phase("imagine", frames * n) as phase:
                measured, _ = imagine(
                    sampler,
                    task.held_out,
                    task.starts,
                    task.context,
                    args.horizon,
                    task.times,
                    noise,
                    args.batch_size,
                    device,
                    lambda count, n=n: phase.advance(count * n),  # type: ignore[misc]
                )
            measured.save(task.measured(name, seed, n))
            progress.epoch_done(
                f"{name}, seed {seed}, {counted(n, 'step')}: error {measured.errors.mean():.2f} grey levels"
            )


def _write(task: Task, num_seeds: int) -> Path:
    """The page of the first so many training seeds."""
    import torch

    from diamond_fast.studies import output
    from diamond_fast.studies.drift_figures import curves, summary, summary_table
    from diamond_fast.studies.trajectories import Trajectories, imagine

    args, seeds = task.args, range(num_seeds)
    measured: dict[tuple[str, int], list[Trajectories]] = {
        (name, n): [Trajectories.load(task.measured(name, seed, n)) for seed in seeds]
        for name in args.formulations
        for n in args.denoising_steps
    }
    cpu = torch.device("cpu")
    repeated, real = imagine(
        None, task.held_out, task.starts, task.context, args.horizon, task.times, 0, args.batch_size, cpu
    )
    results = {
        "study": "drift",
        "unit": "grey levels of 255, mean absolute difference from the real frame",
        "trajectories": len(task.starts),
        "horizon": args.horizon,
        "updates": args.updates,
        "train_seeds": num_seeds,
        "preset": args.preset,
        **summary({key: [m.errors for m in of_seeds] for key, of_seeds in measured.items()}, repeated.errors),
    }
    rows = {"real": real} | {f"{name}, n = {n}": of_seeds[0].strip for (name, n), of_seeds in measured.items()}
    pictures = {
        "drift": (
            curves(results),
            "Error of each imagined frame, mean over trajectories and training seeds; shaded: 95 % interval over "
            "trajectories. Dashed: the last real frame repeated.",
        ),
        "strips": (
            output.strips(rows, [f"t = {t}" for t in task.times]),
            "The first trajectory, as the first world model of each formulation imagines it.",
        ),
    }
    remarks = [
        f"{len(task.starts)} held-out trajectories of {args.horizon} frames; {num_seeds} world models of each "
        f"formulation, {args.updates} updates each, on the same recording with the same network ({args.preset}).",
        "Each formulation is trained as its own paper has it: DDPM on single steps, the others on one further frame "
        "of their own too.",
        *results["remarks"],
    ]
    if num_seeds < args.train_seeds:
        remarks.insert(0, f"Not finished: {num_seeds} of {args.train_seeds} training seeds so far.")
    return output.write(
        task.out, f"Drift on {Path(args.data or '').name}", remarks, results, pictures, *summary_table(results)
    )
