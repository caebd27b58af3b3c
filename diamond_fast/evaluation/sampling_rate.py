"""How fast frames are imagined."""

import statistics
from dataclasses import dataclass

from torch import Tensor

from diamond_fast.config import RunConfig
from diamond_fast.engine.contest import told_nothing
from diamond_fast.engine.fast_denoiser import FastDenoiser
from diamond_fast.engine.path import Path
from diamond_fast.evaluation.open_loop import spread
from diamond_fast.frames import to_float
from diamond_fast.replay import Replay
from diamond_fast.timing import timed, wait_for
from diamond_fast.world_model import Agent, DiffusionSampler


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
    agent: Agent, replay: Replay, cfg: RunConfig, batch_size: int, path: Path | None = None, seconds: float = 1.0
) -> SamplingRate | None:
    """Draw next frames of held-out contexts for some seconds (3 batches at least); None without any.

    Args:
        path: with FastDenoiser on this path; None: with the plain sampler.
    """
    context = cfg.denoiser.inner_model.num_steps_conditioning
    starts = spread(replay.lengths, context, batch_size)
    if not starts:
        return None
    device, s = agent.denoiser.device, cfg.world_model.sampler
    sampler = DiffusionSampler(agent.denoiser, s) if path is None else FastDenoiser(agent.denoiser, s, engine=path)
    batch = replay.cut(starts, context)
    obs, act = to_float(batch.frames.to(device)), batch.act.to(device)
    told = None if agent.memory is None else told_nothing(agent.denoiser.spec, len(starts)).to(device)
    rate = frames_per_second(sampler, obs, act, seconds, told)
    return SamplingRate(
        sampler.path if isinstance(sampler, FastDenoiser) else "plain", len(starts), rate, rate * s.num_evaluations
    )


def frames_per_second(
    sampler: DiffusionSampler | FastDenoiser, obs: Tensor, act: Tensor, seconds: float, memory: Tensor | None = None
) -> float:
    """Next frames drawn a second, after contexts [N,T,C,H,W] and their actions [N,T]: the median over batches.

    ``memory``: what one says of them [N,M], for a denoiser that is told it; what it takes to read it is not counted.
    """

    def sample() -> None:
        if memory is None:
            sampler.sample(obs, act)
        else:
            sampler.sample(obs, act, memory=memory)
        wait_for(obs.device)

    return len(obs) / statistics.median(t.wall for t in timed(sample, seconds, at_least=3))
