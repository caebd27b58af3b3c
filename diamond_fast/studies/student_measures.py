"""What the study of students trains, measures and draws."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from diamond_fast.config import UpdateConfig
from diamond_fast.consistency import CONSISTENCY, TRAINED_WITH, Consistency
from diamond_fast.distillation import regression
from diamond_fast.domains import domain_of
from diamond_fast.drawing import Figure, rc_context
from diamond_fast.engine.choose import choose_path
from diamond_fast.engine.contest import Work
from diamond_fast.engine.cpu_training import with_modules
from diamond_fast.engine.imagination import Sampler
from diamond_fast.engine.world import next_frame_sampler
from diamond_fast.engine.world import trained as as_trained
from diamond_fast.evaluation.intervals import ci95
from diamond_fast.evaluation.open_loop import predict_frames, seeded_randn
from diamond_fast.frames import to_float, to_uint8
from diamond_fast.networks.reward_end.model import END_NAMES, REWARD_NAMES, RewardEndModel
from diamond_fast.runs.agents import TrainedAgent
from diamond_fast.runs.metrics import classification
from diamond_fast.runs.plots import STYLE
from diamond_fast.studies import output
from diamond_fast.studies.steps import UNSURE_ABOVE
from diamond_fast.studies.trained import sampler_of
from diamond_fast.studies.trajectories import imagine
from diamond_fast.training.objectives import StudentObjective
from diamond_fast.training.update import Update
from diamond_fast.world_model import Denoiser

if TYPE_CHECKING:
    from diamond_fast.studies.student import Student, Task

KEYS = {
    "first_error": "Error of the first frame",
    "error": "Error over the horizon",
    "last_error": "Error of the last frame",
    "to_teacher": "From the teacher's frame",
    "spread": "Spread where unsure",
    "spread_sure": "Spread elsewhere",
    "reward_precision": "Rewards: precision",
    "reward_recall": "Rewards: recall",
    "end_precision": "Ends: precision",
    "end_recall": "Ends: recall",
}
"""Figures of a way to draw, and their headings."""


def distil(
    trained: TrainedAgent,
    args: "Student",
    steps: int,
    metric: str,
    device: torch.device,
    advance: Callable[[], Any],
) -> TrainedAgent:
    """The same agent with a new student of its denoiser in the denoiser's place."""
    torch.manual_seed(args.seed)
    cfg, agent = trained.config, trained.agent.to(device)
    student = Denoiser(cfg.denoiser, agent.spec).to(device)
    student.load_state_dict(agent.denoiser.state_dict())
    drawn_in = cfg.world_model.with_denoising_steps(steps).sampler
    update: UpdateConfig = replace(cfg.denoiser_update, grad_acc_steps=1)
    work = Work.of(agent.denoiser, drawn_in, update.batch_size)
    path = replace(choose_path(device, cfg.precision, args.engine, work=work), graphs=False)
    if cfg.static_dataset is None and trained.folder is None:
        raise ValueError(f"--runs: {trained.source} has no experience to learn from")
    replay = domain_of(cfg).load_recording(Path(cfg.static_dataset or trained.folder.journal))  # type: ignore[union-attr]
    segments = replay.segments(update.batch_size, cfg.denoiser_seq_length, seed=args.seed)
    teacher = next_frame_sampler(agent.denoiser, drawn_in, path)
    learned = Consistency(student.formulation.plan(drawn_in)) if metric == CONSISTENCY else regression
    objective = StudentObjective(
        as_trained(student, path),
        agent.denoiser,
        teacher,
        drawn_in,
        segments,
        path.to_float,
        metric=TRAINED_WITH[metric],
        learned=learned,
    )
    Update("student", student, objective, update, path.autocast).train(args.updates, advance)
    alone = with_modules(agent, denoiser=student, student=None)
    return replace(trained, agent=alone)


def measure(task: "Task", trained: TrainedAgent, steps: int, device: torch.device) -> dict[str, np.ndarray]:
    """Errors [S,K] of trajectories, samples [M,samples,H,W,C] of moments, and counts of rewards and ends."""
    args = task.args
    cfg = trained.config.world_model.with_denoising_steps(steps).sampler
    sampler = sampler_of(trained, cfg, args, min(args.batch_size, len(task.starts)), device)
    trajectories, _ = imagine(
        sampler, task.replay, task.starts, task.context, args.horizon, [1], args.seed, args.batch_size, device
    )
    found = {"errors": trajectories.errors, "samples": _samples(task, sampler, device)}
    model = (task.reader or trained).agent.rew_end_model
    if model is not None and model.coding.signs:
        found |= _rewards_and_ends(task, model.to(device).eval(), trained.config.world_model.horizon, sampler, device)
    return found


def _samples(task: "Task", sampler: Sampler, device: torch.device) -> np.ndarray:
    """uint8 [M,samples,H,W,C] next frames, from noise that every sampler is given alike."""
    batch, drawn = task.replay.cut(task.moments, task.context), []
    for moment in range(len(task.moments)):
        obs = to_float(batch.frames[moment : moment + 1].to(device)).expand(task.args.samples, -1, -1, -1, -1)
        act = batch.act[moment : moment + 1].to(device).expand(task.args.samples, *batch.act.shape[1:])
        frames, _ = sampler.sample(obs, act, seeded_randn(device, task.args.seed + moment))
        drawn.append(to_uint8(frames).cpu().numpy())
    return np.stack(drawn)


