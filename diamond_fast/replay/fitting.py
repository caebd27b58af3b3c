"""Whether a recording fits the networks that are to learn from it, or to be judged on it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diamond_fast.replay.buffer import Replay

MOST_ACTIONS = 1_000
"""A recording with more is one whose actions are no choices of a game, unless their number is given."""


def check_fits(
    flag: str,
    path: Path | str,
    replay: Replay,
    frame_shape: Sequence[int],
    num_actions: int | None = None,
    least_steps: int = 1,
) -> int:
    """The number of actions: what is given, or one more than the largest recorded.

    Args:
        flag: that named the recording, for errors.
        path: of the recording.
        replay: what it holds.
        frame_shape: H, W, C of the networks.
        num_actions: of the game; None if nobody knows.
        least_steps: that are needed.

    Raises:
        ValueError: too little is recorded, frames have another shape or are black, or actions are out of range.
    """
    where = f"{flag} {path}"
    if replay.num_steps < least_steps:
        raise ValueError(f"{where}: holds {replay.num_steps} steps, at least {least_steps} are needed")
    if replay.frame_shape != tuple(frame_shape):
        height, width, channels = replay.frame_shape
        size = frame_shape[0]
        raise ValueError(
            f"{where}: its frames are {height}x{width}x{channels}, the networks' {'x'.join(map(str, frame_shape))}; "
            f"python -m diamond_fast.replay import {path} NEW.journal --frame-size {size} makes them so"
        )
    acts = [replay.episode(i).act for i in range(replay.num_episodes)]
    least, most = min(int(np.min(act)) for act in acts), max(int(np.max(act)) for act in acts)
    if num_actions is None and most >= MOST_ACTIONS:
        raise ValueError(f"{where}: its actions go up to {most}; if a game has so many, say so with --num-actions")
    if least < 0 or (num_actions is not None and most >= num_actions):
        expected = "expected 0 or more" if num_actions is None else f"expected 0 to {num_actions - 1}"
        raise ValueError(f"{where}: its actions go from {least} to {most}, {expected}")
    if all(int(replay.episode(i).obs.max()) <= 1 for i in range(replay.num_episodes)):
        raise ValueError(f"{where}: no value of its frames is above 1 of 255, which is black; store 255 times as much")
    return most + 1 if num_actions is None else num_actions
