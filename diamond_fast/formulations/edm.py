"""EDM (Karras et al. 2022) as DIAMOND uses it: preconditioning, training noise, Euler and Heun steps (section 3)."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diamond_fast.formulations.config import DenoiserConfig, SamplerConfig, SigmaDistributionConfig
from diamond_fast.formulations.protocol import Randn
from diamond_fast.frames import quantise


class Conditioners(NamedTuple):
    """The preconditioners of equations 6 to 9, one row a sample."""

    c_in: Tensor  # [N,1,1,1]
    c_out: Tensor  # [N,1,1,1]
    c_skip: Tensor  # [N,1,1,1]
    c_noise: Tensor  # [N]


def conditioners(sigma: Tensor, sigma_data: float, sigma_offset_noise: float) -> Conditioners:
    """sigma [N] -> preconditioners. The offset noise adds to every frame's noise: sqrt(sigma^2 + 0.3^2)."""
    sigma = (sigma**2 + sigma_offset_noise**2).sqrt()
    c_in = 1 / (sigma**2 + sigma_data**2).sqrt()
    c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
    c_out = sigma * c_skip.sqrt()
    c_noise = sigma.log() / 4
    c_in, c_out, c_skip = (c.view(-1, 1, 1, 1) for c in (c_in, c_out, c_skip))
    return Conditioners(c_in, c_out, c_skip, c_noise)


class Step(NamedTuple):
    """One evaluation on the way from noise level sigma_hat to next_sigma."""

    level: float  # what the network is told: sigma, or next_sigma in Heun's second half
    sigma_hat: float  # sigma, or more if noise is put back first
    next_sigma: float
    noise_scale: float | None = None  # of the noise put back before it; None: none
    half: int = 0  # 0: Euler. 1, 2: the halves of a Heun step
    context_noise: float = 0.0  # of the noise added to the context before it
    context_draws: int = 0  # tensors of it, one a frame of the context

    @property
    def num_draws(self) -> int:
        return int(self.noise_scale is not None) + self.context_draws

    @property
    def ends(self) -> bool:
        return self.half != 1


def context_condition(sigma: Tensor) -> Tensor:
    """What the network is told of noise levels [...] in its context. Unlike a frame's, they have no offset noise."""
    return sigma.log() / 4


def noise_schedule(cfg: SamplerConfig) -> list[float]:
    """Noise levels from sigma_max down to sigma_min, then 0 (EDM, equation 5): num_steps + 1 numbers.

    Computed in float32 as published: the last bits of the small levels depend on it.
    """
    if cfg.num_steps < 1:
        raise ValueError(f"num_steps: needs at least 1 denoising step, got {cfg.num_steps}")
    hi, lo = cfg.sigma_max ** (1 / cfg.rho), cfg.sigma_min ** (1 / cfg.rho)
    levels = (hi + torch.linspace(0, 1, cfg.num_steps, device="cpu") * (lo - hi)) ** cfg.rho
    return [*levels.tolist(), 0.0]


