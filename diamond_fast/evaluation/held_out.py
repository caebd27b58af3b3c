"""The world model on episodes it was not trained on: losses, rewards and ends."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from diamond_fast.config import RunConfig
from diamond_fast.distillation import distillation_loss, only_step
from diamond_fast.evaluation.open_loop import seeded_randn
from diamond_fast.networks.recurrent.model import MemoryModel
from diamond_fast.networks.reward_end.model import END_NAMES, REWARD_NAMES, RewardEndModel
from diamond_fast.remembering import memory_loss, num_starts
from diamond_fast.replay import Replay
from diamond_fast.runs.metrics import classification
from diamond_fast.upsampling import upsampler_loss
from diamond_fast.world_model import Agent, Denoiser, DiffusionSampler

NUM_BATCHES = 4  # of the denoiser's loss
MAX_BATCHES = 16  # of the reward/end model's sequences during training; with the paper's settings some 9 000 steps


def held_out_figures(agent: Agent, replay: Replay, cfg: RunConfig, seed: int) -> dict[str, float | None]:
    """What a run records of its world model at each evaluation.

    Returns:
        ``denoiser/held_out_loss``, None if there are fewer steps than a sequence has; ``upsampler/held_out_loss`` if
        there is an upsampler; ``student/held_out_distance`` if there is a student; if there is a reward/end model, or a
        memory with heads,
        ``reward_end/held_out_loss`` and, as ``reward_end/held_out_reward/precision/+1`` and so on, precision, recall
        and F1 of each reward sign and of ends.
    """
    figures = {"denoiser/held_out_loss": denoiser_loss(agent, replay, cfg, seed)}
    if agent.upsampler is not None:
        figures["upsampler/held_out_loss"] = upsampler_loss_on(agent.upsampler, replay, cfg, seed)
    if agent.student is not None:
        figures["student/held_out_distance"] = student_distance(agent, replay, cfg, seed)
    if agent.reward_end is None:
        return figures
    at_most = MAX_BATCHES * cfg.reward_end_update.batch_size
    quality = reward_end_quality(agent.reward_end, replay, cfg, at_most)
    return figures | {
        "reward_end/held_out_loss": quality.loss,
        **{f"reward_end/held_out_reward/{name}": value for name, value in quality.reward.items()},
        **{f"reward_end/held_out_end/{name}": value for name, value in quality.end.items()},
    }


@torch.no_grad()
def denoiser_loss(agent: Agent, replay: Replay, cfg: RunConfig, seed: int) -> float | None:
    """The denoiser's training loss, on a few batches drawn uniformly from held-out episodes.

    None if all of them together are shorter than one of its training sequences. With a memory, batches are sequences
    of that, and what is predicted of them is spread evenly over their length.
    """
    length = cfg.denoiser_seq_length if agent.memory is None else cfg.reward_end_seq_length
    if replay.num_steps < length:
        return None
    device = agent.denoiser.device
    randn = seeded_randn(device, seed)
    segments = replay.segments(cfg.denoiser_update.batch_size, length, seed=seed)
    total = torch.zeros((), device=device)
    for number in range(NUM_BATCHES):
        b = segments.next().to(device)
        if agent.memory is None:
            total += agent.denoiser.loss(b.obs(), b.act, b.mask_padding, cfg.sigma_distribution, randn)
            continue
        predicted = 1 + cfg.num_autoregressive_steps
        starts = num_starts(length, agent.spec.context, predicted)
        start = torch.full((1,), (2 * number + 1) * starts // (2 * NUM_BATCHES), device=device)
        of_sequence = b.obs(), b.act, b.rew, b.end, b.mask_padding, start, predicted
        total += memory_loss(agent.denoiser, agent.memory, *of_sequence, cfg.sigma_distribution, randn).denoiser
    return total.item() / NUM_BATCHES


@torch.no_grad()
def student_distance(agent: Agent, replay: Replay, cfg: RunConfig, seed: int) -> float | None:
    """Mean absolute difference of the student's frames from the denoiser's, drawn from the same noise, in grey levels
    of 255, on such batches as ``denoiser_loss`` has."""
    if agent.student is None or replay.num_steps < cfg.denoiser_seq_length:
        return None
    steps, device = cfg.world_model.sampler, agent.denoiser.device
    step, randn = only_step(agent.student, steps), seeded_randn(device, seed)
    teacher = DiffusionSampler(agent.denoiser, steps)
    segments = replay.segments(cfg.student_update.batch_size, cfg.denoiser_seq_length, seed=seed)
    total = torch.zeros((), device=device)
    for _ in range(NUM_BATCHES):
        b = segments.next().to(device)
        loss = distillation_loss(agent.student, teacher, step, b.obs(), b.act, b.mask_padding, randn=randn)
        total += loss.distance
    return total.item() / NUM_BATCHES


@torch.no_grad()
def upsampler_loss_on(upsampler: Denoiser, replay: Replay, cfg: RunConfig, seed: int) -> float | None:
    """The upsampler's training loss, as ``denoiser_loss``; each sequence has its own full frames."""
    if replay.num_steps < cfg.upsampler_seq_length:
        return None
    device = upsampler.device
    randn = seeded_randn(device, seed)
    segments = replay.segments(cfg.upsampler_update.batch_size, cfg.upsampler_seq_length, seed=seed, full=True)
    total = torch.zeros((), device=device)
    for _ in range(NUM_BATCHES):
        b = segments.next().to(device)
        total += upsampler_loss(upsampler, b.full_obs(), b.obs(), b.mask_padding, cfg.sigma_distribution, randn)
    return total.item() / NUM_BATCHES


