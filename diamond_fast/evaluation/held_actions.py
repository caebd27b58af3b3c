"""What actions do in imagination and in the recording: how pictures move under any actions that are held."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from diamond_fast.evaluation.fixed_actions import Rollouts
from diamond_fast.evaluation.intervals import ci95
from diamond_fast.evaluation.optical_flow import flow
from diamond_fast.replay import Replay
from diamond_fast.spec import Action, Discrete, Mixed

EFFECTS = ("sideways", "apart", "differs")
"""Pixels a frame by which the picture moves to the right; by which its halves move apart, as they do for someone who
walks on; and grey levels by which it differs from that under the first action."""


def action_row(action: Action, given: Any) -> np.ndarray:
    """An action as it is written in JSON: a number, a list, or an object with those of parts, of which some may be
    missing: nothing is held then, numbers are 0, of choices it is the first.

    Raises:
        ValueError: it is none of the world's.
    """
    if isinstance(action, Mixed):
        if not isinstance(given, Mapping):
            raise ValueError(f"expected an object with {', '.join(name for name, _ in action.parts)}, got {given}")
        idle = {name: np.zeros(part.shape, part.dtype) for name, part in action.parts}
        return action.encode({**idle, **{name: np.asarray(value) for name, value in given.items()}})
    row = np.asarray(given)
    if row.shape != action.shape or (reason := action.why_not(row)):
        raise ValueError(reason if row.shape == action.shape else f"expected {list(action.shape)}, got {given}")
    return row.astype(action.dtype)


def effects(rollouts: Rollouts) -> dict[str, dict[str, np.ndarray]]:
    """Of each action, by the names in ``EFFECTS``: float64 [2], the mean over moments and half its 95 % interval."""
    first = next(iter(rollouts.imagined.values())).astype(np.float32)
    found = {}
    for name, imagined in rollouts.imagined.items():
        frames = np.concatenate((rollouts.last_seen[:, None], imagined), axis=1)
        values = moved(frames[:, :-1], frames[:, 1:])
        values["differs"] = np.abs(imagined - first).mean(axis=(-3, -2, -1), dtype=np.float64)
        found[name] = {effect: _with_interval(values[effect].mean(axis=1)) for effect in EFFECTS}
    return found


def recorded_effects(replay: Replay, row: np.ndarray, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """``sideways`` and ``apart`` [2] in the recording, after the steps whose action is most like this one.

    Args:
        row: [*action.shape].
        count: of steps.
        seed: decides among steps that are equally like it.
    """
    places, distances = [], []
    for episode in range(replay.num_episodes):
        act = replay.episode(episode).act[:-1]
        places += [(episode, t) for t in range(len(act))]
        differs = np.abs(act.astype(np.float64) - row).reshape(len(act), -1)
        distances.append((differs > 0).any(axis=1) if isinstance(replay.action, Discrete) else differs.sum(axis=1))
    order = np.random.default_rng(seed).permutation(len(places))
    nearest = order[np.argsort(np.concatenate(distances)[order], kind="stable")][:count]
    batch = replay.cut([places[i] for i in nearest], 2, full=replay.full_shape is not None)
    frames = (batch.frames if replay.full_shape is None else batch.full_frames).numpy()
    return {name: _with_interval(values) for name, values in moved(frames[:, 0], frames[:, 1]).items()}


def moved(before: np.ndarray, after: np.ndarray) -> dict[str, np.ndarray]:
    """``sideways`` and ``apart`` between frames uint8 [...,H,W,C]. -> float32 [...] each

    The lowest third of the picture is left out: there are hands, instruments or a car, which stay.
    """
    before, after = (frames[..., : -(-2 * frames.shape[-3] // 3), :, :] for frames in (before, after))
    half = before.shape[-2] // 2
    whole, left, right = (
        flow(before[..., part, :], after[..., part, :])[..., 0]
        for part in (slice(None), slice(half), slice(-half, None))
    )
    return {"sideways": whole, "apart": right - left}


def _with_interval(values: np.ndarray) -> np.ndarray:
    """Independent values [N] -> [2]"""
    return np.array([values.mean(), ci95(values)])
