"""Rewards as what a classifier learns and predicts. Nothing here waits for a device."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from diamond_fast.networks.reward_end.config import RewardHead


class RewardCoding(ABC):
    """How K logits stand for a reward."""

    num_logits: int
    """K."""
    signs: bool
    """Whether only the signs of rewards count, to the policy too."""

    @abstractmethod
    def cross_entropy(self, logits: Tensor, rew: Tensor) -> Tensor:
        """logits [M,K], rew [M] float -> [M], in nats."""

    @abstractmethod
    def reward(self, logits: Tensor, categorical: Callable[[Tensor], Tensor]) -> Tensor:
        """The imagined reward [N] of logits [N,K]; ``categorical`` draws a class a row."""

    @abstractmethod
    def sign_logits(self, logits: Tensor) -> Tensor:
        """[..., K] -> [..., 3]: of a negative reward, of none and of a positive one."""


class Signs(RewardCoding):
    """Sign -1, 0 or +1, drawn from the three probabilities (the paper's appendix C)."""

    num_logits = 3
    signs = True

    def cross_entropy(self, logits: Tensor, rew: Tensor) -> Tensor:
        return F.cross_entropy(logits, rew.sign().long() + 1, reduction="none")

    def reward(self, logits: Tensor, categorical: Callable[[Tensor], Tensor]) -> Tensor:
        return categorical(logits).float() - 1

    def sign_logits(self, logits: Tensor) -> Tensor:
        return logits


class SymlogBins(RewardCoding):
    """Rewards of any size, as DreamerV3 codes them (arXiv 2301.04104): two-hot over bins evenly spaced in symlog.

    Bins stand at symexp(-20), ..., symexp(20), and symexp(x) = sign(x) (exp|x| - 1). A reward's weight is shared by the
    two bins around it, so that their mean is the reward; what is imagined is the mean over all bins.
    """

    num_logits = 255
    signs = False
    _MIDDLE = num_logits // 2  # the bin at 0, and how many there are on each side
    _STEP = 20 / _MIDDLE

    def two_hot(self, rew: Tensor) -> Tensor:
        """rew [M] -> [M,K]; beyond the last bin it is the last one."""
        size, side = rew.abs(), torch.where(rew < 0, -1, 1)
        k = (size.log1p() / self._STEP).floor().clamp(max=self._MIDDLE - 1)
        lower, upper = (k * self._STEP).expm1(), ((k + 1) * self._STEP).expm1()
        share = ((size - lower) / (upper - lower)).clamp(0, 1)
        bins = self._MIDDLE + side[:, None] * torch.stack((k, k + 1), dim=1).long()
        weights = torch.stack((1 - share, share), dim=1)
        return rew.new_zeros(len(rew), self.num_logits).scatter_add_(1, bins, weights)

    def mean(self, logits: Tensor) -> Tensor:
        """[..., K] -> [...]. Bins of opposite signs are paired first: far ones that were never seen cancel exactly."""
        p, m = logits.softmax(dim=-1), self._MIDDLE
        more = p[..., m + 1 :] - p[..., :m].flip(-1)
        positive = (torch.arange(1, m + 1, device=p.device, dtype=p.dtype) * self._STEP).expm1()
        return (more * positive).sum(dim=-1)

    def cross_entropy(self, logits: Tensor, rew: Tensor) -> Tensor:
        return -(self.two_hot(rew.to(logits.dtype)) * logits.log_softmax(dim=-1)).sum(dim=-1)

    def reward(self, logits: Tensor, categorical: Callable[[Tensor], Tensor]) -> Tensor:
        return self.mean(logits)

    def sign_logits(self, logits: Tensor) -> Tensor:
        m = self._MIDDLE
        sides = logits[..., :m].logsumexp(-1), logits[..., m], logits[..., m + 1 :].logsumexp(-1)
        return torch.stack(sides, dim=-1)


def coding_of(head: RewardHead) -> RewardCoding:
    """What ``--reward-head`` asks for."""
    return Signs() if head == "sign" else SymlogBins()
