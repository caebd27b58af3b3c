"""Architectures: the paper's comparison of the denoiser's networks (appendix M, table 8), over context lengths."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

from tyro.conf import arg

from diamond_fast.settings import Length, PositiveInt, require
from diamond_fast.studies.settings import StudyFlags, users_input

if TYPE_CHECKING:  # torch is slow to import, and --help needs none of it
    import torch

    from diamond_fast.config import RunConfig
    from diamond_fast.evaluation.open_loop import Predictions
    from diamond_fast.evaluation.perceptual import Perceptual
    from diamond_fast.evaluation.videos import VideoDistances
    from diamond_fast.replay import Replay
    from diamond_fast.runs.agents import TrainedAgent
    from diamond_fast.runs.signals import StopSignals


@dataclass(frozen=True)
class Architectures(StudyFlags):
    """Train the denoiser's architectures side by side at equal operations, and compare them as table 8 does.

    On the experience of a run, in minutes:
        python -m diamond_fast.study architectures --data runs/catch --quick

    Nearer to the paper, on a GPU, with weights for FVD, FID and LPIPS:
        python -m diamond_fast.study architectures --data doom.journal --contexts 6 --updates 50000 --videos 1024
    """

    QUICK: ClassVar[Mapping[str, Any]] = {
        "preset": "quick",
        "updates": 60,
        "train_seeds": 2,
        "contexts": (4, 8),
        "denoising_steps": (3,),
        "horizon": 8,
        "videos": 72,
    }

    MAY_GROW: ClassVar[tuple[str, ...]] = ("networks", "train_seeds", "denoising_steps")

    held_out: Annotated[Path | None, arg(metavar="PATH")] = None
    """Judge on this recording. If not given, every fifth episode of --data is held out."""
    networks: tuple[str, ...] = ("unet", "cross_attention", "unet3d", "dit")
    """What is compared; the first one with the others."""
    contexts: tuple[Length, ...] = (4, 8, 16)
    """How many past frames are seen: each network is trained with each number."""
    equal_at: Length = 4
    """With so many past frames all networks take as many operations as the preset's U-Net."""
    preset: Annotated[str, arg(metavar="NAME")] = "small"
    """The U-Net and how all are trained, as python -m diamond_fast.train --preset has them."""
    updates: PositiveInt = 20_000
    """Number of updates of each world model."""
    train_seeds: Length = 3
    """Number of world models of each network and context, trained with other seeds."""
    denoising_steps: tuple[PositiveInt, ...] = (20,)
    """Numbers of denoising steps per frame that are compared."""
    horizon: PositiveInt = 16
    """Number of frames of a video."""
    videos: PositiveInt = 256
    """Number of videos that are compared, each from another moment of the held-out episodes."""
    lpips_weights: Annotated[Path | None, arg(metavar="FILE")] = None
    """Measure LPIPS, with torchvision's AlexNet in this file (alexnet-owt-7be5be79.pth). Nothing is ever fetched."""
    fid_weights: Annotated[Path | None, arg(metavar="FILE")] = None
    """Measure FID, with torch-fidelity's Inception in this file (weights-inception-2015-12-05-6726825d.pth)."""
    fvd_weights: Annotated[Path | None, arg(metavar="FILE")] = None
    """Measure FVD, with I3D as StyleGAN-V has it in this file (i3d_torchscript.pt)."""

    def check(self) -> None:
        super().check()
        from diamond_fast.presets import PRESETS
        from diamond_fast.registry import NETWORKS, find

        cfg = find(PRESETS, "--preset", self.preset)
        require(cfg.network == "unet", "preset", f"must be one with a U-Net, {self.preset} has {cfg.network}")
        for field in ("networks", "contexts"):
            named = getattr(self, field)
            require(bool(named), field, "needs at least one")
            require(len(set(named)) == len(named), field, f"{' '.join(map(str, named))}: one is named twice")
        for name in self.networks:
            find(NETWORKS, "--networks", name)
        for count in self.denoising_steps:
            cfg.world_model.with_denoising_steps(count)


class Model(NamedTuple):
    """Which world model."""

    network: str
    context: int
    seed: int

    def __str__(self) -> str:
        return f"{self.network}-{self.context}frames-seed{self.seed}"


@dataclass(frozen=True)
class Task:
    """A study that can begin."""

    args: Architectures
    out: Path
    held_out: "Replay"
    starts: list[tuple[int, int]]
    """Of the longest context. A shorter one begins later, so that all networks imagine the same frames."""
    configs: "dict[Model, RunConfig]"
    costs: dict[tuple[str, int], dict[str, int]]
    """By network and context, counted."""
    perceptual: "Perceptual"
    distances: "VideoDistances"

    def measured(self, model: Model, steps: int) -> Path:
        return self.out / "measured" / f"{model}-{steps}steps.json"

    def starts_of(self, context: int) -> list[tuple[int, int]]:
        return [(episode, first + max(self.args.contexts) - context) for episode, first in self.starts]


