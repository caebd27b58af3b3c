"""A denoiser as one graph of torch's own operations, for programs without this package."""

import numpy as np
import torch
from torch import Tensor, nn

from diamond_fast.world_model import Denoiser


class _Denoise(nn.Module):
    """``Denoiser.denoise`` without its checks, as a module's forward."""

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, noisy_next_obs: Tensor, sigma: Tensor, obs: Tensor, act: Tensor) -> Tensor:
        output = self.denoiser.predict(noisy_next_obs, sigma, obs, act)
        return self.denoiser.formulation.estimate(noisy_next_obs, output, sigma)


def export_denoiser(denoiser: Denoiser) -> torch.export.ExportedProgram:
    """``denoise`` as ``torch.export`` traces it, with its weights, for any batch of frames of its world's size.

    ``torch.export.save(program, "denoiser.pt2")`` writes it. ``torch.export.load("denoiser.pt2").module()`` is called
    as ``denoise(noisy_next_obs, sigma, obs, act)``, with sigma [N]; act is what the memory says [N,M], if there is one.

    Raises:
        torch's own errors, if the network has something that cannot be traced.
    """
    spec, weight = denoiser.spec, next(denoiser.parameters())
    n, c, h, w = 3, spec.frame.channels, spec.frame.height, spec.frame.width
    act = torch.from_numpy(np.zeros((n, spec.context, *spec.action.shape), spec.action.dtype))
    arguments = (
        weight.new_zeros(n, c, h, w),
        weight.new_ones(n),
        weight.new_zeros(n, spec.context * c, h, w),
        weight.new_zeros(n, spec.memory) if spec.memory else act.to(weight.device),
    )
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        return torch.export.export(_Denoise(denoiser).eval(), arguments, dynamic_shapes=[{0: batch}] * 4)
