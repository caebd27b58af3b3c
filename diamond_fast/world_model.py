"""The denoiser D: EDM preconditioning around a U-Net, and its training loss (paper, section 3 and appendix A)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diamond_fast.arguments import check_actions, check_mask, check_tensor
from diamond_fast.config import DenoiserConfig, RunConfig, SamplerConfig, SigmaDistributionConfig
from diamond_fast.frames import quantise
from diamond_fast.networks.actor_critic.model import ActorCritic
from diamond_fast.networks.masking import masked_mean
from diamond_fast.networks.reward_end.model import RewardEndModel
from diamond_fast.networks.unet.model import InnerModel


class Conditioners(NamedTuple):
    """The preconditioners of equations 6 to 9, one row a sample."""

    c_in: Tensor  # [N,1,1,1]
    c_out: Tensor  # [N,1,1,1]
    c_skip: Tensor  # [N,1,1,1]
    c_noise: Tensor  # [N]


class Denoiser(nn.Module):
    """D(x; sigma, context) = c_skip x + c_out F(c_in x, c_noise, context), quantised to 256 levels."""

    def __init__(self, cfg: DenoiserConfig, num_actions: int):
        super().__init__()
        self.cfg = cfg
        self.num_actions = num_actions
        self.inner_model = InnerModel(cfg.inner_model, num_actions)

    @property
    def device(self) -> torch.device:
        return self.inner_model.noise_emb.weight.device

    def conditioners(self, sigma: Tensor) -> Conditioners:
        """sigma [N] -> preconditioners. The offset noise adds to every frame's noise: sqrt(sigma^2 + 0.3^2)."""
        sigma = (sigma**2 + self.cfg.sigma_offset_noise**2).sqrt()
        sigma_data = self.cfg.sigma_data
        c_in = 1 / (sigma**2 + sigma_data**2).sqrt()
        c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
        c_out = sigma * c_skip.sqrt()
        c_noise = sigma.log() / 4
        c_in, c_out, c_skip = (c.view(-1, 1, 1, 1) for c in (c_in, c_out, c_skip))
        return Conditioners(c_in, c_out, c_skip, c_noise.view(-1))

    def network_output(self, noisy_next_obs: Tensor, obs: Tensor, act: Tensor, cs: Conditioners) -> Tensor:
        """F's output [N,C,H,W] for unscaled inputs (shapes as in ``denoise``)."""
        return self.inner_model(noisy_next_obs * cs.c_in, cs.c_noise, obs / self.cfg.sigma_data, act)

    @torch.no_grad()
    def denoise(self, noisy_next_obs: Tensor, sigma: Tensor, obs: Tensor, act: Tensor) -> Tensor:
        """The estimate of the clean next frame (equation 4), on the 256 levels of a stored frame.

        Args:
            noisy_next_obs: [N,C,H,W] float.
            sigma: [N] (or a single value) standard deviation of its noise.
            obs: [N,T*C,H,W] the T context frames in [-1, 1], oldest first.
            act: [N,T] int64, the actions taken at them.

        Returns:
            [N,C,H,W] in [-1, 1].

        Raises:
            TypeError, ValueError: an argument is not of that kind, shape or range; the message names it.
        """
        cfg = self.cfg.inner_model
        c, t = cfg.img_channels, cfg.num_steps_conditioning
        check_tensor("noisy_next_obs", noisy_next_obs, (None, c, None, None), self.inner_model.noise_emb.weight)
        n, _, h, w = noisy_next_obs.shape
        if not isinstance(sigma, Tensor) or sigma.numel() != 1:
            check_tensor("sigma", sigma, (n,), self.inner_model.noise_emb.weight)
        check_tensor("obs", obs, (n, t * c, h, w), self.inner_model.noise_emb.weight)
        check_actions("act", act, (n, t), self.device, self.num_actions)
        cs = self.conditioners(sigma)
        output = self.network_output(noisy_next_obs, obs, act, cs)
        return quantise(cs.c_skip * noisy_next_obs + cs.c_out * output)

    def loss(
        self,
        obs: Tensor,
        act: Tensor,
        mask: Tensor,
        sigma_distribution: SigmaDistributionConfig,
        randn: Callable[..., Tensor] = torch.randn,
    ) -> Tensor:
        """The training loss: score matching on the network's target, averaged over autoregressive steps.

        Each step predicts one frame from T context frames; later steps see the model's own output as context.

        Args:
            obs: [N,L,C,H,W] in [-1, 1], L > T; the L - T last frames are predicted one after the other.
            act: [N,L] int64.
            mask: [N,L] bool, False where a frame is padding; such targets do not count.
            sigma_distribution: the noise levels trained on.
            randn: source of standard normal numbers. Drawn in order, per step: noise level [N], offset noise
                [N,C,1,1], noise [N,C,H,W].

        Returns:
            scalar.

        Raises:
            TypeError, ValueError: an argument is not of that kind, shape or range; the message names it.
        """
        t = self.cfg.inner_model.num_steps_conditioning
        check_tensor(
            "obs", obs, (None, None, self.cfg.inner_model.img_channels, None, None), self.inner_model.noise_emb.weight
        )
        n, length, c, h, w = obs.shape
        if length <= t:
            raise ValueError(f"obs: expected more than {t} frames, got {length}")
        check_actions("act", act, (n, length), self.device, self.num_actions)
        check_mask("mask", mask, (n, length), self.device)
        device = obs.device
        frames = list(obs.unbind(1))
        losses = []
        for i in range(length - t):
            context = torch.cat(frames[i : i + t], dim=1)
            next_obs = frames[i + t]

            dist = sigma_distribution
            sigma = (randn(n, device=device) * dist.scale + dist.loc).exp().clip(dist.sigma_min, dist.sigma_max)
            offset = self.cfg.sigma_offset_noise * randn(n, c, 1, 1, device=device)
            noise = randn(n, c, h, w, device=device) * sigma.view(-1, 1, 1, 1)
            noisy_next_obs = next_obs + offset + noise

            cs = self.conditioners(sigma)
            output = self.network_output(noisy_next_obs, context, act[:, i : i + t], cs)
            target = (next_obs - cs.c_skip * noisy_next_obs) / cs.c_out
            losses.append(masked_mean((output.float() - target).square().mean(dim=(1, 2, 3)), mask[:, i + t]))

            with torch.no_grad():
                frames[i + t] = quantise(cs.c_skip * noisy_next_obs + cs.c_out * output)
        return torch.stack(losses).mean()


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


class Agent(nn.Module):
    """Denoiser, reward/end model and actor-critic, built from a run's settings.

    Raises:
        ValueError: a network's settings do not fit together; the message names the setting.
    """

    def __init__(self, cfg: RunConfig, num_actions: int):
        super().__init__()
        self.denoiser = Denoiser(cfg.denoiser, num_actions)
        self.rew_end_model = RewardEndModel(cfg.reward_end, num_actions, cfg.frame_size)  # type: ignore[arg-type] # square frames
        self.actor_critic = ActorCritic(cfg.actor_critic, num_actions, cfg.frame_size)  # type: ignore[arg-type] # square frames
