"""Do small objects stay what they are in imagined frames (the paper's figure 6)? Counted against the real frames.

An object is a connected patch of one colour before the background, which is what the real frames show most of the
time. From frame to frame an object is the same if one of its colour is near by. Objects come, go and change in real
games too: both sequences are counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from diamond_fast.evaluation.open_loop import Predictions

APART = 40
"""Grey levels by which two colours differ in some channel."""
LEAST_PIXELS = 2
MOST_SHARE = 0.04
"""Of a frame that a small object covers at most."""
REACH = 0.12
"""How far an object moves in a step at most, as a share of the frame's longer side."""
MOST_FRAMES = 1_000
"""Frames that are looked at, at most."""
LEAST_ALIKE = 0.75
"""Digits are readable if no more than the rest of their pixels is wrong."""


class Found(NamedTuple):
    """The small objects of a frame."""

    colours: np.ndarray  # float64 [M,C]
    centres: np.ndarray  # float64 [M,2]: y, x
    boxes: np.ndarray  # int64 [M,4]: top, left, bottom, right; the last two lie outside


class Events(NamedTuple):
    """What happens between two frames, as indices of objects of the later one; of the earlier one for ``vanished``."""

    appeared: list[int]
    vanished: list[int]
    changed: list[int]


@dataclass(frozen=True)
class Faithfulness:
    """Events per 100 frames, in imagined and in real ones."""

    frames: int
    imagined: dict[str, float]
    """``appeared``, ``vanished``, ``changed``."""
    real: dict[str, float]
    digits_readable: float | None
    """Share of imagined frames in which the score's pixels are those of a real frame; None if nobody said where."""


