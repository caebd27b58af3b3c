"""What the compiled form of a network hands to its program, held on any processor by a stand-in for the program."""

import pytest
import torch
from golden_vectors import denoiser

from diamond_fast.engine import denoiser_networks
from diamond_fast.engine.denoiser_networks import ProgramNetwork
from diamond_fast.engine.fused_torch import Activation, FusedTorch, Techniques
from diamond_fast.engine.weight_copies import WeightCopies
from diamond_fast.world_model import Sampler


class Program:
    """Called as ``CpuProgram`` is; runs the walk it was given at once, in float32."""

    def __init__(self, walk, pieces, height, width, dtype):
        self.network, self.pieces, self.size = walk.__self__, pieces, (height, width)
        self.refresh()

    def refresh(self):
        self.copies = WeightCopies(self.network, torch.float32)

    def modulation(self, cond):
        return torch.addmm(self.copies.modulation_bias, cond, self.copies.modulation_weight.t())

    def __call__(self, inputs, modulation):
        assert [x.size(1) for x in inputs] == [channels for channels, _ in self.pieces]
        assert all(x.shape[-2:] == self.size and x.dtype == torch.float32 for x in inputs)
        x = torch.cat([x * scale for x, (_, scale) in zip(inputs, self.pieces, strict=True)], dim=1)
        backend = FusedTorch(self.copies, Techniques(), modulation)
        return self.copies.network.walk(backend, Activation(x)).x


@pytest.mark.parametrize("weights_change", [False, True])
@torch.no_grad()
def test_the_compiled_form_equals_the_readable_network(monkeypatch, weights_change):
    monkeypatch.setattr(denoiser_networks, "CpuProgram", Program)
    twin, generator = denoiser("small"), torch.Generator().manual_seed(0)
    noisy, context = torch.randn(2, 3, 16, 24, generator=generator), torch.rand(2, 12, 16, 24, generator=generator)
    act, sigma = torch.tensor([[0, 1, 2, 3], [3, 2, 2, 0]]), torch.tensor([0.05, 2.0])
    compiled = ProgramNetwork(twin.inner_model, torch.float32)
    fast = Sampler(twin.formulation, compiled, twin.cfg.steps(), torch.device("cpu"))
    fast.denoise(noisy, sigma, context, act)
    if weights_change:
        for p in twin.parameters():
            p.mul_(1.05)
        compiled.refresh()
    conditioning = compiled.conditioning(twin.formulation.condition(sigma)[None], act)[0]
    y = compiled.evaluate(twin.formulation.prepare(noisy, context, sigma), conditioning)
    torch.testing.assert_close(y, twin.predict(noisy, sigma, context, act), rtol=1e-4, atol=1e-4)