class EDM:
    """D(x; sigma, context) = c_skip x + c_out F(c_in x, c_noise, context / sigma_data), quantised to 256 levels.

    Args:
        cfg: the scales of the preconditioning.
        quantised: whether frames have 256 levels.
    """

    def __init__(self, cfg: DenoiserConfig, quantised: bool = True):
        self.cfg = cfg
        self.quantised = quantised

    def conditioners(self, sigma: Tensor | float, device: torch.device | None = None) -> Conditioners:
        """The preconditioners of noise levels [N], or of one number for all, which are then on ``device``."""
        if not isinstance(sigma, Tensor):
            sigma = torch.full((1,), sigma, dtype=torch.float32, device=device)
        return conditioners(sigma, self.cfg.sigma_data, self.cfg.sigma_offset_noise)

    # --- training

    def draw(self, clean: Tensor, levels: SigmaDistributionConfig, randn: Randn) -> tuple[Tensor, Any]:
        """Noise levels exp(N(loc, scale^2)), clipped, and noise. Drawn in order: level [N], offset [N,C,1,1], noise."""
        n, c, _, _ = clean.shape
        sigma = (randn(n, device=clean.device) * levels.scale + levels.loc).exp()
        sigma = sigma.clip(levels.sigma_min, levels.sigma_max)
        offset = self.cfg.sigma_offset_noise * randn(n, c, 1, 1, device=clean.device)
        return sigma, (offset, randn(*clean.shape, device=clean.device))

    def corrupt(self, clean: Tensor, sigma: Tensor, noise: tuple[Tensor, Tensor]) -> Tensor:
        offset, white = noise
        return clean + offset + white * sigma.view(-1, 1, 1, 1)

    def target(self, clean: Tensor, noisy: Tensor, sigma: Tensor, noise: Any = None) -> Tensor:
        """(clean - c_skip noisy) / c_out: with it, the loss weighs all noise levels alike (equation 5)."""
        cs = self.conditioners(sigma)
        return (clean - cs.c_skip * noisy) / cs.c_out

    # --- evaluation

    def condition(self, sigma: Tensor) -> Tensor:
        return self.conditioners(sigma).c_noise

    def prepare(self, noisy: Tensor, context: Tensor, sigma: Tensor | float) -> Any:
        return noisy * self.conditioners(sigma, noisy.device).c_in, context / self.cfg.sigma_data

    def estimate(self, noisy: Tensor, output: Tensor, sigma: Tensor | float) -> Tensor:
        cs = self.conditioners(sigma, noisy.device)
        clean = cs.c_skip * noisy + cs.c_out * output
        return quantise(clean) if self.quantised else clean

    # --- drawing a frame (EDM, algorithm 2)

    def plan(self, cfg: SamplerConfig) -> list[Step]:
        steps = []
        for sigma, next_sigma in pairwise(noise_schedule(cfg)):
            churned = cfg.s_tmin <= sigma <= cfg.s_tmax and cfg.s_churn > 0
            gamma = min(cfg.s_churn / cfg.num_steps, 2**0.5 - 1) if churned else 0.0
            sigma_hat = sigma * (1 + gamma)
            noise_scale = cfg.s_noise * (sigma_hat**2 - sigma**2) ** 0.5 if churned else None
            # The published sampler tells the network sigma, not sigma_hat: kept.
            heun = cfg.order == 2 and next_sigma > 0
            context_draws = self.cfg.inner_model.num_steps_conditioning if cfg.s_cond > 0 else 0
            steps.append(Step(sigma, sigma_hat, next_sigma, noise_scale, int(heun), cfg.s_cond, context_draws))
            if heun:
                steps.append(Step(next_sigma, sigma_hat, next_sigma, half=2))
        return steps

    def perturb(self, x: Tensor, step: Step, draws: Iterator[Tensor]) -> Tensor:
        return x if step.noise_scale is None else x + next(draws) * step.noise_scale

    def perturb_context(self, context: Tensor, step: Step, draws: Iterator[Tensor]) -> Tensor:
        """The noise of one step comes on top of that of the steps before. Heun's second half keeps the first one's.

        The published sampler also draws offset noise for the context, and multiplies it by 0.
        """
        if step.context_draws == 0:
            return context
        noise = torch.cat([next(draws) for _ in range(step.context_draws)], dim=1)
        return context + step.context_noise * noise

    def step(
        self, x: Tensor, output: Tensor, step: Step, carry: Any, network_input: Any, draws: Iterator[Tensor]
    ) -> tuple[Tensor, Any, Any]:
        """Along the slope d = (x - D) / sigma; Heun goes back and takes the mean of the slopes at both ends."""
        start, sigma = x, step.sigma_hat
        if step.half == 2:
            sigma = step.next_sigma
        slope = (x - self.estimate(x, output, step.level)) / sigma
        if step.half == 2:
            start, first_slope = carry
            slope = (first_slope + slope) / 2
        return start + slope * (step.next_sigma - step.sigma_hat), (start, slope), None
