"""Open-loop predictions: held-out episodes imagined from their actions and the model's own frames alone."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diamond_fast.config import RunConfig
from diamond_fast.engine.choose import Path
from diamond_fast.engine.imagination import Sampler, burn_in
from diamond_fast.engine.world import next_frame_sampler
from diamond_fast.frames import to_float, to_uint8
from diamond_fast.networks.recurrent.model import MemoryModel
from diamond_fast.replay import Replay
from diamond_fast.upsampling import upsampling_input
from diamond_fast.world_model import Agent

NUM_SEGMENTS = 3


class Predictions(NamedTuple):
    """Real frames and what the world model made of the same actions: S segments of K frames."""

    last_seen: np.ndarray  # uint8 [S,H,W,C], the real frame before the first imagined one
    real: np.ndarray  # uint8 [S,K,H,W,C]
    imagined: np.ndarray  # uint8 [S,K,H,W,C]


def spread(lengths: np.ndarray, needed: int, count: int) -> list[tuple[int, int]]:
    """Up to ``count`` segments (episode, first step), spread evenly over all episodes longer than ``needed`` steps.

    Fewer if the episodes have fewer places.
    """
    long_enough = [i for i, n in enumerate(lengths.tolist()) if n > needed]
    if not long_enough:
        return []
    episodes = [long_enough[k % len(long_enough)] for k in range(count)]
    starts = [(e, int(lengths[e] - needed) * (2 * k + 1) // (2 * count)) for k, e in enumerate(episodes)]
    return list(dict.fromkeys(starts))


def imagine_held_out(
    agent: Agent,
    replay: Replay,
    cfg: RunConfig,
    path: Path,
    seed: int,
    count: int = NUM_SEGMENTS,
    batch_size: int = 32,
    advance: Callable[[int], None] = lambda frames: None,
    instead: np.ndarray | None = None,
    watched: int = 0,
) -> Predictions | None:
    """Predict ``horizon`` frames after held-out contexts, from the recorded actions and the model's own frames alone.

    Args:
        cfg: its sampler and horizon count.
        path: how frames are drawn.
        seed: of the noise.
        count: segments, see :func:`spread`.
        batch_size: segments imagined together; part of what decides the noise of each.
        advance: told how many frames are imagined, whenever some are.
        instead: an action that is held from the last real frame on, whatever was recorded; ``real`` is as recorded.
        watched: as ``imagine_from``.

    Returns:
        None if no episode is long enough. Of an agent with an upsampler, and a recording of its size, full frames.
    """
    length = cfg.denoiser.inner_model.num_steps_conditioning + watched + cfg.world_model.horizon
    starts = spread(replay.lengths, length, count)
    if not starts:
        return None
    return imagine_from(agent, replay, cfg, path, seed, starts, batch_size, advance, instead, watched)


def imagine_from(
    agent: Agent,
    replay: Replay,
    cfg: RunConfig,
    path: Path,
    seed: int,
    starts: Sequence[tuple[int, int]],
    batch_size: int = 32,
    advance: Callable[[int], None] = lambda frames: None,
    instead: np.ndarray | None = None,
    watched: int = 0,
) -> Predictions:
    """The same of given segments, one or more: episode and first step of the context.

    Args:
        watched: real frames between the context and the first imagined one. A memory sees all of them, the denoiser
            no more than its last ones.
    """
    window = cfg.denoiser.inner_model.num_steps_conditioning
    context = window + watched
    length = context + cfg.world_model.horizon
    device = agent.denoiser.device
    randn = seeded_randn(device, seed)
    sampler = next_frame_sampler(agent.denoiser, cfg.world_model.sampler, path)
    upsampling = None
    if agent.upsampler is not None and replay.full_shape == cfg.full_frame_shape:
        upsampling = next_frame_sampler(agent.upsampler, cfg.world_model.upsampling, path)
        first_seen = context - cfg.upsampler.inner_model.num_steps_conditioning
    batch = replay.cut(starts, length, full=upsampling is not None)
    act = batch.act.clone()
    if instead is not None:
        act[:, context - 1 :] = torch.as_tensor(instead, dtype=act.dtype)
    imagined = []
    for rows in torch.arange(len(starts)).split(batch_size):
        real_context = to_float(batch.frames[rows, :context].to(device))
        small = predict_frames(sampler, real_context, act[rows].to(device), randn, advance, agent.memory, window)
        if upsampling is None:
            imagined.append(to_uint8(small).cpu())
        else:
            seen = batch.full_frames[rows, first_seen:context].to(device)
            imagined.append(enlarge_frames(upsampling, seen, small, randn))
    real = (batch.frames if upsampling is None else batch.full_frames).numpy()
    return Predictions(real[:, context - 1], real[:, context:], torch.cat(imagined).numpy())


def enlarge_frames(upsampling: Sampler, seen: Tensor, small: Tensor, randn: Callable[..., Tensor]) -> Tensor:
    """Full frames of imagined small ones, each from the full one before it: small frames depend on no full ones.

    Args:
        upsampling: draws full frames.
        seen: uint8 [S,T',H,W,C] the real ones before the first.
        small: [S,K,C,h,w] in [-1, 1].

    Returns:
        uint8 [S,K,H,W,C] on the CPU.
    """
    before, frames = to_float(seen), []
    for frame in small.unbind(1):
        full, _ = upsampling.sample(*upsampling_input(frame, before), randn)
        before = torch.cat((before[:, 1:], full[:, None]), dim=1)
        frames.append(to_uint8(full).cpu())
    return torch.stack(frames, dim=1)


@torch.no_grad()
def predict_frames(
    sampler: Sampler,
    context: Tensor,
    act: Tensor,
    randn: Callable[..., Tensor] = torch.randn,
    advance: Callable[[int], None] = lambda frames: None,
    memory: MemoryModel | None = None,
    window: int | None = None,
) -> Tensor:
    """Frames imagined one after the other, each from its predecessors.

    Args:
        context: [S,T,C,H,W] real frames in [-1, 1].
        act: [S,T+K] int64; the action at index T+k-1 leads to predicted frame k (from 0).
        advance: told S after each step.
        memory: the world model's, if it has one. It has seen no more than the context at first.
        window: frames that the denoiser sees, at most T; None: T.

    Returns:
        [S,K,C,H,W].
    """
    frames = []
    for frame in imagined_frames(sampler, context, act, randn, memory, window):
        frames.append(frame)
        advance(len(act))
    return torch.stack(frames, dim=1)


@torch.no_grad()
def imagined_frames(
    sampler: Sampler,
    context: Tensor,
    act: Tensor,
    randn: Callable[..., Tensor] = torch.randn,
    memory: MemoryModel | None = None,
    window: int | None = None,
) -> Iterator[Tensor]:
    """The frames of ``predict_frames`` one by one, [S,C,H,W]: no more than a context of them is kept."""
    t = context.size(1)
    window = window or t
    frames = list(context[:, t - window :].unbind(1))
    if memory is not None:
        seen = torch.ones(len(act), t, dtype=torch.bool, device=context.device)
        state = burn_in(memory, context, act[:, :t], seen)[0][0]
    for k in range(act.size(1) - t):
        told = {}
        if memory is not None:
            told["memory"], state = memory.step(frames[-1], act[:, k + t - 1], state)
        frame, _ = sampler.sample(torch.stack(frames, dim=1), act[:, k + t - window : k + t], randn, **told)
        frames = [*frames[1:], frame]
        yield frame


def pixel_errors(real: np.ndarray, imagined: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean absolute difference and root mean square difference of each frame, in grey levels (0 to 255).

    Args:
        real, imagined: uint8 [..., H, W, C]; shapes that broadcast.

    Returns:
        two float64 arrays [...].
    """
    difference = real.astype(np.float32) - imagined
    pixels = (-3, -2, -1)
    mean_absolute = np.abs(difference).mean(pixels, dtype=np.float64)
    return mean_absolute, np.sqrt(np.square(difference).mean(pixels, dtype=np.float64))


def seeded_randn(device: torch.device, seed: int) -> Callable[..., Tensor]:
    generator = torch.Generator(device).manual_seed(seed)

    def randn(*shape: int, device: torch.device) -> Tensor:
        return torch.randn(*shape, device=device, generator=generator)

    return randn
