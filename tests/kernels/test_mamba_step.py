"""One step of a Mamba layer against plain torch in float64 and against the layer itself."""

import pytest
import torch
from float64_truth import assert_near

from diamond_fast.kernels.mamba_step import mamba_step, mamba_step_reference
from diamond_fast.networks.recurrent.config import MemoryConfig
from diamond_fast.networks.recurrent.mamba import MambaLayer


def arguments(n, channels, rank, size, taps, device="cpu"):
    g = torch.Generator().manual_seed(n + channels)
    width = channels * (taps - 1 + size)
    shapes = {"u": (n, channels), "z": (n, channels), "state": (n, width), "taps": (taps, channels)}
    shapes |= {"taps_bias": (channels,), "x_proj": (rank + 2 * size, channels), "dt_weight": (channels, rank)}
    shapes |= {"dt_bias": (channels,), "a_log": (channels, size), "skip": (channels,)}
    floats = {name: torch.randn(*shape, generator=g) for name, shape in shapes.items()}
    floats["x_proj"] /= channels**0.5
    floats["dt_bias"] *= 4  # from short steps, whose length needs a small relative error, to long ones
    return {name: x.to(device) for name, x in floats.items()}


SHAPES = [
    (1, 1, 1, 1, 1),
    (3, 5, 2, 3, 4),
    (33, 6, 3, 16, 4),
    (2, 130, 37, 5, 2),  # more in a channel's step than one block, and numbers that are no power of two
    (1, 3, 1, 1100, 1),  # no tile holds more than one channel
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_float64(device, shape):
    floats = arguments(*shape, device)
    before = floats["state"].clone()
    out = mamba_step(**floats, impl="triton")
    truth = mamba_step_reference(**{name: x.double() for name, x in floats.items()})
    for name, x, true in zip(("gated", "state"), out, truth, strict=True):
        assert_near(x, true, torch.float32, name)
    assert torch.equal(floats["state"], before)


def test_steps_of_any_length_have_a_small_relative_error(device):
    """A short step times a long past: what is added to the memory is as exact as what was there."""
    x = arguments(1, 128, 1, 1, 1, device)
    lengths = torch.linspace(-30, 30, 128, device=device)
    zeros = {"dt_weight": torch.zeros(128, 1, device=device), "state": torch.zeros(1, 128, device=device)}
    x |= {"dt_bias": lengths, **zeros}
    _, h = mamba_step(**x, impl="triton")
    _, truth = mamba_step_reference(**{name: v.double() for name, v in x.items()})
    torch.testing.assert_close(h.double(), truth, rtol=5e-6, atol=0)


@pytest.mark.parametrize("impl", ["triton", "torch"])
@pytest.mark.parametrize("convolution", [1, 4])
def test_it_is_the_layers_own_step(device, impl, convolution):
    torch.manual_seed(0)
    layer = MambaLayer(MemoryConfig(width=18, state=3, convolution=convolution)).to(device)
    x, state = torch.randn(3, 18, device=device), torch.randn(3, layer.state_width, device=device)
    with torch.no_grad():
        expected, new = layer.step(x, state)
        u, z = layer.in_proj(layer.norm(x)).chunk(2, dim=1)
        weights = layer.taps, layer.taps_bias, layer.x_proj.weight, layer.dt_proj.weight, layer.dt_proj.bias
        gated, own = mamba_step(u, z, state, *weights, layer.a_log, layer.skip, impl=impl)
        torch.testing.assert_close(x + layer.out_proj(gated), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(own, new, rtol=1e-5, atol=1e-6)


def test_inputs_may_lie_in_any_way(device):
    floats = arguments(3, 5, 2, 3, 4, device)
    plain = mamba_step(**floats, impl="triton")
    strided = {name: x.t().contiguous().t() if x.dim() == 2 else x for name, x in floats.items()}
    wide = torch.zeros(3, 100, device=device)
    wide[:, 7 : 7 + floats["state"].size(1)] = floats["state"]
    strided["state"] = wide[:, 7 : 7 + floats["state"].size(1)]
    for a, b in zip(plain, mamba_step(**strided, impl="triton"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # libraries sum as they please


def test_the_fake_ones_know_the_shapes(device):
    x = arguments(2, 4, 1, 3, 2, device)
    past, h = x["state"].split((4, 12), dim=1)
    tests = {"test_utils": ("test_schema", "test_faketensor")}
    inputs = x["u"], past, x["taps"], x["taps_bias"], torch.empty(2, 4, device=device)
    torch.library.opcheck(torch.ops.diamond_fast.mamba_convolution.default, inputs, **tests)
    rest = (x[name] for name in ("dt_weight", "dt_bias", "a_log", "skip"))
    inputs = x["u"], x["z"], torch.randn(2, 7, device=device), h, *rest, torch.empty(2, 12, device=device)
    torch.library.opcheck(torch.ops.diamond_fast.mamba_scan.default, inputs, **tests)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"u": torch.zeros(2, 3, 4)}, r"u: expected shape \[N,D\]"),
        ({"z": torch.zeros(2, 5)}, r"z: expected shape \(2, 4\)"),
        ({"state": torch.zeros(2, 4)}, r"state: expected shape \(2, 16\)"),
        ({"x_proj": torch.zeros(6, 4)}, r"x_proj: expected shape \(7, 4\)"),
        ({"skip": torch.zeros(3)}, r"skip: expected shape \(4,\)"),
        ({"taps": torch.zeros(4)}, "taps: expected 2 dimensions"),
        ({"impl": ""}, "impl: expected"),
    ],
)
def test_what_does_not_fit_is_named(changes, said):
    with pytest.raises(ValueError, match=said):
        mamba_step(**(arguments(2, 4, 1, 3, 2) | changes))


def test_other_floats_are_for_torch():
    doubles = {name: x.double() for name, x in arguments(2, 4, 1, 3, 2).items()}
    with pytest.raises(TypeError, match="expected dtype float32, got float64"):
        mamba_step(**doubles, impl="triton")
