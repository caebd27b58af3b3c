"""DDPM (Ho et al. 2020) as the paper compares it with EDM (section 5.1): the network predicts the noise.

    x = sqrt(alpha_bar_t) clean + sqrt(1 - alpha_bar_t) noise,    t = 0 .. 999

A level is a timestep t. Frames are drawn by ancestral sampling on a coarse grid of timesteps.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diamond_fast.formulations.config import NUM_TIMESTEPS, DDPMConfig, DDPMStepsConfig, LevelsConfig
from diamond_fast.formulations.protocol import Randn
from diamond_fast.frames import quantise

SINGLE_STEP_TIMESTEP = 500
"""From a higher one a single step says little: there the noise is nearly the whole input."""
LEAST_VARIANCE = 1e-20


def betas(device: torch.device | str = "cpu") -> Tensor:
    """The variance that each timestep adds, [1000] float32."""
    return torch.linspace(1e-4, 0.02, NUM_TIMESTEPS, dtype=torch.float32, device=device)


def alphas_cumprod(device: torch.device | str = "cpu") -> Tensor:
    """alpha_bar: the share of the clean frame in the variance at each timestep, [1000] float32."""
    return (1 - betas(device)).cumprod(0)


class Step(NamedTuple):
    """One evaluation: x <- of_clean * clean + of_noisy * x + noise_scale * noise."""

    level: float  # the timestep
    of_clean: float
    of_noisy: float
    noise_scale: float | None = None  # None: none, behind the last step
    ends: bool = True

    @property
    def num_draws(self) -> int:
        return int(self.noise_scale is not None)


class DDPM:
    """The functions of ``formulations/protocol.py``. Levels are timesteps; others than 0 .. 999 are clamped to them.

    Args:
        cfg: the offset noise.
        quantised: whether frames have 256 levels.
    """

    def __init__(self, cfg: DDPMConfig, quantised: bool = True):
        self.cfg = cfg
        self.quantised = quantised
        self._alphas_cumprod: list[float] = alphas_cumprod().tolist()

    # --- training

    def draw(self, clean: Tensor, levels: LevelsConfig, randn: Randn) -> tuple[Tensor, Tensor]:
        """Timesteps, uniform, and noise, whose offset is a part of it. Drawn in order: offset, noise, timestep [N].

        The normal distribution function turns a normal number into a uniform one.
        """
        n, c, _, _ = clean.shape
        offset = self.cfg.sigma_offset_noise * randn(n, c, 1, 1, device=clean.device)
        noise = offset + randn(*clean.shape, device=clean.device)
        uniform = torch.special.ndtr(randn(n, device=clean.device))
        return (NUM_TIMESTEPS * uniform).floor().clamp(max=NUM_TIMESTEPS - 1), noise

    def corrupt(self, clean: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        of_clean, of_noise = self._scales(t)
        return of_clean * clean + of_noise * noise

    def target(self, clean: Tensor, noisy: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return noise

    # --- evaluation

    def condition(self, t: Tensor) -> Tensor:
        return (t + 1) / NUM_TIMESTEPS

    def prepare(self, noisy: Tensor, context: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        return noisy, context

    def estimate(self, noisy: Tensor, output: Tensor, t: Tensor | float) -> Tensor:
        clean = self._clean(noisy, output, t)
        return quantise(clean) if self.quantised else clean

    def _clean(self, noisy: Tensor, output: Tensor, t: Tensor | float) -> Tensor:
        """The frame without the noise that the network sees in it, clipped."""
        of_clean, of_noise = self._scales(t)
        return ((noisy - of_noise * output.to(noisy.dtype)) / of_clean).clamp(-1, 1)

    def _scales(self, t: Tensor | float) -> tuple[Any, Any]:
        """Of the clean frame and of the noise at timesteps: tensors [N,1,1,1] or numbers."""
        if not isinstance(t, Tensor):
            share = self._alphas_cumprod[int(t)]
            return share**0.5, (1 - share) ** 0.5
        # made on the device: copied there it could not be captured
        kept = alphas_cumprod(t.device).gather(0, t.long().clamp(0, NUM_TIMESTEPS - 1)).view(-1, 1, 1, 1)
        return kept.sqrt(), (1 - kept).sqrt()

    # --- drawing a frame (Ho et al. 2020, algorithm 2)

    def plan(self, cfg: DDPMStepsConfig) -> list[Step]:
        """The variances are those of the coarse grid, not of single timesteps."""
        grid = timesteps(cfg.num_steps)
        steps = []
        for t, before in zip(grid, [*grid[1:], None], strict=True):
            if before is None:  # the frame itself
                steps.append(Step(t, 1.0, 0.0))
                continue
            kept, kept_before = self._alphas_cumprod[t], self._alphas_cumprod[before]
            alpha = kept / kept_before
            of_clean = kept_before**0.5 * (1 - alpha) / (1 - kept)
            of_noisy = alpha**0.5 * (1 - kept_before) / (1 - kept)
            variance = (1 - kept_before) / (1 - kept) * (1 - alpha)
            steps.append(Step(t, of_clean, of_noisy, max(variance, LEAST_VARIANCE) ** 0.5))
        return steps

    def perturb(self, x: Tensor, step: Step, draws: Iterator[Tensor]) -> Tensor:
        return x

    def step(
        self, x: Tensor, output: Tensor, step: Step, carry: Any, network_input: Any, draws: Iterator[Tensor]
    ) -> tuple[Tensor, Any, Any]:
        """To the mean of the distribution of the less noisy frame, and noise of its deviation; at last to the frame."""
        if step.noise_scale is None:
            return self.estimate(x, output, step.level), None, None
        clean = self._clean(x, output, step.level)
        return step.of_clean * clean + step.of_noisy * x + step.noise_scale * next(draws), None, None


def timesteps(num_steps: int) -> list[int]:
    """The coarse grid, from noisy to clean: multiples of 1000 / num_steps, rounded down, that are below 1000.

    A single step begins at 500.
    """
    if not 1 <= num_steps <= NUM_TIMESTEPS:
        raise ValueError(f"num_steps: DDPM needs 1 to {NUM_TIMESTEPS} denoising steps, got {num_steps}")
    if num_steps == 1:
        return [SINGLE_STEP_TIMESTEP]
    return [i * (NUM_TIMESTEPS // num_steps) for i in reversed(range(num_steps))]
