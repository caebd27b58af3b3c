"""A student in one evaluation beside its teacher in several and in one: errors, spread, rewards and ends, drift."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from tyro.conf import arg

from diamond_fast.settings import CountInt, PositiveInt, flag, require
from diamond_fast.studies.trained import OfTrained

if TYPE_CHECKING:  # torch is slow to import, and --help needs none of it
    import torch

    from diamond_fast.replay import Replay
    from diamond_fast.runs.agents import TrainedAgent
    from diamond_fast.runs.signals import StopSignals


@dataclass(frozen=True)
class Student(OfTrained):
    """Distil trained world models, and hold the students beside their teachers.

    World models that a study of drift has trained, or runs:
        python -m diamond_fast.study student --data held_out.journal --runs studies/drift
    """

    QUICK: ClassVar[Mapping[str, Any]] = {"updates": 50, "horizon": 10, "trajectories": 8, "samples": 8, "moments": 2}

    MAY_GROW: ClassVar[tuple[str, ...]] = ("runs", "metrics")

    denoising_steps: tuple[PositiveInt, ...] = (1, 3)
    """The teacher's numbers of denoising steps; from the most of them the student learns."""
    metrics: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ("pseudo-huber", "squared")
    """A student is trained with each of these metrics of the difference from its target. consistency: with
    pseudo-huber, from each point of the teacher's trajectory to the next."""
    updates: PositiveInt = 2_000
    """Number of updates of each student, on what its world model learned from, with its batches and learning rate."""
    horizon: PositiveInt = 200
    """Number of frames imagined from each start."""
    trajectories: PositiveInt = 32
    """Number of starts in the episodes."""
    samples: PositiveInt = 32
    """Number of next frames drawn of each moment."""
    moments: PositiveInt = 8
    """Number of moments, spread evenly over the episodes, if --at does not say which."""
    reader: Annotated[Path | None, arg(metavar="DIR")] = None
    """Rewards and ends are read off imagined frames by this run's reward/end model; if not given, by each run's own."""
    at: Annotated[tuple[CountInt, ...], arg(metavar="EPISODE STEP ...")] = ()
    """The moments: pairs of episode and step of the frame that is drawn, both counted from 0."""

    def check(self) -> None:
        from diamond_fast.consistency import TRAINED_WITH
        from diamond_fast.registry import find

        super().check()
        for name in self.metrics:
            find(TRAINED_WITH, "--metrics", name)
        require(bool(self.metrics), "metrics", "needs at least one")
        require(self.samples > 1, "samples", f"must be at least 2, got {self.samples}")
        require(len(self.at) % 2 == 0, "at", f"needs pairs of episode and step, got {len(self.at)} numbers")
        most = max(self.denoising_steps)
        require(most > 1, "denoising_steps", f"needs one above 1, which the student learns from, got {most}")

    @property
    def ways(self) -> dict[str, tuple[int, str | None]]:
        """By name: steps, and the metric of a student."""
        teachers: dict[str, tuple[int, str | None]] = {f"teacher, n = {n}": (n, None) for n in self.denoising_steps}
        return teachers | {f"student, {metric}": (1, metric) for metric in self.metrics}


@dataclass(frozen=True)
class Task:
    args: Student
    out: Path
    agents: "dict[str, TrainedAgent]"
    replay: "Replay"
    starts: list[tuple[int, int]]
    moments: list[tuple[int, int]]
    reader: "TrainedAgent | None" = None
    """Of rewards and ends; None: each world model's own agent."""

    @property
    def context(self) -> int:
        return next(iter(self.agents.values())).agent.spec.context

    @property
    def most(self) -> int:
        return max(self.args.denoising_steps)

    def file(self, run: str, way: str) -> Path:
        return self.out / "measured" / f"{run}-{way.replace(', ', '-').replace(' = ', '')}.npz"


def set_up(args: Student, out: Path) -> Task:
    """Raises ValueError, OSError: what is asked for does not fit together."""
    from diamond_fast.consistency import CONSISTENCY
    from diamond_fast.studies.data import starts_at, starts_of
    from diamond_fast.studies.trained import load_all

    agents, replay = load_all(args)
    for name, trained in agents.items():
        cfg = trained.config
        require(cfg.upsampling == 1, "runs", f"{name} has two resolutions, which have no student")
        steps = cfg.world_model.sampler
        more = steps.draws_more("world_model.sampler")
        require(not more, "runs", f"{name} draws more noise than at the start ({more}): it has no student")
        fits = CONSISTENCY not in args.metrics or (cfg.formulation == "edm" and getattr(steps, "order", 1) == 1)
        require(fits, "metrics", f"{CONSISTENCY} is for EDM's steps of order 1, and {name} has others; leave it out")
    context = next(iter(agents.values())).agent.spec.context
    starts = starts_of(replay, context, args.horizon, args.trajectories)
    moments = starts_at(args.at, replay, context) or starts_of(replay, context, 1, args.moments)
    return Task(args, out, agents, replay, starts, moments, None if args.reader is None else _reader(args, replay))


