"""A formulation of one's own in one file: frames and noise mixed along a straight line (rectified flow).

    x = (1 - t) clean + t noise,    the network predicts noise - clean,    t from 0 to 1

python examples/straight_line.py trains a small denoiser with it on a moving square and draws the next frame.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch

from diamond_fast.formulations.config import DiffusionConfig, LevelsConfig, StepsConfig
from diamond_fast.frames import quantise
from diamond_fast.registry import FORMULATIONS
from diamond_fast.settings import PositiveFloat


@dataclass(frozen=True)
class StraightLineConfig(DiffusionConfig):
    """Noise mixed in along a straight line."""

    formulation: ClassVar[str] = "straight_line:StraightLine"  # module:class, of this file

    noise_std: PositiveFloat = 1.0
    """Standard deviation of the noise."""


class Step(NamedTuple):
    """One evaluation, from t = level to next_level."""

    level: float
    next_level: float
    num_draws: int = 0  # no noise is put back
    ends: bool = True  # each step gives a frame of the trajectory


class StraightLine:
    """The functions of ``diamond_fast/formulations/protocol.py``, which says what each is for."""

    def __init__(self, cfg: StraightLineConfig):
        self.noise_std = cfg.noise_std

    def draw(self, clean, levels: LevelsConfig, randn):
        t = torch.sigmoid(randn(len(clean), device=clean.device))
        return t, self.noise_std * randn(*clean.shape, device=clean.device)

    def corrupt(self, clean, t, noise):
        t = t.view(-1, 1, 1, 1)
        return (1 - t) * clean + t * noise

    def target(self, clean, noisy, t, noise):
        return noise - clean

    def condition(self, t):
        return t

    def prepare(self, noisy, context, t):
        return noisy, context

    def estimate(self, noisy, output, t):
        t = t.view(-1, 1, 1, 1) if isinstance(t, torch.Tensor) else t
        return quantise(noisy - t * output)

    def plan(self, cfg: StepsConfig):
        ts = [1 - i / cfg.num_steps for i in range(cfg.num_steps + 1)]
        return [Step(t, following) for t, following in pairwise(ts)]

    def perturb(self, x, step, draws):
        return x * self.noise_std if step.level == 1 else x  # the start is drawn with a standard deviation of 1

    def step(self, x, output, step, carry, network_input, draws):
        if step.next_level == 0:
            return self.estimate(x, output, step.level), None, None
        return x + (step.next_level - step.level) * output, None, None


FORMULATIONS["straight_line"] = StraightLineConfig  # the one line of registration


def moving_square(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """n episodes of 6 frames of 16x16 pixels in [-1, 1], in which a square moves by its action, 0 or 1, and actions."""
    act = torch.randint(2, (n, 6))
    frames = torch.full((n, 6, 3, 16, 16), -1.0)
    for i, moves in enumerate(act.cumsum(1)):
        for t in range(6):
            x = 2 + (int(moves[t - 1]) if t else 0)
            frames[i, t, :, 6:10, x : x + 4] = 1.0
    return frames, act


def main(updates: int = 150) -> list[float]:
    """Trains, prints and returns the losses."""
    from diamond_fast import Denoiser, FastDenoiser
    from diamond_fast.config import InnerModelConfig

    torch.manual_seed(0)
    network = InnerModelConfig(cond_channels=32, depths=(1, 1), channels=(16, 16), attn_depths=(0, 0))
    denoiser = Denoiser(StraightLineConfig(network), num_actions=2)
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=2e-3)
    losses = []
    for i in range(updates):
        obs, act = moving_square(8)
        loss = denoiser.loss(obs, act, torch.ones(8, 6, dtype=torch.bool), LevelsConfig())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if i % 25 == 0:
            print(f"update {i}: loss {losses[-1]:.3f}")
    obs, act = moving_square(8)
    drawn, _ = FastDenoiser(denoiser, StepsConfig(num_steps=4)).sample(obs[:, :4], act[:, :4])
    print(f"mean error of a drawn frame: {(drawn - obs[:, 4]).abs().mean():.3f} (frames lie in [-1, 1])")
    return losses


if __name__ == "__main__":
    main()
