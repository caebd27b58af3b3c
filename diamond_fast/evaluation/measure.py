"""One evaluation from its games to its figures."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from diamond_fast.engine.choose import Path
from diamond_fast.engine.world import at_play, judged
from diamond_fast.envs.real import RealEnv
from diamond_fast.evaluation.compounding import Compounding, measure_compounding
from diamond_fast.evaluation.faithfulness import measure_faithfulness
from diamond_fast.evaluation.held_out import cut_into_windows, denoiser_loss, reward_end_quality
from diamond_fast.evaluation.perceptual import Perceptual
from diamond_fast.evaluation.returns import Evaluation, about_cut_games, evaluate
from diamond_fast.evaluation.sampling_rate import measure_sampling_rate
from diamond_fast.evaluation.table8 import measure_row
from diamond_fast.evaluation.videos import VideoDistances
from diamond_fast.one_line import counted
from diamond_fast.replay import Replay
from diamond_fast.runs.agents import TrainedAgent
from diamond_fast.runs.metrics import plain
from diamond_fast.runs.progress import Progress

NUM_STORED = 8
"""Games the world model is judged on, at most: frames of 100 games would fill the memory."""


@dataclass(frozen=True)
class Task:
    """What to measure, and of which agent."""

    trained: TrainedAgent
    """On the device, ready to evaluate; its config has the horizon to imagine."""
    path: Path
    """How the world model imagines; its device is where the networks are."""
    env: RealEnv | None
    """The game, which is closed in the end; None: no games are played."""
    num_episodes: int
    """Games to play."""
    held_out: Replay | None
    """What the world model is judged on; None: the games played."""
    held_out_source: str
    perceptual: Perceptual
    score_region: tuple[int, ...]
    """Top, left, bottom, right of the pixels that show the score; empty: nobody said."""
    num_segments: int
    denoising_steps: tuple[int, ...]
    noise_seeds: int
    batch_size: int
    seed: int
    window: int
    """Steps of a window in which rewards and ends are judged: those of the run's own sequences."""
    videos: VideoDistances | None = None
    """Of table 8, which is measured besides; None: it is not."""
    watched: int = 0
    """Frames of an episode that a memory sees beside those that the denoiser sees."""
    beside: tuple[TrainedAgent, Path] | None = None
    """Another world model that imagines the same segments, and how."""

    @property
    def num_imagined(self) -> int:
        """Frames, at most."""
        horizon = self.trained.config.world_model.horizon
        models = 1 if self.beside is None else 2
        return models * self.num_segments * horizon * self.noise_seeds * len(self.denoising_steps)


def measure(task: Task) -> tuple[dict[str, Any], Compounding | None]:
    """Everything that goes into evaluation.json, and the frames behind it.

    Raises:
        EnvironmentFailedError: the game raised something, or took too long.
    """
    config, device = task.trained.config, task.path.device
    plan = {"play": task.num_episodes, "imagine": 0 if config.model_free else task.num_imagined}
    on_gpu = device.type == "cuda"
    results: dict[str, Any] = {
        "agent": task.trained.source,
        "game": config.name,
        "epoch": task.trained.epoch,
        "seed": task.seed,
        "device": torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }
    compounding, held_out = None, task.held_out
    with Progress(sum(map(bool, plan.values())), plan, unit="part") as progress:
        if task.env is not None:
            games, played = _play(task, task.env, progress)
            results["returns"] = {**asdict(games), "mean": games.mean, "std": games.std, "ci95": games.ci95}
            progress.epoch_done(f"{counted(len(games.returns), 'game')} played")
            held_out = held_out or played
        if held_out is not None:
            results["world_model"], compounding = _judge(task, held_out, progress)
            if compounding is not None and compounding.beside is not None and task.beside is not None:
                other = task.beside[0]
                results["beside"] = {"agent": other.source, "epoch": other.epoch, **_imagined(task, compounding.beside)}
            progress.epoch_done("world model compared with real episodes")
    return plain(results), compounding