# --- rewards and ends -----------------------------------------------------------------------------------------------


class RewardEndQuality(NamedTuple):
    """How well the reward/end model classifies real steps. In a matrix rows are true classes, columns predicted."""

    steps: int
    loss: float
    """Mean over the steps: the two cross-entropies together, in nats."""
    confusion_reward: np.ndarray
    """int64 [3,3]: -1, 0, +1."""
    confusion_end: np.ndarray
    """int64 [2,2]: goes on, ends."""

    @property
    def reward(self) -> dict[str, float | None]:
        """``precision/-1``, ``recall/-1``, ...; None if it is not defined."""
        return classification(self.confusion_reward, REWARD_NAMES)

    @property
    def end(self) -> dict[str, float | None]:
        """``precision/ends``, ``recall/ends``, ...; None if it is not defined."""
        return classification(self.confusion_end, END_NAMES)


@torch.no_grad()
def reward_end_quality(
    model: RewardEndModel | MemoryModel,
    replay: Replay,
    cfg: RunConfig,
    at_most: int | None = None,
    advance: Callable[[int], None] = lambda windows: None,
    length: int | None = None,
) -> RewardEndQuality:
    """Classify every step of the replay once, in windows.

    A step is left out if the frame it led to is not stored: the last one of an episode without an end.

    Args:
        at_most: windows, taken evenly from all there are.
        advance: told how many windows are done, whenever some are.
        length: of a window, from whose first frame on things are remembered; None: of the sequences of training.
    """
    length, device = length or cfg.reward_end_seq_length, model.device
    windows = cut_into_windows(replay.lengths, length)
    if at_most is not None and len(windows) > at_most:
        windows = [windows[k * len(windows) // at_most] for k in range(at_most)]
    steps = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    reward, end = (torch.zeros(k, k, dtype=torch.int64, device=device) for k in (len(REWARD_NAMES), len(END_NAMES)))
    batch_size = cfg.reward_end_update.batch_size
    for first in range(0, len(windows), batch_size):
        b = replay.cut(windows[first : first + batch_size], length).to(device)
        mask = b.mask_padding.clone()
        mask[:, :-1] &= b.pixel_mask[:, 1:]
        mask[:, -1] = False  # the next window's first
        result = model.loss(b.obs(), b.act, b.rew, b.end, mask)
        reward += result.confusion_reward
        end += result.confusion_end
        steps += result.confusion_end.sum()
        loss += result.total * result.confusion_end.sum()
        advance(len(b.act))
    count = int(steps)
    return RewardEndQuality(
        count, loss.item() / count if count else float("nan"), reward.cpu().numpy(), end.cpu().numpy()
    )


def cut_into_windows(lengths: np.ndarray, length: int) -> list[tuple[int, int]]:
    """(episode, first step) of windows that hold each step once; the last frame of one is the first of the next."""
    return [(e, t) for e, n in enumerate(lengths.tolist()) for t in range(0, n, length - 1)]
