"""The world model on episodes it was not trained on: losses, and frames predicted beside real ones."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diamond_fast.config import RunConfig
from diamond_fast.frames import to_float, to_uint8
from diamond_fast.models.agent import Agent
from diamond_fast.models.sampler import DiffusionSampler
from diamond_fast.replay import Replay

NUM_BATCHES = 4  # per loss
NUM_STRIPS = 3


@torch.no_grad()
def held_out_losses(agent: Agent, replay: Replay, cfg: RunConfig, seed: int) -> dict[str, float]:
    """Losses of denoiser and reward/end model, on a few batches drawn uniformly from held-out episodes."""
    device = agent.denoiser.device
    generator = torch.Generator(device).manual_seed(seed)

    def randn(*shape: int, device: torch.device) -> Tensor:
        return torch.randn(*shape, device=device, generator=generator)

    def denoiser_loss(obs: Tensor, act: Tensor, mask: Tensor, **_: Tensor) -> Tensor:
        return agent.denoiser.loss(obs, act, mask, cfg.sigma_distribution, randn)

    def reward_end_loss(obs: Tensor, act: Tensor, rew: Tensor, end: Tensor, mask: Tensor) -> Tensor:
        return agent.rew_end_model.loss(obs, act, rew, end, mask).total

    def mean_loss(loss: Callable[..., Tensor], batch_size: int, length: int, beyond_end: bool) -> float:
        segments = replay.segments(batch_size, length, beyond_end=beyond_end, seed=seed)
        total = torch.zeros((), device=device)
        for _ in range(NUM_BATCHES):
            b = segments.next().to(device)
            total += loss(obs=b.obs(), act=b.act, rew=b.rew, end=b.end, mask=b.mask_padding)
        return total.item() / NUM_BATCHES

    return {
        "denoiser/held_out_loss": mean_loss(
            denoiser_loss, cfg.denoiser_update.batch_size, cfg.denoiser_seq_length, beyond_end=False
        ),
        "reward_end/held_out_loss": mean_loss(
            reward_end_loss, cfg.reward_end_update.batch_size, cfg.reward_end_seq_length, beyond_end=True
        ),
    }


class Strips(NamedTuple):
    """Real frames and what the world model made of the same actions: S segments of K frames."""

    real: np.ndarray  # uint8 [S,K,H,W,C]
    imagined: np.ndarray  # uint8 [S,K,H,W,C]


def imagine_held_out(agent: Agent, replay: Replay, cfg: RunConfig, seed: int) -> Strips | None:
    """Predicts ``horizon`` frames after held-out contexts, from the recorded actions and its own frames alone.

    Segments are spread evenly over the episodes that are long enough; None where there are none.
    """
    context = cfg.denoiser.inner_model.num_steps_conditioning
    length = context + cfg.world_model.horizon
    long_enough = [i for i, n in enumerate(replay.lengths) if n > length]
    if not long_enough:
        return None
    frames, acts = [], []
    for k in range(NUM_STRIPS):
        episode = replay.episode(long_enough[k % len(long_enough)])
        start = (len(episode.act) - length) * (2 * k + 1) // (2 * NUM_STRIPS)
        frames.append(episode.obs[start : start + length])
        acts.append(episode.act[start : start + length])
    real, act = np.stack(frames), torch.from_numpy(np.stack(acts))

    device = agent.denoiser.device
    generator = torch.Generator(device).manual_seed(seed)
    predicted = predict_frames(
        DiffusionSampler(agent.denoiser, cfg.world_model.sampler),
        to_float(torch.from_numpy(real[:, :context]).to(device)),
        act.to(device),
        lambda *shape, device: torch.randn(*shape, device=device, generator=generator),
    )
    return Strips(real[:, context:], to_uint8(predicted).cpu().numpy())


@torch.no_grad()
def predict_frames(
    sampler: DiffusionSampler, context: Tensor, act: Tensor, randn: Callable[..., Tensor] = torch.randn
) -> Tensor:
    """Frames imagined one after the other, each from its predecessors.

    Args:
        context: [S,T,C,H,W] real frames in [-1, 1].
        act: [S,T+K] int64; the action at index T+k-1 leads to predicted frame k (from 0).

    Returns:
        [S,K,C,H,W].
    """
    t = context.size(1)
    frames = list(context.unbind(1))
    for k in range(act.size(1) - t):
        next_frame, _ = sampler.sample(torch.stack(frames[k:], dim=1), act[:, k : k + t], randn)
        frames.append(next_frame)
    return torch.stack(frames[t:], dim=1)
