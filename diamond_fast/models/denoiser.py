"""The denoiser D: EDM preconditioning around a U-Net, and its training loss (paper, section 3 and appendix A)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diamond_fast.config import DenoiserConfig, SigmaDistributionConfig
from diamond_fast.models.arguments import check_actions, check_mask, check_tensor
from diamond_fast.models.unet import InnerModel


class Conditioners(NamedTuple):
    """The preconditioners of equations 6 to 9, one row a sample."""

    c_in: Tensor  # [N,1,1,1]
    c_out: Tensor  # [N,1,1,1]
    c_skip: Tensor  # [N,1,1,1]
    c_noise: Tensor  # [N]


def quantise(x: Tensor) -> Tensor:
    """Rounds values in [-1, 1] down to the 256 levels a stored frame can take. Values outside are clamped first.

    NaN stays NaN, so that it shows in the losses; as a byte it would be a black pixel.
    """
    return x.clamp(-1, 1).add(1).div(2).mul(255).floor().float().div(255).mul(2).sub(1)


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
        return Conditioners(*(c.view(-1, 1, 1, 1) for c in (c_in, c_out, c_skip)), c_noise.view(-1))

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


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values where mask is True, without indexing (which would stall a GPU); 0 where nothing is."""
    return (values * mask).sum() / mask.sum().clamp(min=1)
