"""Drawing a next frame without asking the device anything: the sampler of ``models/sampler.py`` for captured graphs.

Noise levels are plain numbers, fixed when the sampler is made; noise comes in as a tensor.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diamond_fast.config import SamplerConfig
from diamond_fast.engine.denoiser_networks import DenoiserNetwork
from diamond_fast.kernels.edm_step import edm_denoise, edm_heun_step, edm_step
from diamond_fast.world_model import noise_schedule


class Step(NamedTuple):
    """One step of the sampler, from noise level sigma_hat to next_sigma."""

    sigma: float  # what the network is told
    sigma_hat: float  # sigma, or more if noise is put back first
    next_sigma: float
    noise_scale: float | None  # of the noise put back; None: none
    heun: bool  # whether the slope at next_sigma is averaged in


def plan_steps(cfg: SamplerConfig) -> list[Step]:
    """The steps a sampler with these settings takes (EDM, algorithm 2, with DIAMOND's reading of sigma_hat)."""
    sigmas = noise_schedule(cfg)
    steps = []
    for sigma, next_sigma in pairwise(sigmas):
        churned = cfg.s_tmin <= sigma <= cfg.s_tmax and cfg.s_churn > 0
        gamma = min(cfg.s_churn / cfg.num_steps, 2**0.5 - 1) if churned else 0.0
        sigma_hat = sigma * (1 + gamma)
        noise_scale = cfg.s_noise * (sigma_hat**2 - sigma**2) ** 0.5 if churned else None
        steps.append(Step(sigma, sigma_hat, next_sigma, noise_scale, cfg.order == 2 and next_sigma > 0))
    return steps


class EDMSampler:
    """Draws next frames with a fast network.

    Args:
        network: F.
        cfg: noise levels, order, churn.
        sigma_data, sigma_offset_noise: of the preconditioning.
        device: where frames and network are.
        quantised: whether frames have 256 levels.
        impl: of the kernels: ``auto`` or ``torch``.
    """

    def __init__(
        self,
        network: DenoiserNetwork,
        cfg: SamplerConfig,
        sigma_data: float,
        sigma_offset_noise: float,
        device: torch.device,
        quantised: bool = True,
        impl: str = "auto",
    ):
        self.network = network
        self.steps = plan_steps(cfg)
        self.options: dict[str, Any] = {
            "sigma_data": sigma_data,
            "sigma_offset_noise": sigma_offset_noise,
            "quantised": quantised,
            "impl": impl,
        }
        levels: list[float] = []  # one for each evaluation
        for step in self.steps:
            levels += [step.sigma, step.next_sigma] if step.heun else [step.sigma]
        self._c_noise = self.c_noise(torch.tensor(levels, dtype=torch.float32, device=device))[:, None]

    @property
    def num_draws(self) -> int:
        """Tensors of noise a sample takes: the start, and one per step that puts noise back."""
        return 1 + sum(step.noise_scale is not None for step in self.steps)

    def c_noise(self, sigma: Tensor) -> Tensor:
        """What the network is told of noise levels [...]."""
        return (sigma**2 + self.options["sigma_offset_noise"] ** 2).sqrt().log() / 4

    @torch.no_grad()
    def sample(self, context: Tensor, act: Tensor, noise: Tensor) -> list[Tensor]:
        """context [N,T*C,H,W], act [N,T], noise [num_draws,N,C,H,W] -> trajectory, start first, the frame last."""
        network, options = self.network, self.options
        conditioning = iter(network.conditioning(self._c_noise, act))
        draws = iter(noise)
        x = next(draws)
        trajectory = [x]
        network_input = None
        for step, following in zip(self.steps, [*self.steps[1:], None], strict=True):
            if step.noise_scale is not None:
                x = x + next(draws) * step.noise_scale
                network_input = None
            if network_input is None:
                network_input = network.prepare(x, context, step.sigma)
            target = {"network_input": network_input, "first_channel": context.size(1)} if network.in_place else {}
            output = network.evaluate(network_input, next(conditioning))
            more = step.heun or following is not None
            start, (x, slope) = x, edm_step(
                x, output, step.sigma, step.next_sigma,
                sigma_hat=step.sigma_hat, with_slope=step.heun, **(target if more else {}), **options,
            )  # fmt: skip
            if step.heun:
                if not network.in_place:
                    network_input = network.prepare(x, context, step.next_sigma)
                output = network.evaluate(network_input, next(conditioning))
                x = edm_heun_step(x, output, start, slope, step.sigma_hat, step.next_sigma, **target, **options)
            trajectory.append(x)
            if not network.in_place:
                network_input = None
        return trajectory

    @torch.no_grad()
    def denoise(self, noisy: Tensor, sigma: Tensor, context: Tensor, act: Tensor) -> Tensor:
        """noisy [N,C,H,W] with noise levels sigma [N] or [1] -> the estimate of the clean frame."""
        conditioning = self.network.conditioning(self.c_noise(sigma)[None], act)[0]
        output = self.network.evaluate(self.network.prepare(noisy, context, sigma), conditioning)
        return edm_denoise(noisy, output, sigma, **self.options)
