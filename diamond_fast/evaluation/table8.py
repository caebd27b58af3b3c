"""The paper's comparison of architectures (appendix M, table 8): one row of it, measured, beside the published ones."""

from typing import Any

from diamond_fast.config import RunConfig
from diamond_fast.engine.choose import Path
from diamond_fast.engine.world import next_frame_sampler
from diamond_fast.evaluation.open_loop import Predictions, predict_frames, spread
from diamond_fast.evaluation.perceptual import Perceptual
from diamond_fast.evaluation.videos import VideoDistances
from diamond_fast.frames import to_float
from diamond_fast.one_line import counted
from diamond_fast.replay import Replay
from diamond_fast.timing import Timing, timed, wait_for
from diamond_fast.world_model import Agent

NUM_FRAMES, NUM_STEPS = 16, 20
"""Frames of a video, and denoising steps of a frame."""

PUBLISHED = {
    "DreamerV3": (106.8, 509.1, 0.173, 266.7, 181),
    "IRIS, 16 tokens": (24.5, 110.1, 0.129, 4.2, 123),
    "IRIS, 64 tokens": (22.8, 85.7, 0.116, 1.5, 111),
    "DIAMOND, frame-stack": (9.6, 34.8, 0.107, 7.4, 122),
    "DIAMOND, cross-attention": (11.6, 81.4, 0.125, 2.5, 184),
}
"""CS:GO: FID, FVD, LPIPS, frames a second one after the other on an RTX A6000, millions of parameters. Each was trained
for 120 000 updates of 64 sequences on 2.6 hours of play, and judged on 1024 videos of 16 frames of 64x64."""


def measure_row(
    agent: Agent,
    replay: Replay,
    cfg: RunConfig,
    path: Path,
    predictions: Predictions,
    perceptual: dict[str, Any],
    videos: VideoDistances,
) -> dict[str, Any]:
    """One row.

    Args:
        replay, cfg, path: what frames are drawn from, in how many steps, and how.
        predictions: real videos, and those imagined from the same starts and actions.
        perceptual: of these, from ``Perceptual.distances``.
    """
    lpips = perceptual["lpips"]
    each = one_after_the_other(agent, replay, cfg, path)
    return {
        "videos": len(predictions.real),
        "frames": predictions.real.shape[1],
        "fid": perceptual["fid"],
        "lpips": None if lpips is None else sum(lpips) / len(lpips),
        **videos.distances(predictions),
        "frames_per_second": 1 / each.wall,
        "processor_seconds_per_frame": each.cpu,
        "parameters": sum(p.numel() for model in (agent.denoiser, agent.memory) if model for p in model.parameters()),
    }


def one_after_the_other(agent: Agent, replay: Replay, cfg: RunConfig, path: Path, seconds: float = 1.0) -> Timing:
    """Time for a frame of one video, each frame drawn from those before: the least of some videos."""
    context = cfg.denoiser.inner_model.num_steps_conditioning
    length = context + cfg.world_model.horizon
    batch = replay.cut(spread(replay.lengths, length, 1), length)
    sampler = next_frame_sampler(agent.denoiser, cfg.world_model.sampler, path)
    device = agent.denoiser.device
    seen, act = to_float(batch.frames[:, :context].to(device)), batch.act.to(device)

    def video() -> None:
        predict_frames(sampler, seen, act, memory=agent.memory)
        wait_for(device)

    videos = timed(video, seconds)
    return Timing(*(min(times) / cfg.world_model.horizon for times in zip(*videos, strict=True)))


def check_counts(perceptual: Perceptual, replay: Replay, cfg: RunConfig, num_videos: int) -> None:
    """Raises ValueError if there is no room for so many videos, or if they are too few for a distance."""
    length = cfg.denoiser.inner_model.num_steps_conditioning + cfg.world_model.horizon
    room = len(spread(replay.lengths, length, num_videos))
    if room < num_videos:
        raise ValueError(f"--videos: --held-out has room for {room} of {length} frames and more, not for {num_videos}")
    frames = num_videos * cfg.world_model.horizon
    if perceptual.fid_width and frames <= perceptual.fid_width:
        raise ValueError(f"--videos: FID needs more than {perceptual.fid_width} frames, and {frames} are too few")


def told(rows: dict[str, dict[str, Any]], device: str) -> list[str]:
    """The table in lines; ``rows`` by denoising steps."""
    lines = [f"{'table 8':28}{'FID':>8}{'FVD':>8}{'LPIPS':>8}{'Hz':>8}{'M parameters':>14}"]
    for n, row in rows.items():
        figures = (row["fid"], row["fvd"], row["lpips"], row["frames_per_second"], row["parameters"] / 1e6)
        lines.append(_line(f"this one, {_steps(n)}", figures))
    lines += [_line(f"published: {name}"[:27], figures) for name, figures in PUBLISHED.items()]
    first = next(iter(rows.values()))
    lines.append(f"this one: {first['videos']} videos of {first['frames']} frames, on {device}; - is not measured")
    lines.append("published: CS:GO, 1024 videos of 16 frames of 64x64, 20 steps, rates on an RTX A6000")
    for n, row in rows.items():
        stand_ins = f"random 3-D network {row['random_network_frechet']:.4g}, colours {row['colour_frechet']:.4g}"
        lines.append(f"Fréchet distances that are neither FVD nor FID, {_steps(n)}: {stand_ins}")
    return lines


def _steps(n: str) -> str:
    return counted(int(n), "step")


def _line(name: str, figures: tuple[float | None, ...]) -> str:
    shown = [
        f"{'-' if x is None else format(x, form):>{width}}"
        for x, form, width in zip(figures, (".1f", ".1f", ".3f", ".1f", ".1f"), (8, 8, 8, 8, 14), strict=True)
    ]
    return f"{name:28}{''.join(shown)}"
