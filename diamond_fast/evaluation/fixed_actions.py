"""The same moments imagined under fixed actions: does the world model do what it is told? (paper, figure 11)"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from diamond_fast.config import RunConfig
from diamond_fast.engine.choose import Path
from diamond_fast.evaluation.intervals import ci95
from diamond_fast.evaluation.open_loop import imagine_held_out, spread
from diamond_fast.evaluation.optical_flow import flow
from diamond_fast.replay import Replay
from diamond_fast.world_model import Agent

Region = tuple[int, int, int, int]
"""Top, left, bottom, right in pixels; bottom and right lie outside."""
USUAL = (0.05, 0.5, 0.95)
"""Which of the recorded values count as little, usual and much, as shares of all that are smaller."""


def five_actions(act: np.ndarray) -> dict[str, np.ndarray]:
    """Straight on, left, right, slower and faster, as strong as they often were in the recording.

    Args:
        act: float32 [T,2], steering (to the right) and acceleration.
    """
    (left, slow), (straight, steady), (right, fast) = np.quantile(act, USUAL, axis=0).astype(np.float32)
    return {
        "straight": np.array([straight, steady]),
        "left": np.array([left, steady]),
        "right": np.array([right, steady]),
        "slower": np.array([straight, slow]),
        "faster": np.array([straight, fast]),
    }


@dataclass(frozen=True)
class Rollouts:
    """The same S moments, imagined for K frames under each action."""

    last_seen: np.ndarray  # uint8 [S,H,W,C], the real frame before the first imagined one
    imagined: dict[str, np.ndarray]  # uint8 [S,K,H,W,C], by the action's name


@dataclass(frozen=True)
class Effect:
    """How much more of something one action gave than another, from the same moments; in pixels a frame."""

    mean: float
    ci95: float
    """Half the width of the 95 % interval over moments."""

    @classmethod
    def of(cls, differences: np.ndarray) -> "Effect":
        return cls(float(differences.mean()), float(ci95(differences)))

    @property
    def is_positive(self) -> bool:
        """Beyond doubt: the whole interval is. One moment alone has none, and never is."""
        return bool(self.mean - self.ci95 > 0)


def imagine(
    agent: Agent,
    replay: Replay,
    cfg: RunConfig,
    path: Path,
    actions: Mapping[str, np.ndarray],
    seed: int,
    count: int,
    batch_size: int = 32,
    advance: Callable[[int], None] = lambda frames: None,
) -> Rollouts | None:
    """Every moment under every action, with the same noise for all actions.

    Args:
        replay: moments are spread over its episodes.
        cfg: its sampler and horizon count.
        actions: one or more, [*action.shape] each, held from the last real frame on.
        count: moments.
        advance: told how many frames are imagined, whenever some are.

    Returns:
        None if no episode is as long as context and horizon together. Of an agent with an upsampler, and a recording of
        its size, full frames.
    """
    last_seen, imagined = None, {}
    for name, action in actions.items():
        found = imagine_held_out(agent, replay, cfg, path, seed, count, batch_size, advance, instead=action)
        if found is None:
            return None
        last_seen, imagined[name] = found.last_seen, found.imagined
    return None if last_seen is None else Rollouts(last_seen, imagined)


def flow_of(frames: np.ndarray, region: Region) -> np.ndarray:
    """float32 [S,T-1,2]: how far the picture moved to the right and down from each frame to the next.

    Args:
        frames: uint8 [S,T,H,W,C].
        region: what is looked at: parts that never move, such as a car's bonnet, would hold it fast.
    """
    top, left, bottom, right = region
    seen = frames[:, :, top:bottom, left:right]
    return flow(seen[:, :-1], seen[:, 1:])


@dataclass(frozen=True)
class Obedience:
    """What steering and acceleration do to what is imagined."""

    horizontal: dict[str, Effect]
    """Motion of the picture to the right under each action: the scenery's, as a car turns left."""
    speed: dict[str, Effect]
    """Length of its motion."""
    turning: Effect
    """Horizontal motion under left, less that under right, counted so that the recording's is positive."""
    pace: Effect
    """Speed under faster, less that under slower."""
    recorded_turning: float
    """Correlation of steering with horizontal motion in the recording."""

    @property
    def obeys(self) -> bool:
        """A model that ignores its actions does not."""
        return self.turning.is_positive and self.pace.is_positive


def obedience(rollouts: Rollouts, recorded_turning: float, region: Region) -> Obedience:
    """Of rollouts under :func:`five_actions`, whose motion is averaged over all their frames.

    Args:
        recorded_turning: see :func:`turning_in`; its sign says where the picture goes if one steers to the right.
    """
    means, speeds = {}, {}
    for name, frames in rollouts.imagined.items():
        moved = flow_of(np.concatenate((rollouts.last_seen[:, None], frames), axis=1), region)
        means[name] = moved[..., 0].mean(1)
        speeds[name] = np.linalg.norm(moved, axis=-1).mean(1)
    return Obedience(
        {name: Effect.of(values) for name, values in means.items()},
        {name: Effect.of(values) for name, values in speeds.items()},
        Effect.of(-np.sign(recorded_turning) * (means["left"] - means["right"])),
        Effect.of(speeds["faster"] - speeds["slower"]),
        recorded_turning,
    )


def turning_in(replay: Replay, length: int, count: int, region: Region) -> float:
    """Correlation, from -1 to 1, of steering with the picture's horizontal motion over recorded segments; 0 if there is
    none that long.

    Args:
        length, count: of the segments, over which both are averaged.
    """
    starts = spread(replay.lengths, length, count)
    if len(starts) < 2:
        return 0.0
    batch = replay.cut(starts, length)
    moved = flow_of(batch.frames.numpy(), region)[..., 0].mean(1)
    steered = batch.act[:, :-1, 0].numpy().mean(1)
    if moved.std() == 0 or steered.std() == 0:
        return 0.0
    return float(np.corrcoef(steered, moved)[0, 1])
