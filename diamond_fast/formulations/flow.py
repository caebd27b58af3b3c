"""Flow matching along straight lines (rectified flow, Liu et al. 2022; as Esser et al. 2024 train and draw with it).

    x = (1 - t) clean + t noise,    the network predicts the velocity noise - clean

A level is the time t, from 0 (clean) to 1 (noise). Frames are drawn by Euler's method from 1 to 0.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diamond_fast.formulations.config import FlowConfig, FlowStepsConfig, FlowTimesConfig
from diamond_fast.formulations.protocol import Randn
from diamond_fast.frames import quantise


class Step(NamedTuple):
    """One evaluation, on the way from time level to next_level."""

    level: float
    next_level: float
    num_draws: int = 0
    ends: bool = True


def times(cfg: FlowStepsConfig) -> list[float]:
    """num_steps + 1 times from 1 to 0: even ones u, shifted to s u / (1 + (s - 1) u)."""
    if cfg.num_steps < 1:
        raise ValueError(f"num_steps: needs at least 1 denoising step, got {cfg.num_steps}")
    even = [1 - i / cfg.num_steps for i in range(cfg.num_steps + 1)]
    return [cfg.shift * u / (1 + (cfg.shift - 1) * u) for u in even]


class Flow:
    """The functions of ``formulations/protocol.py``.

    Args:
        cfg: has nothing to decide here.
        quantised: whether frames have 256 levels.
    """

    def __init__(self, cfg: FlowConfig, quantised: bool = True):
        self.cfg = cfg
        self.quantised = quantised

    def draw(self, clean: Tensor, levels: FlowTimesConfig, randn: Randn) -> tuple[Tensor, Tensor]:
        """Times, logit-normal, and noise. Drawn in order: time [N], noise."""
        t = torch.sigmoid(levels.loc + levels.scale * randn(len(clean), device=clean.device))
        return t, randn(*clean.shape, device=clean.device)

    def corrupt(self, clean: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        t = t.view(-1, 1, 1, 1)
        return (1 - t) * clean + t * noise

    def target(self, clean: Tensor, noisy: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return noise - clean

    def condition(self, t: Tensor) -> Tensor:
        return t

    def prepare(self, noisy: Tensor, context: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        return noisy, context

    def estimate(self, noisy: Tensor, output: Tensor, t: Tensor | float) -> Tensor:
        t = t.view(-1, 1, 1, 1) if isinstance(t, Tensor) else t
        clean = noisy - t * output.to(noisy.dtype)
        return quantise(clean) if self.quantised else clean

    def plan(self, cfg: FlowStepsConfig) -> list[Step]:
        return [Step(t, following) for t, following in pairwise(times(cfg))]

    def perturb(self, x: Tensor, step: Step, draws: Iterator[Tensor]) -> Tensor:
        return x

    def step(
        self, x: Tensor, output: Tensor, step: Step, carry: Any, network_input: Any, draws: Iterator[Tensor]
    ) -> tuple[Tensor, Any, Any]:
        if step.next_level == 0:
            return self.estimate(x, output, step.level), None, None
        return x + (step.next_level - step.level) * output.to(x.dtype), None, None
