"""Whether a recording fits the networks that are to learn from it, or to be judged on it."""

from collections.abc import Sequence
from pathlib import Path

from diamond_fast.replay.buffer import Replay
from diamond_fast.replay.formats import load_recording
from diamond_fast.spec import Action, Discrete

MOST_ACTIONS = 1_000
"""A recording with more is one whose actions are no choices of a game, unless their number is given."""


def frame_size_of(path: Path) -> int | tuple[int, int] | None:
    """Height and width of a recording's frames, or one number for both; None if it cannot be read.

    Why it cannot be read, those will say who read it all.
    """
    try:
        height, width, _ = load_recording(path).frame_shape
    except (ValueError, OSError):
        return None
    return height if height == width else (height, width)


def check_fits(
    flag: str,
    path: Path | str,
    replay: Replay,
    frame_shape: Sequence[int],
    action: Action | None = None,
    least_steps: int = 1,
) -> Action:
    """The action: the given one, or the recorded one; of choices, one more than the largest recorded.

    Args:
        flag: that named the recording, for errors.
        path: of the recording.
        replay: what it holds.
        frame_shape: H, W, C of the networks.
        action: of the game or the networks; None if nobody knows.
        least_steps: that are needed.

    Raises:
        ValueError: too little is recorded, frames have another shape or are black, or actions are others.
    """
    where = f"{flag} {path}"
    if replay.num_steps < least_steps:
        raise ValueError(f"{where}: holds {replay.num_steps} steps, at least {least_steps} are needed")
    if replay.frame_shape != tuple(frame_shape):
        height, width, channels = replay.frame_shape
        size = " ".join(map(str, dict.fromkeys(frame_shape[:2])))
        raise ValueError(
            f"{where}: its frames are {height}x{width}x{channels}, the networks' {'x'.join(map(str, frame_shape))}; "
            f"python -m diamond_fast.replay import {path} NEW.journal --frame-size {size} makes them so"
        )
    recorded = _recorded_action(where, replay, action or replay.action)
    if action is not None and not action.covers(recorded):
        raise ValueError(f"{where}: its actions are {recorded}, the networks' {action}")
    if all(int(replay.episode(i).obs.max()) <= 1 for i in range(replay.num_episodes)):
        raise ValueError(f"{where}: no value of its frames is above 1 of 255, which is black; store 255 times as much")
    return recorded


def _recorded_action(where: str, replay: Replay, action: Action | None) -> Action:
    """What is recorded: choices that a known number allows are of that number."""
    acts = [replay.episode(i).act for i in range(replay.num_episodes)]
    if replay.action is not None and replay.action.shape:
        if reason := next(filter(None, map(replay.action.why_not, acts)), None):
            raise ValueError(f"{where}: its actions: {reason}")
        return replay.action
    least, most = min(int(act.min()) for act in acts), max(int(act.max()) for act in acts)
    choices = action if isinstance(action, Discrete) else None
    if choices is None and most >= MOST_ACTIONS:
        raise ValueError(f"{where}: its actions go up to {most}; if a game has so many, say so with --num-actions")
    if least < 0 or (choices is not None and most >= choices.n):
        expected = "expected 0 or more" if choices is None else f"expected 0 to {choices.n - 1}"
        raise ValueError(f"{where}: its actions go from {least} to {most}, {expected}")
    return choices or Discrete(most + 1)
