"""Single steps against many (figure 5): what a world model draws of a moment whose future is sure, or not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from tyro.conf import arg

from diamond_fast.settings import CountInt, PositiveInt, require
from diamond_fast.studies.trained import OfTrained

if TYPE_CHECKING:  # torch is slow to import, and --help needs none of it
    import numpy as np
    import torch

    from diamond_fast.drawing import Figure
    from diamond_fast.replay import Replay
    from diamond_fast.runs.agents import TrainedAgent
    from diamond_fast.runs.signals import StopSignals

UNSURE_ABOVE = 10.0
"""Grey levels: where frames drawn with the most steps differ by more (standard deviation), the future is unsure."""


@dataclass(frozen=True)
class Steps(OfTrained):
    """Many next frames of the same moments, each from other noise: do few denoising steps blur what is not sure?

    The world models that a study of drift has trained:
        python -m diamond_fast.study steps --data studies/drift/data/held_out.journal --runs studies/drift

    Two moments (episode and step, both from 0), and the region of the opponent (top, left, bottom, right):
        python -m diamond_fast.study steps --data boxing.npz --runs runs/boxing --at 0 120 3 40 --region 10 20 40 60
    """

    QUICK: ClassVar[Mapping[str, Any]] = {"denoising_steps": (1, 3), "samples": 8, "moments": 2}

    denoising_steps: tuple[PositiveInt, ...] = (1, 3, 10)
    """Numbers of denoising steps per frame that are compared; the most of them stand for the truth."""
    samples: PositiveInt = 32
    """Number of next frames drawn of each moment."""
    moments: PositiveInt = 4
    """Number of moments, spread evenly over the episodes, if --at does not say which."""
    at: Annotated[tuple[CountInt, ...], arg(metavar="EPISODE STEP ...")] = ()
    """The moments: pairs of episode and step of the frame that is drawn, both counted from 0."""
    region: Annotated[tuple[CountInt, ...], arg(metavar="TOP LEFT BOTTOM RIGHT")] = ()
    """The pixels at which the future is unsure. If not given: those at which drawn frames differ."""

    def check(self) -> None:
        super().check()
        require(self.samples > 1, "samples", f"must be at least 2, got {self.samples}")
        require(len(self.at) % 2 == 0, "at", f"needs pairs of episode and step, got {len(self.at)} numbers")
        good = not self.region or (
            len(self.region) == 4 and self.region[0] < self.region[2] and self.region[1] < self.region[3]
        )
        shown = " ".join(map(str, self.region))
        require(good, "region", f"needs top, left, bottom and right, the first above the third, got {shown}")


@dataclass(frozen=True)
class Task:
    args: Steps
    out: Path
    agents: "dict[str, TrainedAgent]"
    replay: "Replay"
    starts: list[tuple[int, int]]
    """Of the contexts: (episode, step)."""

    @property
    def context(self) -> int:
        return next(iter(self.agents.values())).agent.spec.context

    def file(self, run: str) -> Path:
        return self.out / "measured" / f"{run}.npz"


def set_up(args: Steps, out: Path) -> Task:
    """Raises ValueError, OSError: what is asked for does not fit together."""
    from diamond_fast.studies.data import starts_at, starts_of
    from diamond_fast.studies.trained import load_all

    agents, replay = load_all(args)
    context = next(iter(agents.values())).agent.spec.context
    height, width, _ = replay.frame_shape
    if args.region:
        inside = args.region[2] <= height and args.region[3] <= width
        require(inside, "region", f"must lie within frames of {height} x {width} pixels")
    starts = starts_at(args.at, replay, context) or starts_of(replay, context, 1, args.moments)
    return Task(args, out, agents, replay, starts)


def run(task: Task, device: "torch.device", stop: "StopSignals") -> Path:
    """Draw what is not drawn yet, and write the page. Returns the page. Raises OSError, Stopped."""
    import io

    import numpy as np

    from diamond_fast.runs.durable import write_durably
    from diamond_fast.runs.progress import Progress

    args, todo = task.args, [name for name in task.agents if not task.file(name).exists()]
    (task.out / "measured").mkdir(exist_ok=True)
    each = len(task.starts) * args.samples * sum(args.denoising_steps)
    with Progress(len(todo), {"draw": each * len(todo)}, unit="world model") as progress:
        for name in todo:
            with progress.phase("draw", each) as phase:
                drawn = draw(task, name, device, phase.advance)
            content = io.BytesIO()
            np.savez_compressed(content, drawn=drawn)
            write_durably(task.file(name), content.getvalue())
            progress.epoch_done(name)
    return _write(task)


def draw(task: Task, name: str, device: "torch.device", advance: Any = lambda evaluations: None) -> "np.ndarray":
    """Next frames of one world model, uint8 [numbers of steps, moments, samples, H, W, C]; the same noise for all."""
    import numpy as np
    import torch

    from diamond_fast.evaluation.open_loop import seeded_randn
    from diamond_fast.frames import to_float, to_uint8
    from diamond_fast.studies.trained import sampler_of

    args, trained = task.args, task.agents[name]
    batch = task.replay.cut(task.starts, task.context)
    by_steps = []
    for n in args.denoising_steps:
        steps = trained.config.world_model.with_denoising_steps(n).sampler
        sampler = sampler_of(trained, steps, args, min(args.batch_size, args.samples), device)
        by_moment = []
        for moment in range(len(task.starts)):
            randn = seeded_randn(device, args.seed + moment)
            obs = to_float(batch.frames[moment : moment + 1].to(device))
            act, drawn = batch.act[moment : moment + 1].to(device), []
            for first in range(0, args.samples, args.batch_size):
                count = min(args.batch_size, args.samples - first)
                contexts = obs.expand(count, *obs.shape[1:]), act.expand(count, *act.shape[1:])
                frames, _ = sampler.sample(*contexts, randn)
                drawn.append(to_uint8(frames).cpu())
                advance(count * n)
            by_moment.append(torch.cat(drawn).numpy())
        by_steps.append(np.stack(by_moment))
    return np.stack(by_steps)


def summary(
    drawn: "np.ndarray", real: "np.ndarray", unsure: "np.ndarray", steps: Sequence[int]
) -> list[dict[str, Any]]:
    """Figures in grey levels, by number of steps and region; means over moments, samples and pixels.

    Args:
        drawn: uint8 [numbers of steps, M, samples, H, W, C]. real: uint8 [M,H,W,C]. unsure: bool [M,H,W].

    Returns:
        ``spread``: standard deviation over samples; ``to_mean``: distance of samples from the mean of those drawn with
        the most steps, which is small if they are blurred, and near the spread if they take sides; ``to_real`` of the
        samples and ``mean_to_real`` of their mean. None if a region has no pixels.
    """
    import numpy as np

    most = int(np.argmax(steps))
    truth = drawn[most].astype(np.float64).mean(axis=1)  # [M,H,W,C]
    found = []
    for n, frames in zip(steps, drawn.astype(np.float64), strict=True):
        mean = frames.mean(axis=1)
        maps = {
            "spread": frames.std(axis=1, ddof=1),
            "to_mean": np.abs(frames - truth[:, None]).mean(axis=1),
            "to_real": np.abs(frames - real[:, None]).mean(axis=1),
            "mean_to_real": np.abs(mean - real),
        }
        for region, mask in (("unsure", unsure), ("sure", ~unsure)):
            values = {key: float(m[mask].mean()) if mask.any() else None for key, m in maps.items()}
            found.append({"denoising_steps": n, "region": region, "pixels": int(mask.sum()), **values})
    return found


def regions(task: Task, drawn: "Mapping[str, np.ndarray]") -> "np.ndarray":
    """bool [M,H,W]: the region that was given, or the pixels at which frames drawn with the most steps differ."""
    import numpy as np

    if task.args.region:
        top, left, bottom, right = task.args.region
        height, width, _ = task.replay.frame_shape
        mask = np.zeros((len(task.starts), height, width), bool)
        mask[:, top:bottom, left:right] = True
        return mask
    most = int(np.argmax(task.args.denoising_steps))
    spreads = [frames[most].astype(np.float64).std(axis=1, ddof=1).mean(axis=-1) for frames in drawn.values()]
    return np.mean(spreads, axis=0) > UNSURE_ABOVE


def _write(task: Task) -> Path:
    import numpy as np

    from diamond_fast.studies import output

    args = task.args
    drawn: dict[str, np.ndarray] = {}
    for name in task.agents:
        with np.load(task.file(name)) as arrays:
            drawn[name] = arrays["drawn"]
    real = task.replay.cut(task.starts, task.context + 1).frames.numpy()
    unsure = regions(task, drawn)
    models = [
        {"run": name, "formulation": task.agents[name].config.formulation, **figures}
        for name, frames in drawn.items()
        for figures in summary(frames, real[:, -1], unsure, args.denoising_steps)
    ]
    results = {
        "study": "steps",
        "unit": "grey levels of 255",
        "samples": args.samples,
        "moments": [[e, s + task.context] for e, s in task.starts],
        "region": list(args.region) or f"where the standard deviation is above {UNSURE_ABOVE} grey levels",
        "models": models,
    }
    pictures = {
        f"moment{m}": (
            picture(task, drawn, real[m], unsure[m], m),
            f"Episode {episode}, step {start + task.context}. First row: the last real frame, the real next one, and "
            "in white the pixels taken to be unsure.",
        )
        for m, (episode, start) in enumerate(task.starts[:4])
    }
    given = "given" if args.region else f"those whose standard deviation is above {UNSURE_ABOVE:g} grey levels"
    remarks = [
        f"{args.samples} next frames of each of {len(task.starts)} moments, each from noise of its own, the same for "
        f"all. Unsure pixels: {given}.",
        "If few steps blur, samples spread less than with many steps, and are nearer to the mean of those.",
    ]
    head = ["Run", "Formulation", "Steps", "Region", "Spread", "To the mean", "To the real frame", "Mean to the real"]
    keys = ("run", "formulation", "denoising_steps", "region", "spread", "to_mean", "to_real", "mean_to_real")
    rows = [["–" if m[key] is None else m[key] for key in keys] for m in models]  # noqa: RUF001
    return output.write(task.out, "Single steps against many", remarks, results, pictures, head, rows)


def picture(
    task: Task, drawn: "Mapping[str, np.ndarray]", real: "np.ndarray", unsure: "np.ndarray", moment: int
) -> "Figure":
    """Some samples, their mean and four times their spread, for each world model and number of steps."""
    import numpy as np

    from diamond_fast.studies import output

    num_shown = min(4, task.args.samples)
    white = np.full_like(real[-1], 255)
    first = [real[-2], real[-1], np.broadcast_to(255 * unsure[..., None], white.shape).astype(np.uint8)]
    rows = {"real": np.stack(first + [white] * (num_shown + 2 - len(first)))}
    for name, frames in drawn.items():
        for n, samples in zip(task.args.denoising_steps, frames[:, moment].astype(np.float64), strict=True):
            spread = np.clip(4 * samples.std(axis=0, ddof=1), 0, 255)
            shown = [*samples[:num_shown], samples.mean(axis=0), spread]
            rows[f"{name}, n = {n}"] = np.rint(np.stack(shown)).astype(np.uint8)
    columns = [*(f"sample {i + 1}" for i in range(num_shown)), "mean", "spread x 4"]
    return output.strips(rows, columns)