def _play(task: Task, env: RealEnv, progress: Progress) -> tuple[Evaluation, Replay | None]:
    """Games and, if the world model is to be judged on them, their recording."""
    config, policy = task.trained.config, at_play(task.trained.agent.actor_critic, task.path)
    num_stored = 0 if config.model_free or task.held_out is not None else min(task.num_episodes, NUM_STORED)
    replay = None
    if num_stored:
        capacity, action = num_stored * config.evaluation.max_steps, task.trained.agent.spec.action
        replay = Replay(config.frame_shape, capacity=capacity, action=action)
    with progress.phase("play", task.num_episodes) as phase:
        try:
            games = evaluate(policy, env, task.num_episodes, task.seed, 0, replay, phase.advance, num_stored)
        finally:
            env.close()
    if line := about_cut_games(games, config):
        progress.say(line)
    return games, replay


def _judge(task: Task, replay: Replay, progress: Progress) -> tuple[dict[str, Any], Compounding | None]:
    """The world model's figures on held-out episodes."""
    agent, config = task.trained.agent, task.trained.config
    subject = judged(agent, task.path)
    quality = None
    if subject.reward_end is not None:
        with progress.phase("classify", len(cut_into_windows(replay.lengths, task.window))) as phase:
            quality = reward_end_quality(subject.reward_end, replay, config, None, phase.advance, task.window)
    with progress.phase("imagine", task.num_imagined) as phase:
        compounding = _imagine(task, task.trained, task.path, replay, phase.advance)
        if compounding is not None and task.beside is not None:
            compounding = replace(compounding, beside=_imagine(task, *task.beside, replay, phase.advance))
    sampling = {}
    for n in task.denoising_steps:
        cfg = replace(config, world_model=config.world_model.with_denoising_steps(n))
        rates = (measure_sampling_rate(agent, replay, cfg, task.batch_size, path) for path in (None, task.path))
        sampling[str(n)] = [asdict(rate) for rate in rates if rate]
    figures: dict[str, Any] = {
        "held_out": {"source": task.held_out_source, "episodes": replay.num_episodes, "steps": replay.num_steps},
        "denoiser_loss": denoiser_loss(subject, replay, config, task.seed),
        "reward_end": quality and quality._asdict() | {"reward": quality.reward, "end": quality.end},
        "sampling": sampling,
        "pixel_error": None,
        "perceptual": {},
        "faithfulness": {},
    }
    if compounding is not None:
        figures |= _imagined(task, compounding)
        figures["perceptual"] = {str(n): task.perceptual.distances(p) for n, p in compounding.predictions.items()}
    if task.videos is not None and compounding is not None:
        figures["table8"] = {
            str(n): measure_row(
                agent,
                replay,
                replace(config, world_model=config.world_model.with_denoising_steps(n)),
                task.path,
                predictions,
                figures["perceptual"][str(n)],
                task.videos,
            )
            for n, predictions in compounding.predictions.items()
        }
    return figures, compounding


def _imagine(
    task: Task, trained: TrainedAgent, path: Path, replay: Replay, advance: Callable[[int], None]
) -> Compounding | None:
    horizon = task.trained.config.world_model.horizon
    config = replace(trained.config, world_model=replace(trained.config.world_model, horizon=horizon))
    return measure_compounding(
        trained.agent,
        replay,
        config,
        path,
        task.denoising_steps,
        task.num_segments,
        task.noise_seeds,
        task.seed,
        task.batch_size,
        advance,
        task.watched,
    )


def _imagined(task: Task, compounding: Compounding) -> dict[str, Any]:
    """The figures of a world model's imagined segments."""
    return {
        "pixel_error": {
            "unit": "grey levels of 255",
            "segments": compounding.num_segments,
            "noise_seeds": task.noise_seeds,
            "horizon": task.trained.config.world_model.horizon,
            "watched": task.watched,
            "by_denoising_steps": {str(n): asdict(curve) for n, curve in compounding.curves.items()},
            "unchanged": asdict(compounding.unchanged),
        },
        "faithfulness": {
            str(n): asdict(measure_faithfulness(p, task.score_region)) for n, p in compounding.predictions.items()
        },
    }
