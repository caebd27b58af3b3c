import pytest
import torch
from float64_truth import assert_matches_float64, assert_rounded_from

from diamond_fast.kernels.edm_precondition_input import edm_precondition_input, edm_precondition_input_reference


def inputs(device, n=2, t=4, c=3, h=9, w=7, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    noisy = torch.randn(n, c, h, w, generator=g) * 3
    obs = torch.rand(n, t, h, w, c, generator=g).mul(2).sub(1).movedim(-1, -3)  # as frames lie: channels last
    sigma = torch.rand(n, generator=g) * 5
    return noisy.to(device, dtype), obs.to(device, dtype), sigma.to(device)


def truth(noisy, obs, sigma):
    """What the denoiser hands to its first convolution, in float64. obs [N,T*C,H,W] or [N,T,C,H,W]."""
    noisy, sigma = noisy.double(), sigma.double()
    obs = obs.double() if obs.dim() == 4 else obs.double().flatten(1, 2)
    sigma = (sigma**2 + 0.3**2).sqrt()
    c_in = (1 / (sigma**2 + 0.5**2).sqrt()).view(-1, 1, 1, 1)
    return torch.cat((obs / 0.5, noisy * c_in), dim=1)


@pytest.mark.parametrize("impl", ["triton", "torch"])
def test_values(device, impl):
    noisy, obs, sigma = inputs(device)
    expected = truth(noisy, obs, sigma)
    for given in (obs, obs.flatten(1, 2)):
        out = edm_precondition_input(noisy, given, sigma, dtype=torch.float32, impl=impl)
        assert out.shape == (2, 16, 9, 7)
        assert out.is_contiguous(memory_format=torch.channels_last)
        assert_rounded_from(out[:, :15], expected)
        assert (out[:, 15] == 0).all()


def test_one_noise_level_for_all(device):
    noisy, obs, _ = inputs(device)
    levels = torch.full((2,), 0.7, device=device)
    for sigma in (0.7, levels, levels[:1]):
        out = edm_precondition_input(noisy, obs, sigma, dtype=torch.float32, impl="triton")
        assert_rounded_from(out[:, :15], truth(noisy, obs, levels))


@pytest.mark.parametrize(("t", "c", "pad_to", "channels"), [(1, 1, 1, 2), (2, 3, 1, 9), (5, 3, 8, 24), (7, 5, 16, 48)])
def test_channels_and_padding(device, t, c, pad_to, channels):
    noisy, obs, sigma = inputs(device, n=1, t=t, c=c, h=5, w=3)
    out = edm_precondition_input(noisy, obs, sigma, pad_to=pad_to, dtype=torch.float32, impl="triton")
    assert out.shape == (1, channels, 5, 3)
    assert_rounded_from(out[:, : (t + 1) * c], truth(noisy, obs, sigma))
    assert (out[:, (t + 1) * c :] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("input_dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_and_gradients(device, dtype, input_dtype):
    noisy, obs, sigma = inputs(device, dtype=input_dtype)
    dout = torch.randn(2, 16, 9, 7, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    assert_matches_float64(
        lambda **a: edm_precondition_input(**a, sigma=sigma, dtype=dtype, impl="triton"),
        lambda **a: edm_precondition_input_reference(**a, sigma=sigma, dtype=torch.float64),
        {"noisy": noisy, "obs": obs},
        dout,
    )


@pytest.mark.parametrize("layout", ["channels_last", "strided", "transposed"])
def test_any_strides(device, layout):
    noisy, obs, sigma = inputs(device)
    obs = obs.flatten(1, 2)
    expected = edm_precondition_input(noisy, obs.contiguous(), sigma, impl="triton")
    restride = {
        "channels_last": lambda x: x.to(memory_format=torch.channels_last),
        "strided": lambda x: x.repeat_interleave(2, 3)[..., ::2],
        "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    }[layout]
    assert torch.equal(edm_precondition_input(restride(noisy), restride(obs), sigma, impl="triton"), expected)


def test_operator_contract(device):
    noisy, obs, sigma = inputs(device, h=3, w=2)
    op = torch.ops.diamond_fast.edm_precondition_input.default
    rest = (0.5, 0.3, 16, torch.float32)
    torch.library.opcheck(op, (noisy, obs, sigma, 0.0, *rest))
    torch.library.opcheck(op, (noisy.requires_grad_(), obs.requires_grad_(), None, 0.7, *rest))


def test_compiles_without_a_graph_break(device):
    noisy, obs, sigma = inputs(device)
    compiled = torch.compile(edm_precondition_input, fullgraph=True, backend="aot_eager")
    expected = edm_precondition_input(noisy, obs, sigma, impl="triton")
    assert torch.equal(compiled(noisy, obs, sigma, impl="triton"), expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"obs": torch.zeros(2, 4, 3, 5, 6, dtype=torch.uint8)}, TypeError, "obs: expected dtype"),
        ({"obs": torch.zeros(2, 4, 3, 5, 5)}, ValueError, "obs: expected shape"),
        ({"obs": torch.zeros(2, 11, 5, 6)}, ValueError, "obs: expected"),
        ({"obs": torch.zeros(2, 0, 3, 5, 6)}, ValueError, "obs: at least one"),
        ({"sigma": torch.ones(3)}, ValueError, "sigma: expected shape"),
        ({"sigma": torch.ones(2, device="meta")}, ValueError, "sigma: is on meta"),
        ({"sigma": None}, TypeError, "sigma: expected a number"),
        ({"dtype": torch.int8}, TypeError, "dtype: expected"),
        ({"pad_to": 0}, ValueError, "pad_to: must be at least 1"),
        ({"sigma_offset_noise": -0.3}, ValueError, "sigma_offset_noise: expected a finite number"),
    ],
)
def test_wrong_inputs_are_named(change, error, message):
    args = {"noisy": torch.zeros(2, 3, 5, 6), "obs": torch.zeros(2, 4, 3, 5, 6), "sigma": 0.5}
    with pytest.raises(error, match=message):
        edm_precondition_input(**args | change)
