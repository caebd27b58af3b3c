"""Drawing the next frame: EDM's stochastic sampler, Euler or Heun (Karras et al. 2022, algorithm 2)."""

from collections.abc import Callable

import torch
from torch import Tensor

from diamond_fast.config import SamplerConfig
from diamond_fast.models.arguments import check_actions, check_tensor
from diamond_fast.models.denoiser import Denoiser


def noise_schedule(cfg: SamplerConfig) -> list[float]:
    """Noise levels from sigma_max down to sigma_min, then 0 (EDM, equation 5): num_steps + 1 numbers.

    Computed in float32 as published: the last bits of the small levels depend on it. Plain numbers, so that no
    step has to ask the device.
    """
    if cfg.num_steps < 1:
        raise ValueError(f"num_steps: needs at least 1 denoising step, got {cfg.num_steps}")
    hi, lo = cfg.sigma_max ** (1 / cfg.rho), cfg.sigma_min ** (1 / cfg.rho)
    levels = (hi + torch.linspace(0, 1, cfg.num_steps) * (lo - hi)) ** cfg.rho
    return [*levels.tolist(), 0.0]


class DiffusionSampler:
    """Draws next frames from a denoiser."""

    def __init__(self, denoiser: Denoiser, cfg: SamplerConfig):
        self.denoiser = denoiser
        self.cfg = cfg
        self.sigmas = noise_schedule(cfg)

    @torch.no_grad()
    def sample(
        self, prev_obs: Tensor, prev_act: Tensor, randn: Callable[..., Tensor] = torch.randn
    ) -> tuple[Tensor, list[Tensor]]:
        """
        Args:
            prev_obs: [N,T,C,H,W] context frames in [-1, 1], oldest first.
            prev_act: [N,T] int64, the actions taken at them.
            randn: source of standard normal numbers: the start [N,C,H,W], then one such draw per churned step.

        Returns:
            the next frame [N,C,H,W] in [-1, 1], and the trajectory towards it: num_steps + 1 frames, start first.

        Raises:
            TypeError, ValueError: an argument is not of that kind, shape or range; the message names it.
        """
        inner = self.denoiser.cfg.inner_model
        shape = (None, inner.num_steps_conditioning, inner.img_channels, None, None)
        check_tensor("prev_obs", prev_obs, shape, self.denoiser.inner_model.noise_emb.weight)
        num_actions = self.denoiser.num_actions
        check_actions("prev_act", prev_act, tuple(prev_obs.shape[:2]), self.denoiser.device, num_actions)
        n, t, c, h, w = prev_obs.shape
        device = prev_obs.device
        context = prev_obs.reshape(n, t * c, h, w)
        cfg = self.cfg

        def denoise(x: Tensor, sigma: float) -> Tensor:
            return self.denoiser.denoise(x, torch.full((n,), sigma, device=device), context, prev_act)

        x = randn(n, c, h, w, device=device)
        trajectory = [x]
        for sigma, next_sigma in zip(self.sigmas, self.sigmas[1:], strict=False):
            churned = cfg.s_tmin <= sigma <= cfg.s_tmax and cfg.s_churn > 0
            gamma = min(cfg.s_churn / cfg.num_steps, 2**0.5 - 1) if churned else 0.0
            sigma_hat = sigma * (1 + gamma)
            if churned:
                x = x + randn(n, c, h, w, device=device) * (cfg.s_noise * (sigma_hat**2 - sigma**2) ** 0.5)

            # The published sampler tells the denoiser sigma, not sigma_hat: kept.
            d = (x - denoise(x, sigma)) / sigma_hat
            dt = next_sigma - sigma_hat
            if cfg.order == 2 and next_sigma > 0:  # Heun: average the slopes at both ends
                x_next = x + d * dt
                d = (d + (x_next - denoise(x_next, next_sigma)) / next_sigma) / 2
            x = x + d * dt
            trajectory.append(x)
        return x, trajectory