@torch.no_grad()
def _rewards_and_ends(
    task: "Task", model: RewardEndModel, horizon: int, sampler: Sampler, device: torch.device
) -> dict[str, np.ndarray]:
    """Counts [3,3] and [2,2], rows recorded, columns read off imagined frames: as far as the policy imagines."""
    t, horizon = task.context, min(horizon, task.args.horizon)
    batch = task.replay.cut(task.starts, t + horizon)
    seen, act = to_float(batch.frames[:, :t].to(device)), batch.act.to(device)
    imagined = predict_frames(sampler, seen, act, seeded_randn(device, task.args.seed))
    *_, memory = model.predict(seen[:, :-1], act[:, : t - 1], seen[:, 1:])
    before = torch.cat((seen[:, -1:], imagined[:, :-1]), dim=1)
    rewards, ends, _ = model.predict(before, act[:, t - 1 : -1], imagined, memory)
    steps = slice(t - 1, t - 1 + horizon)
    recorded = batch.rew[:, steps].sign().long() + 1, batch.end[:, steps].long()
    counts = {}
    for name, true, logits in (("rewards", recorded[0], rewards), ("ends", recorded[1], ends)):
        k = logits.size(-1)
        pairs = true.flatten() * k + logits.argmax(-1).flatten().cpu()
        counts[name] = torch.bincount(pairs, minlength=k * k).view(k, k).numpy()
    return counts


def figures_of(
    measured: Mapping[str, Mapping[str, np.ndarray]], real: np.ndarray, teacher: str
) -> dict[str, dict[str, float | None]]:
    """By way: its figures of one world model (``KEYS``), None where there are none.

    Args:
        measured: by way. real: uint8 [M,H,W,C] the moments' next frames.
        teacher: the way that is learned from.
    """
    truth = measured[teacher]["samples"].astype(np.float64)
    unsure = truth.std(axis=1, ddof=1).mean(axis=-1) > UNSURE_ABOVE  # [M,H,W]
    found = {}
    for way, arrays in measured.items():
        samples, errors = arrays["samples"].astype(np.float64), arrays["errors"]
        spread = samples.std(axis=1, ddof=1).mean(axis=-1)
        found[way] = {
            "first_error": float(np.abs(samples - real[:, None]).mean()),
            "error": float(errors.mean()),
            "last_error": float(errors[:, -1].mean()),
            "to_teacher": float(np.abs(samples - truth).mean()),
            "spread": float(spread[unsure].mean()) if unsure.any() else None,
            "spread_sure": float(spread[~unsure].mean()) if (~unsure).any() else None,
            **dict.fromkeys(("reward_precision", "reward_recall", "end_precision", "end_recall")),
        }
        if "rewards" in arrays:
            some = _merged(arrays["rewards"])
            for what, scores in (
                ("reward", classification(some, ("none", "some"))),
                ("end", classification(arrays["ends"], END_NAMES)),
            ):
                name = "some" if what == "reward" else END_NAMES[1]
                found[way] |= {f"{what}_{score}": scores[f"{score}/{name}"] for score in ("precision", "recall")}
    return found


def _merged(counts: np.ndarray) -> np.ndarray:
    """Counts [3,3] of signs as [2,2] of none and some; a reward of the wrong sign is one that is missed."""
    none = REWARD_NAMES.index("0")
    right = int(np.trace(counts)) - int(counts[none, none])
    recorded, read = counts.sum(axis=1), counts.sum(axis=0)
    there, said = int(recorded.sum() - recorded[none]), int(read.sum() - read[none])
    return np.array([[int(counts[none, none]), said - right], [there - right, right]])


def over_runs(
    by_run: Mapping[str, Mapping[str, Mapping[str, float | None]]], ways: list[str]
) -> dict[str, dict[str, tuple[float, float] | None]]:
    """By way and figure: mean over world models that have it, and half of its 95 % interval."""
    rows: dict[str, dict[str, tuple[float, float] | None]] = {}
    for way in ways:
        rows[way] = {}
        for key in KEYS:
            values = np.array([v for of in by_run.values() if (v := of[way][key]) is not None])
            rows[way][key] = (float(values.mean()), float(ci95(values))) if len(values) else None
    return rows


def curves(measured: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]]) -> Figure:
    """Errors against imagined frames, by way."""
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.subplots()
        for way in next(iter(measured.values())):
            errors = np.mean([of[way]["errors"].astype(np.float64).mean(axis=0) for of in measured.values()], axis=0)
            axes.plot(np.arange(1, len(errors) + 1), errors, label=way)
        axes.set_xlabel("imagined frame")
        axes.set_ylabel("mean absolute error (grey levels)")
        axes.legend(fontsize=8)
    return figure


def picture(measured: Mapping[str, Mapping[str, np.ndarray]], real: np.ndarray, ways: list[str]) -> Figure:
    """Samples of one moment by way, their mean and four times their spread."""
    teacher = ways[max(i for i, way in enumerate(ways) if way.startswith("teacher"))]
    moment = int(measured[teacher]["samples"].astype(np.float64).std(axis=1).mean(axis=(1, 2, 3)).argmax())
    shown = min(6, measured[teacher]["samples"].shape[1])
    rows = {"real": np.repeat(real[moment][None], shown + 2, axis=0)}
    for way in ways:
        samples = measured[way]["samples"][moment]
        statistics = samples.mean(axis=0), np.clip(4 * samples.std(axis=0, ddof=1), 0, 255)
        rows[way] = np.concatenate((samples[:shown], np.rint(np.stack(statistics)).astype(np.uint8)))
    return output.strips(rows, [*(f"noise {i + 1}" for i in range(shown)), "mean", "spread x 4"])
