"""The exported denoiser is the denoiser, for any batch, also read back from a file."""

import pytest
import torch
from small_world import SMALL_WORLD

from diamond_fast.config import of_kind
from diamond_fast.exporting import export_denoiser
from diamond_fast.world_model import Agent


@pytest.mark.parametrize("formulation", ["edm", pytest.param("ddpm", marks=pytest.mark.slow)])
def test_it_denoises_as_the_network_does(tmp_path, formulation):
    torch.manual_seed(0)
    denoiser = Agent(of_kind(SMALL_WORLD, formulation, "unet"), 4).denoiser
    for weight in denoiser.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    torch.export.save(export_denoiser(denoiser), tmp_path / "denoiser.pt2")
    exported = torch.export.load(tmp_path / "denoiser.pt2").module()
    for n in (1, 2, 5):
        noisy, level = torch.randn(n, 3, 8, 8), torch.rand(n) * 0.8 + 0.1
        context, act = torch.rand(n, 12, 8, 8) * 2 - 1, torch.randint(4, (n, 4))
        expected = denoiser.denoise(noisy, level, context, act)
        assert expected.std() > 0.1
        # EDM's estimate lies on the 256 levels of a stored frame: rounding may take the next one
        atol = 2 / 255 + 1e-5 if formulation == "edm" else 1e-4
        torch.testing.assert_close(exported(noisy, level, context, act), expected, rtol=0, atol=atol)
