"""EDM over Triton: the functions of ``formulations/edm.py`` in one pass each over the frames.

A step also scales its frames for the network's next call and writes them into that call's input.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from diamond_fast.formulations.edm import EDM, Step
from diamond_fast.kernels.edm_loss import edm_loss
from diamond_fast.kernels.edm_precondition_input import edm_precondition_input
from diamond_fast.kernels.edm_step import edm_denoise, edm_heun_step, edm_step


class FusedEDM(EDM):
    """The network's input is one tensor, context first.

    Args:
        edm: the readable one.
        context_channels: channels of the context, behind which the noisy frame stands in the network's input.
        dtype: of that input.
        pad_to: its channels are padded with zeros to a multiple of this.
        impl: of the kernels: ``auto`` or ``torch``.
    """

    def __init__(self, edm: EDM, context_channels: int, dtype: torch.dtype, pad_to: int, impl: str = "auto"):
        super().__init__(edm.cfg, edm.quantised)
        self._input = {"dtype": dtype, "pad_to": pad_to, "impl": impl}
        self._scales = {"sigma_data": edm.cfg.sigma_data, "sigma_offset_noise": edm.cfg.sigma_offset_noise}
        self._first_channel = context_channels
        self._output = {**self._scales, "quantised": edm.quantised, "impl": impl}

    def prepare(self, noisy: Tensor, context: Tensor, sigma: Tensor | float) -> Tensor:
        return edm_precondition_input(noisy, context, sigma, **self._input, **self._scales)

    def estimate(self, noisy: Tensor, output: Tensor, sigma: Tensor | float) -> Tensor:
        return edm_denoise(noisy, output, sigma, **self._output)

    def frame_loss(
        self, output: Tensor, clean: Tensor, noisy: Tensor, sigma: Tensor, noise: Any, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As ``Denoiser.frame_loss``."""
        loss, estimate = edm_loss(output, noisy, clean, sigma, mask, **self._output)
        return loss, estimate

    def step(
        self, x: Tensor, output: Tensor, step: Step, carry: Any, network_input: Tensor, draws: Iterator[Tensor]
    ) -> tuple[Tensor, Any, Any]:
        following = network_input if step.next_sigma > 0 else None  # behind the last step nothing is evaluated
        options = {"network_input": following, "first_channel": self._first_channel, **self._output}
        if step.half == 2:
            return edm_heun_step(x, output, *carry, step.sigma_hat, step.next_sigma, **options), None, following
        stepped, slope = edm_step(
            x, output, step.level, step.next_sigma, sigma_hat=step.sigma_hat, with_slope=step.half == 1, **options
        )
        return stepped, (x, slope), following
