"""The one loss of a world model with a memory: frames, rewards and ends together (EDELINE, arXiv 2502.00466)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diamond_fast.formulations.config import LevelsConfig
from diamond_fast.formulations.protocol import Randn
from diamond_fast.networks.recurrent.model import MemoryModel
from diamond_fast.networks.reward_end.model import RewardEndLoss
from diamond_fast.world_model import Denoiser


class MemoryLoss(NamedTuple):
    """Scalars, with gradients."""

    total: Tensor
    denoiser: Tensor
    heads: RewardEndLoss | None
    """None if the memory has none."""


def memory_loss(
    denoiser: Denoiser,
    memory: MemoryModel,
    obs: Tensor,
    act: Tensor,
    rew: Tensor,
    end: Tensor,
    mask: Tensor,
    start: Tensor,
    num_predicted: int,
    levels: LevelsConfig,
    randn: Randn = torch.randn,
) -> MemoryLoss:
    """exp(-s1) rewards + exp(-s2) frames + ends + log(exp(s1) + 1) + log(exp(s2) + 1), with s1 and s2 learned.

    The memory reads the whole sequence, from nothing. The denoiser predicts frames of a part of it, as
    ``Denoiser.loss``; those that are padding in every sequence are left out of its mean. Without heads its loss is all.

    Args:
        obs: [N,L,C,H,W] in [-1, 1]. act: [N,L,...]. rew: [N,L] float. end: [N,L] bool.
        mask: [N,L] bool, False where a frame is padding: before an episode's first one or behind its last.
        start: [1] int64, the first frame of the part, from 0 to L - T - num_predicted.
        num_predicted: frames the denoiser predicts one after the other, behind T of context.
        levels: noise levels it is trained on.
        randn: source of standard normal numbers, drawn as ``Denoiser.loss`` does.
    """
    e, _ = memory(obs, act, mask)
    context = denoiser.spec.context
    part = start + torch.arange(context + num_predicted, device=start.device)
    seen, acted, counts, told = (x.index_select(1, part) for x in (obs, act, mask, e))
    frames = denoiser.loss(seen, acted, counts, levels, randn, memory=told)
    num_counted = counts[:, context:].any(dim=0).sum().clamp(min=1)
    frames = frames * num_predicted / num_counted
    if memory.harmony is None:
        return MemoryLoss(frames, frames, None)
    heads = memory.heads_loss(e, rew, end, mask)
    s1, s2 = memory.harmony.unbind()
    total = (-s1).exp() * heads.reward + (-s2).exp() * frames + heads.end + F.softplus(s1) + F.softplus(s2)
    return MemoryLoss(total, frames, heads)


def num_starts(length: int, context: int, num_predicted: int) -> int:
    """Values that ``start`` can have in sequences of that length."""
    return length - context - num_predicted + 1