def set_up(args: Architectures, out: Path) -> Task:
    """Raises ValueError, OSError: the data does not fit what is asked for."""
    from diamond_fast.devices import resolve_device
    from diamond_fast.evaluation.perceptual import Perceptual
    from diamond_fast.evaluation.videos import VideoDistances
    from diamond_fast.presets import PRESETS
    from diamond_fast.replay import load_recording
    from diamond_fast.replay.fitting import check_fits
    from diamond_fast.studies import side_by_side
    from diamond_fast.studies.data import split, starts_of
    from diamond_fast.studies.equal_operations import as_many, costs_of

    assert args.data is not None  # checked
    recordings = split(args.data, args.held_out, out / "data")
    held_out = load_recording(recordings[1])
    starts = starts_of(held_out, max(args.contexts), args.horizon, args.videos)
    require(
        len(starts) == args.videos,
        "videos",
        f"the held-out episodes have room for {len(starts)} of {max(args.contexts) + args.horizon} frames and more",
    )
    device = resolve_device(args.device)
    perceptual = Perceptual(args.lpips_weights, args.fid_weights, device)
    frames, needed = args.videos * args.horizon, perceptual.fid_width
    require(not needed or frames > needed, "videos", f"FID needs more than {needed} frames, and {frames} are too few")
    distances = VideoDistances(args.fvd_weights, args.videos, device)
    unet = PRESETS[args.preset].denoiser.inner_model
    first = side_by_side.run_config(args.preset, "edm", 0, args.updates, recordings, args.engine)
    action = check_fits("--data", args.data, load_recording(recordings[0]), first.frame_shape)
    spec = replace(first.spec(action), context=args.equal_at)
    configs = {}
    equal = {name: as_many(name, replace(unet, num_steps_conditioning=args.equal_at), spec) for name in args.networks}  # type: ignore[arg-type]
    for seed in range(args.train_seeds):
        for context in args.contexts:
            for name, inner in equal.items():
                network = name, replace(inner, num_steps_conditioning=context)
                configs[Model(name, context, seed)] = side_by_side.run_config(
                    args.preset, "edm", seed, args.updates, recordings, args.engine, network
                )
    costs = {(m.network, m.context): costs_of(cfg, action) for m, cfg in configs.items() if m.seed == 0}
    return Task(args, out, held_out, starts, configs, costs, perceptual, distances)


def run(task: Task, device: "torch.device", stop: "StopSignals") -> Path:
    """Train, measure, and write the page, doing only what is not done yet. Returns the page.

    Raises:
        OSError: the disk refused.
        Stopped: a signal came.
    """
    from diamond_fast.studies import side_by_side

    page, last = task.out / "index.html", {m.seed: m for m in task.configs}
    for number, (model, cfg) in enumerate(task.configs.items(), 1):
        if todo := [n for n in task.args.denoising_steps if not task.measured(model, n).exists()]:
            seen = f"{model.network} of {model.context} frames, seed {model.seed}"
            print(f"world model {number} of {len(task.configs)}: {seen}", flush=True)
            side_by_side.train(cfg, task.out / "runs" / str(model), device, stop)
            _measure(task, model, todo, device)
        # whenever a seed is done: what is stopped later has a page all the same
        if model == last[model.seed] and (todo or model.seed == task.args.train_seeds - 1):
            page = _write(task, model.seed + 1, str(device))
    return page


def _measure(task: Task, model: Model, todo: list[int], device: "torch.device") -> None:
    """A row of the table for each of these numbers of denoising steps."""
    import torch

    from diamond_fast.engine.choose import choose_path
    from diamond_fast.engine.contest import Work
    from diamond_fast.evaluation.open_loop import pixel_errors
    from diamond_fast.evaluation.table8 import measure_row
    from diamond_fast.runs.agents import load_agent
    from diamond_fast.runs.durable import strict_json, write_durably
    from diamond_fast.runs.metrics import plain
    from diamond_fast.runs.progress import Progress

    args = task.args
    (task.out / "measured").mkdir(exist_ok=True)
    with users_input():  # a folder that somebody changed meanwhile
        trained = load_agent(task.out / "runs" / str(model))
    trained.agent.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload] # torch's stubs lack it
    frames = len(task.starts) * args.horizon
    with Progress(len(todo), {"imagine": frames * sum(todo)}, unit="measurement") as progress:
        for n in todo:
            world = replace(trained.config.world_model.with_denoising_steps(n), horizon=args.horizon)
            cfg = replace(trained.config, world_model=world)
            work = Work.of(trained.agent.denoiser, world.sampler, args.batch_size)
            path = choose_path(device, cfg.precision, args.engine, work=work)
            with progress.phase("imagine", frames * n) as phase:
                videos = _videos(
                    task,
                    trained,
                    cfg,
                    path,
                    n,
                    lambda count, n=n: phase.advance(count * n),
                )
            errors, _ = pixel_errors(videos.real, videos.imagined)
            perceptual = task.perceptual.distances(videos)
            row = measure_row(trained.agent, task.held_out, cfg, path, videos, perceptual, task.distances)
            row |= {"error": errors.mean(), "error_by_step": errors.mean(0), "strip": videos.imagined[0, _shown(args)]}
            write_durably(task.measured(model, n), strict_json(plain(row)).encode())
            progress.epoch_done(f"{model}, {n} steps: error {errors.mean():.2f} grey levels")


