"""How errors add up over imagined frames, for any number of denoising steps, and how fast frames are imagined."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from diamond_fast.config import RunConfig
from diamond_fast.engine.fast_denoiser import FastDenoiser
from diamond_fast.frames import to_float
from diamond_fast.replay import Replay
from diamond_fast.training.evaluate import ci95
from diamond_fast.training.held_out import Strips, imagine_held_out, pixel_errors, spread
from diamond_fast.world_model import Agent, DiffusionSampler


@dataclass(frozen=True)
class ErrorCurve:
    """Errors of imagined frames 1 .. K, in grey levels (0 to 255); means over segments and their 95 % intervals."""

    mean_absolute: np.ndarray  # [K]
    mean_absolute_ci95: np.ndarray  # [K] half the width of the interval
    root_mean_square: np.ndarray  # [K] mean over segments of each frame's own root mean square
    root_mean_square_ci95: np.ndarray  # [K]

    @classmethod
    def of(cls, mean_absolute: np.ndarray, root_mean_square: np.ndarray) -> "ErrorCurve":
        """From the errors of each segment, [S,K]."""
        return cls(mean_absolute.mean(0), ci95(mean_absolute), root_mean_square.mean(0), ci95(root_mean_square))


@dataclass(frozen=True)
class Compounding:
    """What was imagined of the same held-out segments with each number of denoising steps."""

    curves: dict[int, ErrorCurve]
    unchanged: ErrorCurve
    """Of a model that would repeat the last real frame: the yardstick."""
    strips: dict[int, Strips]
    """With the first noise seed."""

    @property
    def num_segments(self) -> int:
        return len(next(iter(self.strips.values())).real)


def measure_compounding(
    agent: Agent,
    replay: Replay,
    cfg: RunConfig,
    denoising_steps: tuple[int, ...],
    num_segments: int,
    num_noise_seeds: int,
    seed: int,
    batch_size: int,
    advance: Callable[[int], None] = lambda frames: None,
) -> Compounding | None:
    """Imagine held-out segments from their actions and compare frame by frame with what really happened.

    A segment's error is averaged over the noise seeds; intervals are over segments (Student's t), which they treat as
    independent.

    Args:
        cfg: its horizon counts, and its sampler but for the number of steps.
        advance: told how many frames are imagined; in all there are ``num_segments * horizon`` for each noise seed and
            number of steps, if the episodes have room for the segments.

    Returns:
        None where no episode is as long as context and horizon together.
    """
    curves, strips = {}, {}
    for steps in denoising_steps:
        errors = []
        for number in range(num_noise_seeds):
            noise = int(np.random.SeedSequence((seed, steps, number)).generate_state(1)[0])
            imagined = imagine_held_out(
                agent, replay, with_denoising_steps(cfg, steps), noise, num_segments, batch_size, advance
            )
            if imagined is None:
                return None
            strips.setdefault(steps, imagined)
            errors.append(pixel_errors(imagined.real, imagined.imagined))
        curves[steps] = ErrorCurve.of(*np.mean(errors, axis=0))
    unchanged = ErrorCurve.of(*pixel_errors(imagined.real, imagined.last_seen[:, None]))
    return Compounding(curves, unchanged, strips)


def with_denoising_steps(cfg: RunConfig, steps: int) -> RunConfig:
    world_model = cfg.world_model
    return replace(cfg, world_model=replace(world_model, sampler=replace(world_model.sampler, num_steps=steps)))


@dataclass(frozen=True)
class SamplingRate:
    path: str
    """The plain sampler, or which of FastDenoiser's paths."""
    batch_size: int
    frames_per_second: float
    """Imagined frames of all segments together: the median over batches."""
    denoiser_calls_per_second: float
    """Evaluations of the denoiser for one frame each."""


def measure_sampling_rate(
    agent: Agent, replay: Replay, cfg: RunConfig, batch_size: int, fast: bool = False, seconds: float = 1.0
) -> SamplingRate | None:
    """Draw next frames of held-out contexts for some seconds (3 batches at least); None without any.

    Args:
        fast: with FastDenoiser, whose arithmetic may be coarser; else with the sampler that the errors are measured of.
    """
    context = cfg.denoiser.inner_model.num_steps_conditioning
    starts = spread(replay.lengths, context, batch_size)
    if not starts:
        return None
    device, s = agent.denoiser.device, cfg.world_model.sampler
    sampler = FastDenoiser(agent.denoiser, s) if fast else DiffusionSampler(agent.denoiser, s)
    batch = replay.cut(starts, context)
    obs, act = to_float(batch.frames.to(device)), batch.act.to(device)
    rate = frames_per_second(sampler, obs, act, seconds)
    calls = s.num_steps if s.order == 1 else 2 * s.num_steps - 1
    return SamplingRate(sampler.path if fast else "plain", len(starts), rate, rate * calls)


def frames_per_second(sampler: DiffusionSampler | FastDenoiser, obs: Tensor, act: Tensor, seconds: float) -> float:
    """Next frames drawn a second, after contexts [N,T,C,H,W] and their actions [N,T]: the median over batches."""
    times: list[float] = []
    sampler.sample(obs, act)  # warms up
    while len(times) < 3 or sum(times) < seconds:
        started = time.perf_counter()
        frames, _ = sampler.sample(obs, act)
        frames.sum().item()  # waits for the device
        times.append(time.perf_counter() - started)
    return len(obs) / statistics.median(times)
