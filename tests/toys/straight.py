"""A toy formulation in one file: frames and noise mixed along a straight line, and the network learns the direction.

x = (1 - t) clean + t noise for t from 0 to 1; the network predicts noise - clean.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch

from diamond_fast.formulations.config import DiffusionConfig
from diamond_fast.frames import quantise


@dataclass(frozen=True)
class StraightConfig(DiffusionConfig):
    """Noise mixed in along a straight line."""

    formulation: ClassVar[str] = "toys.straight:Straight"

    noise_std: float = 1.0
    """Standard deviation of the noise."""


class Step(NamedTuple):
    level: float
    next_level: float
    num_draws: int = 0
    ends: bool = True


class Straight:
    def __init__(self, cfg):
        self.noise_std = cfg.noise_std

    def draw(self, clean, levels, randn):
        return torch.sigmoid(randn(len(clean), device=clean.device)), randn(*clean.shape, device=clean.device)

    def corrupt(self, clean, t, noise):
        t = t.view(-1, 1, 1, 1)
        return (1 - t) * clean + t * self.noise_std * noise

    def target(self, clean, noisy, t, noise):
        return self.noise_std * noise - clean

    def condition(self, t):
        return t

    def prepare(self, noisy, context, t):
        return noisy, context

    def estimate(self, noisy, output, t):
        t = t.view(-1, 1, 1, 1) if isinstance(t, torch.Tensor) else t
        return quantise(noisy - t * output)

    def plan(self, cfg):
        return [Step(1 - i / cfg.num_steps, 1 - (i + 1) / cfg.num_steps) for i in range(cfg.num_steps)]

    def perturb(self, x, step, draws):
        return x * self.noise_std if step.level == 1 else x

    def step(self, x, output, step, carry, network_input, draws):
        if step.next_level == 0:
            return self.estimate(x, output, step.level), None, None
        return x - (step.level - step.next_level) * output, None, None