def measure_faithfulness(predictions: Predictions, score_region: Sequence[int] = ()) -> Faithfulness:
    """Follow the objects through as many segments as ``MOST_FRAMES`` allows.

    Args:
        score_region: top, left, bottom, right of the score's pixels.
    """
    horizon = predictions.real.shape[1]
    count = max(1, min(len(predictions.real), MOST_FRAMES // horizon))
    totals = {"imagined": np.zeros(3), "real": np.zeros(3)}
    readable = []
    background = background_of(predictions)
    for s in range(count):
        for kind in totals:
            events = follow(sequence(predictions, s, kind), background)[1]
            totals[kind] += np.sum([[len(what) for what in e] for e in events], axis=0)
        if score_region:
            readable.append(readable_digits(predictions.real[s], predictions.imagined[s], score_region))
    frames = count * horizon
    rates = {
        kind: dict(zip(Events._fields, (100 * total / frames).tolist(), strict=True)) for kind, total in totals.items()
    }
    return Faithfulness(frames, rates["imagined"], rates["real"], float(np.mean(readable)) if readable else None)


def sequence(predictions: Predictions, segment: int, kind: str) -> np.ndarray:
    """The last real frame and those behind it, ``imagined`` or ``real``: uint8 [1+K,H,W,C]."""
    frames = predictions.imagined if kind == "imagined" else predictions.real
    return np.concatenate([predictions.last_seen[segment][None], frames[segment]])


def background_of(predictions: Predictions) -> np.ndarray:
    """What real frames of all segments show most of the time: the median of a thousand of them, [H,W,C]."""
    frames = np.concatenate([predictions.last_seen, predictions.real.reshape(-1, *predictions.real.shape[2:])])
    return np.median(frames[:: -(-len(frames) // 1_000)], axis=0)


def follow(frames: np.ndarray, background: np.ndarray) -> tuple[list[Found], list[Events]]:
    """The objects of frames uint8 [T,H,W,C], and what happens between them: T - 1 events."""
    found = [objects(frame, background) for frame in frames]
    reach = REACH * max(frames.shape[1:3])
    return found, [compare(before, after, reach) for before, after in pairwise(found)]


def objects(frame: np.ndarray, background: np.ndarray) -> Found:
    """The small objects of a frame uint8 [H,W,C] before a background [H,W,C]."""
    height, width, channels = frame.shape
    colour = frame.astype(np.int64)
    foreground = np.abs(colour - background).max(axis=-1) > APART
    labels = _labels(foreground, colour)
    numbers, sizes = np.unique(labels[foreground], return_counts=True)
    kept = numbers[(sizes >= LEAST_PIXELS) & (sizes <= MOST_SHARE * height * width)]
    colours, centres, boxes = np.empty((len(kept), channels)), np.empty((len(kept), 2)), np.empty((len(kept), 4), int)
    for i, number in enumerate(kept):
        y, x = np.nonzero(labels == number)
        colours[i], centres[i] = colour[y, x].mean(axis=0), (y.mean(), x.mean())
        boxes[i] = y.min(), x.min(), y.max() + 1, x.max() + 1
    return Found(colours, centres, boxes)


def _labels(foreground: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """A number for each connected patch: int64 [H,W]. Neighbours in a row or column belong together if alike."""
    height, width = foreground.shape
    labels = np.arange(height * width).reshape(height, width)
    joined = []
    for here, there in (((slice(1, None), slice(None)), (slice(None, -1), slice(None))),
                        ((slice(None), slice(1, None)), (slice(None), slice(None, -1)))):  # fmt: skip
        alike = np.abs(colour[here] - colour[there]).max(axis=-1) <= APART
        joined.append((here, there, foreground[here] & foreground[there] & alike))
    while True:  # the least number spreads through each patch
        before = labels.copy()
        for here, there, together in joined:
            least = np.minimum(labels[here], labels[there])
            labels[here] = np.where(together, least, labels[here])
            labels[there] = np.where(together, np.minimum(least, labels[there]), labels[there])
        if (labels == before).all():
            return labels


def compare(before: Found, after: Found, reach: float) -> Events:
    """Pairs objects of two frames, the nearest of one colour first, then the nearest of others: those have changed."""
    distances = np.linalg.norm(before.centres[:, None] - after.centres[None], axis=-1)
    alike = np.abs(before.colours[:, None] - after.colours[None]).max(axis=-1, initial=0) <= APART
    left, right = set(range(len(before.centres))), set(range(len(after.centres)))
    changed = []
    for wanted in (True, False):
        pairs = np.argwhere((distances <= reach) & (alike == wanted))
        for i, j in sorted(pairs.tolist(), key=lambda pair: distances[pair[0], pair[1]]):
            if i in left and j in right:
                left.remove(i)
                right.remove(j)
                if not wanted:
                    changed.append(j)
    return Events(sorted(right), sorted(left), sorted(changed))


def readable_digits(real: np.ndarray, imagined: np.ndarray, region: Sequence[int]) -> float:
    """Share of imagined frames whose digits are those of some real frame of the segment: uint8 [K,H,W,C] each."""
    top, left, bottom, right = region
    real, imagined = (frames[:, top:bottom, left:right].mean(axis=-1) for frames in (real, imagined))
    threshold = (real.min() + real.max()) / 2
    ink = real > threshold
    if ink.mean() > 0.5:  # dark digits before a light ground
        ink, drawn = ~ink, imagined <= threshold
    else:
        drawn = imagined > threshold
    wrong = (drawn[:, None] != ink[None]).sum(axis=(2, 3))  # [imagined, real]
    return float((wrong <= (1 - LEAST_ALIKE) * np.maximum(ink.sum(axis=(1, 2)), 1)).any(axis=1).mean())


def boxed_frames(
    predictions: Predictions, columns: int = 6, beside: Predictions | None = None
) -> list[tuple[str, np.ndarray, list[tuple[Any, str]]]]:
    """Frames to look at: the segment and steps at which most happens to imagined objects, with the real frames above.

    Args:
        beside: another world model's, of the same segments.

    Returns:
        title, frame uint8 [H,W,C] and boxes, each with what it is: ``same``, ``appeared``, ``vanished``, ``changed``.
        First the real ones, then as many imagined ones, then as many of ``beside``.
    """
    horizon = predictions.real.shape[1]
    segments = range(max(1, min(len(predictions.real), MOST_FRAMES // horizon)))
    background = background_of(predictions)
    models = [predictions] if beside is None else [predictions, beside]
    counts = np.array(
        [
            [[sum(map(len, e)) for e in follow(sequence(m, s, "imagined"), background)[1]] for s in segments]
            for m in models
        ]
    ).sum(axis=0)
    s = int(np.argmax(counts.sum(axis=1)))
    times = sorted(np.argsort(-counts[s], kind="stable")[:columns].tolist())
    shown = []
    rows = [("real", predictions), ("imagined", predictions), ("beside", beside)]
    for kind, of in ((kind, of) for kind, of in rows if of is not None):
        found, events = follow(frames := sequence(of, s, "real" if kind == "real" else "imagined"), background)
        for t in times:
            here, happened = found[t + 1], events[t]
            kinds = dict.fromkeys(range(len(here.boxes)), "same")
            kinds |= dict.fromkeys(happened.appeared, "appeared") | dict.fromkeys(happened.changed, "changed")
            boxes = [(here.boxes[i], what) for i, what in kinds.items()]
            boxes += [(found[t].boxes[i], "vanished") for i in happened.vanished]
            shown.append((f"{kind}, t = {t + 1}", frames[t + 1], boxes))
    return shown