def _shown(args: Architectures) -> list[int]:
    """Frames of a video that are pictured."""
    from diamond_fast.studies.trajectories import pictured_times

    return [t - 1 for t in pictured_times(args.horizon)]


def _videos(
    task: Task, trained: "TrainedAgent", cfg: "RunConfig", path: Any, steps: int, advance: Any
) -> "Predictions":
    """All videos, as one world model imagines them from the recorded actions and its own frames."""
    import numpy as np
    import torch

    from diamond_fast.engine.world import next_frame_sampler
    from diamond_fast.evaluation.open_loop import Predictions, predict_frames, seeded_randn
    from diamond_fast.frames import to_float, to_uint8

    args, device, context = task.args, trained.agent.denoiser.device, trained.agent.spec.context
    sampler = next_frame_sampler(trained.agent.denoiser, cfg.world_model.sampler, path)
    randn = seeded_randn(device, int(np.random.SeedSequence((args.seed, steps)).generate_state(1)[0]))
    batch, imagined = task.held_out.cut(task.starts_of(context), context + args.horizon), []
    for rows in torch.arange(len(task.starts)).split(args.batch_size):
        seen = to_float(batch.frames[rows, :context].to(device))
        drawn = predict_frames(sampler, seen, batch.act[rows].to(device), randn, advance, trained.agent.memory)
        imagined.append(to_uint8(drawn).cpu())
    real = batch.frames.numpy()
    return Predictions(real[:, context - 1], real[:, context:], torch.cat(imagined).numpy())


def _write(task: Task, num_seeds: int, device: str) -> Path:
    """The page of the first so many training seeds."""
    from diamond_fast.runs.durable import parse_json
    from diamond_fast.studies import output
    from diamond_fast.studies.architectures_figures import curves, strips_of, summary, summary_table

    args = task.args
    measured = {
        (name, context, n): [
            parse_json(task.measured(Model(name, context, seed), n).read_bytes()) for seed in range(num_seeds)
        ]
        for context in args.contexts
        for name in args.networks
        for n in args.denoising_steps
    }
    results = {
        "study": "architectures",
        "videos": len(task.starts),
        "horizon": args.horizon,
        "updates": args.updates,
        "train_seeds": num_seeds,
        "preset": args.preset,
        "device": device,
        **summary(measured, task.costs),
    }
    longest = max(args.contexts)
    batch = task.held_out.cut(task.starts[:1], longest + args.horizon)
    real = batch.frames[0, longest:].numpy()[_shown(args)]
    pictures = {
        "architectures": (
            curves(results),
            "Over the length of the context: error of imagined frames (95 % over training seeds), time for a "
            "frame, one after the other, and memory. Solid: kept for the backward pass of one sequence; dashed: "
            "remembered of the past while a frame is drawn.",
        ),
        "strips": (
            strips_of(measured, real, args.contexts[0]),
            f"The first video, as the first world model of each network imagines it from {args.contexts[0]} frames.",
        ),
    }
    remarks = [
        f"{len(task.starts)} held-out videos of {args.horizon} frames, the same for all; {num_seeds} world models of "
        f"each network and context, {args.updates} updates each (EDM), on the same recording.",
        f"With {args.equal_at} past frames all networks take about as many operations as the U-Net of {args.preset}, "
        "if nothing is remembered; with others, as many as the table says.",
        *results["remarks"],
    ]
    if args.fvd_weights is None:
        remarks.append(
            "No weights for FVD: the Fréchet distances are of a fixed random 3-D network's features of videos and of "
            "mean colours. They are neither FVD nor FID, and compare the rows of this table only."
        )
    if num_seeds < args.train_seeds:
        remarks.insert(0, f"Not finished: {num_seeds} of {args.train_seeds} training seeds so far.")
    title = f"Architectures on {Path(args.data or '').name}"
    return output.write(task.out, title, remarks, results, pictures, *summary_table(results))
