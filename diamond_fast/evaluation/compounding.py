"""How errors add up over imagined frames, for any number of denoising steps."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from diamond_fast.config import RunConfig
from diamond_fast.engine.choose import Path
from diamond_fast.evaluation.intervals import ci95
from diamond_fast.evaluation.open_loop import Predictions, imagine_held_out, pixel_errors
from diamond_fast.replay import Replay
from diamond_fast.world_model import Agent


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
    """The error of repeating the last real frame: the baseline."""
    predictions: dict[int, Predictions]
    """With the first noise seed."""
    beside: "Compounding | None" = None
    """Another world model's, of the same segments."""

    @property
    def num_segments(self) -> int:
        return len(next(iter(self.predictions.values())).real)


def measure_compounding(
    agent: Agent,
    replay: Replay,
    cfg: RunConfig,
    path: Path,
    denoising_steps: tuple[int, ...],
    num_segments: int,
    num_noise_seeds: int,
    seed: int,
    batch_size: int,
    advance: Callable[[int], None] = lambda frames: None,
    watched: int = 0,
) -> Compounding | None:
    """Imagine held-out segments from their actions and compare frame by frame with what really happened.

    A segment's error is averaged over the noise seeds; intervals are over segments (Student's t), which they treat as
    independent.

    Args:
        cfg: its horizon counts, and its sampler but for the number of steps.
        path: how frames are drawn.
        advance: told how many frames are imagined; in all there are ``num_segments * horizon`` for each noise seed and
            number of steps, if the episodes have room for the segments.
        watched: real frames before the context, which a memory sees.

    Returns:
        None if no episode is as long as all that together.
    """
    curves: dict[int, ErrorCurve] = {}
    predictions: dict[int, Predictions] = {}
    for steps in denoising_steps:
        errors, steps_cfg = [], replace(cfg, world_model=cfg.world_model.with_denoising_steps(steps))
        for number in range(num_noise_seeds):
            noise = int(np.random.SeedSequence((seed, steps, number)).generate_state(1)[0])
            how = steps_cfg, path, noise, num_segments, batch_size, advance
            imagined = imagine_held_out(agent, replay, *how, watched=watched)
            if imagined is None:
                return None
            predictions.setdefault(steps, imagined)
            errors.append(pixel_errors(imagined.real, imagined.imagined))
        curves[steps] = ErrorCurve.of(*np.mean(errors, axis=0))
    assert imagined is not None
    unchanged = ErrorCurve.of(*pixel_errors(imagined.real, imagined.last_seen[:, None]))
    return Compounding(curves, unchanged, predictions)
