"""DDPM and flow matching over Triton: a step in one pass over the frames, which writes the network's next input too."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from diamond_fast.formulations import ddpm, flow
from diamond_fast.kernels.edm_precondition_input import edm_precondition_input
from diamond_fast.kernels.linear_step import linear_step


class _OverTriton:
    """The network's input is one tensor, context first, nothing in it scaled.

    Args:
        readable: the formulation.
        context_channels: channels of the context, behind which the noisy frame stands in the network's input.
        dtype: of that input.
        pad_to: its channels are padded with zeros to a multiple of this.
        impl: of the kernels: ``auto`` or ``torch``.
    """

    def __init__(self, readable: Any, context_channels: int, dtype: torch.dtype, pad_to: int, impl: str = "auto"):
        super().__init__(readable.cfg, readable.quantised)  # type: ignore[call-arg] # of the formulation
        self._input = {"dtype": dtype, "pad_to": pad_to, "impl": impl}
        self._first_channel = context_channels
        self._impl = impl

    def prepare(self, noisy: Tensor, context: Tensor, level: Tensor | float) -> Any:
        return edm_precondition_input(noisy, context, 0.0, **self._input, sigma_data=1.0, sigma_offset_noise=0.0)

    def _step(self, x: Tensor, output: Tensor, ends: bool, network_input: Tensor, **factors: Any) -> Any:
        """``linear_step``; behind the last step nothing is evaluated."""
        following = None if ends else network_input
        options = {"network_input": following, "first_channel": self._first_channel, "impl": self._impl}
        return linear_step(x, output, **factors, **options), None, following


class FusedDDPM(_OverTriton, ddpm.DDPM):
    def step(
        self, x: Tensor, output: Tensor, step: ddpm.Step, carry: Any, network_input: Tensor, draws: Iterator[Tensor]
    ) -> tuple[Tensor, Any, Any]:
        ends = step.noise_scale is None
        of_clean, of_noise = self._scales(step.level)
        return self._step(
            x,
            output,
            ends,
            network_input,
            of_output=of_noise,
            divisor=of_clean,
            rounding="quantise" if ends and self.quantised else "clamp",
            of_estimate=step.of_clean,
            of_noisy=step.of_noisy,
            noise=None if ends else next(draws),
            noise_scale=step.noise_scale or 0.0,
        )


class FusedFlow(_OverTriton, flow.Flow):
    def step(
        self, x: Tensor, output: Tensor, step: flow.Step, carry: Any, network_input: Tensor, draws: Iterator[Tensor]
    ) -> tuple[Tensor, Any, Any]:
        ends = step.next_level == 0
        rounding = "quantise" if ends and self.quantised else "none"
        return self._step(x, output, ends, network_input, of_output=step.level - step.next_level, rounding=rounding)
