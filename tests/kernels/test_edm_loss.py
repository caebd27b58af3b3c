import pytest
import torch
from float64_truth import assert_matches_float64

from diamond_fast.frames import quantise
from diamond_fast.kernels.edm_loss import edm_loss, edm_loss_reference
from diamond_fast.networks.masking import masked_mean


def inputs(device, n=3, c=3, h=9, w=7, dtype=torch.float32, mask=None):
    g = torch.Generator().manual_seed(n + h)
    output = torch.randn(n, c, h, w, generator=g)
    clean = torch.rand(n, c, h, w, generator=g) * 2 - 1
    noisy = clean + torch.randn(n, c, h, w, generator=g)
    sigma = (torch.randn(n, generator=g) * 1.2 - 0.4).exp()
    mask = torch.tensor([i % 3 != 1 for i in range(n)]) if mask is None else torch.tensor(mask)
    return output.to(device, dtype), noisy.to(device), clean.to(device), sigma.to(device), mask.to(device)


def twin(output, noisy, clean, sigma, mask):
    """Loss and frames as the readable denoiser computes them, on a CPU."""
    output, noisy, clean, sigma, mask = (x.cpu() for x in (output, noisy, clean, sigma, mask))
    sigma = (sigma**2 + 0.3**2).sqrt().view(-1, 1, 1, 1)
    c_skip = 0.5**2 / (sigma**2 + 0.5**2)
    c_out = sigma * c_skip.sqrt()
    target = (clean - c_skip * noisy) / c_out
    errors = (output.float() - target).square().mean(dim=(1, 2, 3))
    return masked_mean(errors, mask), quantise(c_skip * noisy + c_out * output)


@pytest.mark.parametrize("impl", ["triton", "torch"])
def test_equals_the_readable_denoiser(device, impl):
    args = inputs(device)
    loss, denoised = edm_loss(*args, impl=impl)
    true_loss, true_denoised = twin(*args)
    torch.testing.assert_close(loss.cpu(), true_loss, rtol=1e-6, atol=0)
    levels_off = (denoised.cpu() - true_denoised).abs().max() * 127.5
    assert levels_off < 1e-3 if impl == "triton" else levels_off < 1.1  # torch on CUDA may round a quotient differently
    assert not denoised.requires_grad


SHAPES = [(3, 3, 9, 7), (1, 3, 20, 20), (70, 3, 2, 2), (2, 1, 130, 150), (1, 1, 1, 1)]


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [(shape, torch.float32) for shape in SHAPES]
    + [(shape, dtype) for shape in SHAPES[:2] for dtype in (torch.float16, torch.bfloat16)],
    ids=str,
)
def test_values_and_gradients(device, shape, dtype):
    output, *rest = inputs(device, *shape, dtype=dtype)
    dloss = torch.tensor(0.7, device=device)
    double = [x if x.dtype == torch.bool else x.double() for x in rest]
    assert_matches_float64(
        lambda output: edm_loss(output, *rest, impl="triton").loss,
        lambda output: edm_loss_reference(output, *double).loss,
        {"output": output},
        dloss,
    )


def test_masked_samples_count_for_nothing(device):
    output, noisy, clean, sigma, mask = inputs(device, mask=[True, False, True])
    output.requires_grad_()
    loss = edm_loss(output, noisy, clean, sigma, mask, impl="triton").loss
    loss.backward()
    assert (output.grad[1] == 0).all()
    assert (output.grad[0] != 0).any()
    kept = [x[[0, 2]] for x in (output.detach(), noisy, clean, sigma, mask)]
    torch.testing.assert_close(loss.detach(), edm_loss(*kept, impl="triton").loss, rtol=1e-6, atol=0)


def test_no_sample_counts(device):
    output, *rest = inputs(device, mask=[False, False, False])
    output.requires_grad_()
    loss = edm_loss(output, *rest, impl="triton").loss
    loss.backward()
    assert loss == 0
    assert (output.grad == 0).all()


def test_padded_channels_and_any_strides(device):
    output, noisy, clean, sigma, mask = inputs(device)
    expected, frames = edm_loss(output, noisy, clean, sigma, mask, impl="triton")
    padded = torch.full((3, 8, 9, 7), float("nan"), device=device).to(memory_format=torch.channels_last)
    padded[:, :3] = output
    padded.requires_grad_()
    flip = [x.transpose(2, 3).contiguous().transpose(2, 3) for x in (noisy, clean)]
    loss, same_frames = edm_loss(padded[:, :3], *flip, sigma, mask, impl="triton")
    assert loss == expected
    assert torch.equal(frames, same_frames)
    loss.backward()
    assert (padded.grad[:, 3:] == 0).all()
    assert padded.grad[:, :3].isfinite().all()


def test_same_bits_on_every_run(device):
    args = inputs(device, 5, 3, 30, 31)
    assert edm_loss(*args, impl="triton").loss == edm_loss(*args, impl="triton").loss


def test_operator_contract(device):
    output, *rest = inputs(device, h=2, w=2)
    op = torch.ops.diamond_fast.edm_loss.default
    torch.library.opcheck(op, (output, *rest, 0.5, 0.3, True))
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(op, (output.requires_grad_(), *rest, 0.5, 0.3, False), test_utils=tests)


def test_compiles_without_a_graph_break(device):
    output, *rest = inputs(device)
    results = []
    for function in (edm_loss, torch.compile(edm_loss, fullgraph=True, backend="aot_eager")):
        leaf = output.detach().requires_grad_()
        loss, denoised = function(leaf * 2, *rest, impl="triton")
        results.append((loss, denoised, *torch.autograd.grad(loss, leaf)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"clean": torch.zeros(2, 3, 4, 5)}, ValueError, "clean: expected shape"),
        ({"network_output": torch.zeros(2, 4, 4, 4)}, ValueError, "network_output: expected shape"),
        ({"network_output": torch.zeros(2, 3, 4, 4).double()}, TypeError, "network_output: expected dtype"),
        ({"sigma": torch.ones(2, 1)}, ValueError, "sigma: expected shape"),
        ({"sigma": torch.ones(2).half()}, TypeError, "sigma: expected dtype float32"),
        ({"mask": torch.ones(2)}, TypeError, "mask: expected dtype bool"),
        ({"mask": torch.ones(3).bool()}, ValueError, "mask: expected shape"),
        ({"mask": torch.ones(2, device="meta").bool()}, ValueError, "mask: is on meta"),
        ({"sigma_data": -1.0}, ValueError, "sigma_data: expected a finite number"),
    ],
)
def test_wrong_inputs_are_named(change, error, message):
    x = torch.zeros(2, 3, 4, 4)
    args = {"network_output": x, "noisy": x, "clean": x, "sigma": torch.ones(2), "mask": torch.ones(2).bool()}
    with pytest.raises(error, match=message):
        edm_loss(**args | change)