def _reader(args: Student, replay: "Replay") -> "TrainedAgent":
    """Raises ValueError, OSError: there is no such run, it has no reward/end model, or it is of another world."""
    from diamond_fast.replay.fitting import check_fits
    from diamond_fast.runs.agents import load_agent

    assert args.reader is not None
    reader = load_agent(args.reader)
    require(reader.agent.rew_end_model is not None, "reader", f"{args.reader} has no reward/end model")
    check_fits("--data", str(args.data), replay, reader.config.frame_shape, reader.agent.spec.action)
    return reader


def run(task: Task, device: "torch.device", stop: "StopSignals") -> Path:
    """Distil and measure what is not measured yet, and write the page. Returns the page. Raises OSError, Stopped."""
    import io

    import numpy as np

    from diamond_fast.runs.durable import write_durably
    from diamond_fast.runs.progress import Progress
    from diamond_fast.studies.student_measures import distil, measure

    args = task.args
    units = [(run, way) for run in task.agents for way in args.ways]
    todo = [(run, way) for run, way in units if not task.file(run, way).exists()]
    (task.out / "measured").mkdir(exist_ok=True)
    students = sum(args.ways[way][1] is not None for _, way in todo)
    with Progress(len(todo), {"distil": args.updates * students}, unit="measurement") as progress:
        for run, way in todo:
            trained, (steps, metric) = task.agents[run], args.ways[way]
            if metric is not None:
                with progress.phase("distil", args.updates) as phase:

                    def advance() -> None:
                        stop.check()
                        phase.advance()

                    trained = distil(trained, args, task.most, metric, device, advance)
            stop.check()
            content, arrays = io.BytesIO(), measure(task, trained, steps, device)
            np.savez_compressed(content, allow_pickle=False, **arrays)
            write_durably(task.file(run, way), content.getvalue())
            progress.epoch_done(f"{run}: {way}")
    return _write(task)


def _write(task: Task) -> Path:
    import numpy as np

    from diamond_fast.studies import output
    from diamond_fast.studies.student_measures import KEYS, curves, figures_of, over_runs, picture

    args = task.args
    measured: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for name in task.agents:
        measured[name] = {}
        for way in args.ways:
            with np.load(task.file(name, way)) as arrays:
                measured[name][way] = dict(arrays)
    teacher = f"teacher, n = {task.most}"
    real = task.replay.cut(task.moments, task.context + 1).frames.numpy()[:, -1]
    by_run = {name: figures_of(of, real, teacher) for name, of in measured.items()}
    rows = over_runs(by_run, list(args.ways))
    results = {
        "study": "student",
        "unit": "grey levels of 255; precision and recall from 0 to 1",
        "settings": {flag(k): getattr(args, k) for k in ("updates", "horizon", "trajectories", "samples", "moments")},
        "over_runs": rows,
        "by_run": by_run,
    }
    first = measured[next(iter(measured))]
    pictures = {
        "drift": (curves(measured), "Mean absolute difference from the real frames, mean over runs and trajectories."),
        "moments": (
            picture(first, real, list(args.ways)),
            "Next frames of the moment at which the teacher's differ most, from the same noise in each row.",
        ),
    }
    remarks = [
        f"{len(task.agents)} world models; {args.updates} updates of each student; {len(task.starts)} trajectories of "
        f"{args.horizon} frames; {args.samples} next frames of each of {len(task.moments)} moments.",
        "Spread: standard deviation over samples, at the pixels at which the teacher's differ by more than 10 grey "
        "levels. A student that draws the mean of futures has none. Behind ±: 95 % over runs.",
        "Rewards and ends: what the reward/end model reads off imagined frames, against what was recorded.",
    ]
    table = [
        [way, *("–" if (found := row[key]) is None else output.shown(*found) for key in KEYS)]  # noqa: RUF001
        for way, row in rows.items()
    ]
    return output.write(
        task.out, "A student beside its teacher", remarks, results, pictures, ["", *KEYS.values()], table
    )
