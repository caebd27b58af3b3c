"""Does a world model remember what it no longer sees? It turns fully round in imagination, and should be back then."""

from collections.abc import Mapping

import numpy as np

from diamond_fast.evaluation.intervals import ci95
from diamond_fast.evaluation.open_loop import pixel_errors
from diamond_fast.replay import Replay

PARTS = {"a quarter": 0.25, "half": 0.5, "three quarters": 0.75}
FULL = "full"
LAST, ELSEWHERE, REAL = "the last real frame again", "another moment's first frame", "the real turn"


def turns_in(replay: Replay, row: np.ndarray, steps: int, context: int) -> list[tuple[int, int]]:
    """Segments (episode, first step) whose last frame of a context begins so many steps of one action.

    Args:
        row: [*action.shape], the action; numbers may be off by a thousandth.
        steps: of a full turn. No two turns share one.
        context: frames seen before; the last of them is where the turn begins.
    """
    found = []
    for episode in range(replay.num_episodes):
        act = replay.episode(episode).act
        same = np.isclose(act, row, rtol=0, atol=1e-3).reshape(len(act), -1).all(axis=1)
        t = context - 1
        while t + steps < len(act):
            if same[t : t + steps].all():
                found.append((episode, t - context + 1))
                t += steps
            else:
                t += 1
    return found


def turning_errors(
    first: np.ndarray, real: np.ndarray, imagined: Mapping[str, np.ndarray]
) -> dict[str, dict[str, tuple[float, float]]]:
    """How far each way of knowing is off: on the way from what was there, after the full turn from the first frame.

    Beside models stand the last real frame again, which is right after a full turn and nowhere else; the first frames
    of other moments, which is what is left to a model that knows the world but not the place; and the real turn, which
    says how exactly it leads back.

    Args:
        first: uint8 [S,H,W,C], the frame in which each of S turns begins.
        real: uint8 [S,K,H,W,C], the K frames behind it.
        imagined: the same of each model.

    Returns:
        by way and part of the turn the mean over turns, and half its 95 % interval, of the mean absolute difference in
        grey levels (0 to 255).
    """
    stays = np.broadcast_to(first[:, None], real.shape)
    ways = {**imagined, LAST: stays, ELSEWHERE: np.roll(stays, 1, axis=0), REAL: real}
    at = {part: max(1, round(share * real.shape[1])) - 1 for part, share in PARTS.items()}
    targets = {part: (k, real[:, k]) for part, k in at.items()} | {FULL: (-1, first)}

    def off(frames: np.ndarray, target: np.ndarray) -> tuple[float, float]:
        error, _ = pixel_errors(target, frames)
        return float(error.mean()), float(ci95(error))

    return {way: {part: off(x[:, k], target) for part, (k, target) in targets.items()} for way, x in ways.items()}
