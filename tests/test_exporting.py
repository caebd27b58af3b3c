"""The exported denoiser is the denoiser, for any batch, also read back from a file."""

import numpy as np
import pytest
import torch
from small_world import SMALL_WORLD

from diamond_fast.config import of_kind
from diamond_fast.exporting import export_denoiser
from diamond_fast.world_model import Agent


def small_denoiser(formulation):
    torch.manual_seed(0)
    denoiser = Agent(of_kind(SMALL_WORLD, formulation, "unet"), 4).denoiser
    for weight in denoiser.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return denoiser


def check(exported, denoiser, formulation):
    """``exported(noisy, level, context, act)`` is what the network says of 1, 2 and 5 frames."""
    for n in (1, 2, 5):
        noisy, level = torch.randn(n, 3, 8, 8), torch.rand(n) * 0.8 + 0.1
        context, act = torch.rand(n, 12, 8, 8) * 2 - 1, torch.randint(4, (n, 4))
        expected = denoiser.denoise(noisy, level, context, act)
        assert expected.std() > 0.1
        # EDM's estimate lies on the 256 levels of a stored frame: rounding may take the next one
        atol = 2 / 255 + 1e-5 if formulation == "edm" else 1e-4
        torch.testing.assert_close(exported(noisy, level, context, act), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("formulation", ["edm", pytest.param("ddpm", marks=pytest.mark.slow)])
def test_it_denoises_as_the_network_does(tmp_path, formulation):
    denoiser = small_denoiser(formulation)
    torch.export.save(export_denoiser(denoiser), tmp_path / "denoiser.pt2")
    check(torch.export.load(tmp_path / "denoiser.pt2").module(), denoiser, formulation)


@pytest.mark.slow
def test_onnx_denoises_as_the_network_does(tmp_path):
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="needs pip install 'diamond_fast[onnx]'")
    import onnxruntime

    denoiser = small_denoiser("edm")
    torch.onnx.export(export_denoiser(denoiser), (), tmp_path / "denoiser.onnx", dynamo=True)
    session = onnxruntime.InferenceSession(tmp_path / "denoiser.onnx", providers=["CPUExecutionProvider"])
    names = ["noisy_next_obs", "sigma", "obs", "act"]
    assert [given.name for given in session.get_inputs()] == names

    def exported(*given):
        (clean,) = session.run(None, dict(zip(names, map(np.asarray, given), strict=True)))
        return torch.from_numpy(clean)

    check(exported, denoiser, "edm")
