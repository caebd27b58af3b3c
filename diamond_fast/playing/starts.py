"""Where an imagined episode can begin: at recorded moments, of which pictures are shown, or at one's own picture."""

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diamond_fast.area import AreaResize
from diamond_fast.frames import to_float
from diamond_fast.playing.source import Source
from diamond_fast.replay import Replay
from diamond_fast.replay.batch import Batch

MOST_PICTURES = 12
PICTURE_WIDTH = 96  # pixels, at most

Place = tuple[int, int]
"""Episode and step of the replay."""


class Beginning(NamedTuple):
    """Frames that an imagined episode goes on from."""

    context: Batch
    """One segment, as long as the denoiser looks back; longer if more was seen and there is a memory for it."""
    full: Tensor | None = None
    """[1,T',C,H,W] in [-1, 1]: the last of them in full size, if that is not part of the context."""
    place: Place | None = None
    """Where it was recorded, if it was."""


def spread_places(source: Source) -> list[Place]:
    """A few recorded moments, spread evenly over the replay, with as many frames before them as the model looks at."""
    before = source.agent.spec.context - 1
    lengths = source.replay.lengths
    first = np.minimum(before, lengths - 1)
    ends = (lengths - first).cumsum()
    chosen = np.linspace(0, ends[-1] - 1, min(MOST_PICTURES, ends[-1])).round().astype(int)
    episodes = np.searchsorted(ends, chosen, side="right")
    steps = first[episodes] + chosen - (ends - (lengths - first))[episodes]
    return list(zip(episodes.tolist(), steps.tolist(), strict=True))


def pictures(source: Source) -> list[dict[str, Any]]:
    """Those of ``spread_places``, for the page: ``place``, ``size`` [h,w] and ``rgb``, uint8 [h,w,3] in base64."""
    shown = []
    for episode, step in spread_places(source):
        recording = source.replay.episode(episode)
        frame = (recording.obs if recording.full_obs is None else recording.full_obs)[step]
        height, width = frame.shape[:2]
        size = (height, width) if width <= PICTURE_WIDTH else (height * PICTURE_WIDTH // width, PICTURE_WIDTH)
        small = AreaResize((height, width), size)(np.array(frame))
        shown.append({"place": (episode, step), "size": size, "rgb": base64.b64encode(small.tobytes()).decode()})
    return shown


def own_picture(source: Source, pixels: bytes) -> Beginning:
    """A picture that has been there for as long as the model looks back, while nobody did anything.

    Args:
        source: whose world it is.
        pixels: bytes of a uint8 frame [H,W,3] as the world is shown.

    Raises:
        ValueError: there are more or fewer bytes.
    """
    expected = int(np.prod(source.frame_shape))
    if len(pixels) != expected:
        raise ValueError(f"picture: expected {expected} bytes, a frame of {source.frame_shape}, got {len(pixels)}")
    frame = np.frombuffer(pixels, np.uint8).reshape(source.frame_shape)
    return of_frames(source, [(frame, source.panel.idle)] * source.agent.spec.context)


def of_frames(source: Source, steps: Sequence[tuple[np.ndarray, np.ndarray]]) -> Beginning:
    """Frames as they are shown, and what was done at each; padded in front if there are too few for the model."""
    steps = steps[-source.most_seen :]
    length = max(source.agent.spec.context, len(steps))
    small_size = source.replay.frame_shape
    resize = AreaResize(source.frame_shape[:2], small_size[:2])
    replay = Replay(small_size, capacity=len(steps), action=source.agent.spec.action)
    no = np.zeros(1, bool)
    for frame, act in steps:
        small = resize(frame)[None]
        replay.append(small, act[None], np.zeros(1, np.float32), no, no, small)
    replay.commit()
    context = replay.segment(0, len(steps) - length, len(steps))
    if not source.enlarges:
        return Beginning(context)
    frames = torch.from_numpy(np.stack([frame for frame, _ in steps[-source.num_full :]])).to(source.device)
    full = to_float(frames)[None]
    padding = full.new_zeros(1, source.num_full - full.size(1), *full.shape[2:])
    return Beginning(context, torch.cat((padding, full), dim=1))
