from itertools import pairwise

import pytest
import torch
from float64_truth import assert_quantised, assert_rounded_from

from diamond_fast.config import DenoiserConfig, SamplerConfig
from diamond_fast.formulations.edm import EDM, noise_schedule
from diamond_fast.kernels.edm_loss import edm_loss
from diamond_fast.kernels.edm_step import edm_denoise, edm_heun_step, edm_step
from diamond_fast.world_model import PlainNetwork, Sampler

EXACT = EDM(DenoiserConfig(), quantised=False)  # quantisation jumps at roundings
ALL = torch.ones(3, dtype=torch.bool)


def fixed_output(network_input):
    wave = torch.sin(torch.arange(network_input[0].numel(), device=network_input.device) * 0.37)
    return wave.view(1, *network_input.shape[1:]) * 2 + network_input.flip(0)


@pytest.fixture
def frames():
    return torch.randn(3, 3, 9, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_what_is_not_a_number_stays_so(device, frames, impl):
    """A black pixel would hide it from the losses."""
    x, output = frames.to(device), fixed_output(frames).to(device)
    x[1, 2, 3, 4] = torch.nan
    y = edm_denoise(x, output, 0.4, impl=impl)
    assert torch.equal(y.isnan(), x.isnan())
    loss, denoised = edm_loss(
        output, x, frames.to(device), torch.full((3,), 0.4, device=device), ALL.to(device), impl=impl
    )
    assert loss.isnan()
    assert torch.equal(denoised.isnan(), x.isnan())


@pytest.mark.parametrize("sigma", [2e-3, 0.4, 5.0])
def test_denoise(device, frames, sigma):
    output = fixed_output(frames)
    levels = torch.full((3,), sigma)
    cs = EXACT.conditioners(levels.double())
    truth = cs.c_skip * frames.double() + cs.c_out * output.double()
    x, f = frames.to(device), output.to(device)
    assert_rounded_from(edm_denoise(x, f, sigma, quantised=False, impl="triton").cpu(), truth)
    for given in (sigma, levels.to(device), levels[:1].to(device)):
        assert_quantised(edm_denoise(x, f, given, impl="triton").cpu(), truth)
    assert_quantised(edm_denoise(frames, output, sigma, impl="torch"), truth)


def test_every_sample_has_its_noise_level(device, frames):
    frames, levels = frames.to(device), torch.tensor([0.01, 0.5, 3.0], device=device)
    together = edm_denoise(frames, frames.flip(0), levels, impl="triton")
    for i, sigma in enumerate(levels.tolist()):
        alone = edm_denoise(frames[i : i + 1], frames.flip(0)[i : i + 1], sigma, impl="triton")
        assert torch.equal(together[i : i + 1], alone)


def test_all_256_levels_and_what_lies_between(device):
    levels = torch.arange(256, dtype=torch.float32, device=device) / 255 * 2 - 1
    between = levels + 1 / 255
    x = torch.cat((levels - 1e-4, levels + 1e-4, between, torch.tensor([-9.0, 9.0], device=device)))
    x = x[: 257 * 3 - 1].reshape(1, 1, 1, -1)
    # with sigma = 0 and no offset noise c_skip is 1 and c_out 0: what is left is the quantisation
    out = edm_denoise(x, torch.zeros_like(x), 0.0, sigma_offset_noise=0.0, impl="triton")
    levels_found = (out.double() + 1) * 127.5
    assert (levels_found - levels_found.round()).abs().max() < 1e-4
    assert torch.equal(levels_found.round(), ((x.clamp(-1, 1).double() + 1) * 127.5).floor())


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("impl", ["triton", "torch"])
def test_steps_retrace_the_readable_sampler(device, order, impl):
    cfg = SamplerConfig(order=order)
    twin = Sampler(EXACT, PlainNetwork(lambda x, *_: fixed_output(x)), cfg, torch.device("cpu"))
    noise = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(1))
    acts = torch.zeros(2, 4, dtype=torch.int64)
    trajectory = twin.sample(torch.zeros(2, 12, 5, 6), acts, [noise])

    buffer = torch.full((2, 16, 5, 6), 7.0, device=device).to(memory_format=torch.channels_last)
    buffer[:, 12:15] = EXACT.conditioners(torch.tensor([cfg.sigma_max])).c_in * noise
    where = {"network_input": buffer, "first_channel": 12, "quantised": False, "impl": impl}

    def network() -> torch.Tensor:
        return fixed_output(buffer[:, 12:15].cpu()).to(device)

    x = noise.to(device)
    for i, (sigma, next_sigma) in enumerate(pairwise(noise_schedule(cfg))):
        predicted, slope = edm_step(x, network(), sigma, next_sigma, with_slope=order == 2, **where)
        if order == 2 and next_sigma > 0:
            predicted = edm_heun_step(predicted, network(), x, slope, sigma, next_sigma, **where)
        x = predicted
        torch.testing.assert_close(x.cpu(), trajectory[i + 1], rtol=1e-5, atol=1e-5)
    assert (buffer[:, :12] == 7).all()
    assert (buffer[:, 15:] == 7).all()


def test_slope_divides_by_sigma_hat(device, frames):
    frames, output = frames.to(device), fixed_output(frames).to(device)
    stepped, slope = edm_step(frames, output, 0.5, 0.1, sigma_hat=0.6, with_slope=True, impl="triton")
    denoised = edm_denoise(frames, output, 0.5, impl="triton").double()
    torch.testing.assert_close(slope.double(), (frames - denoised) / 0.6, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(stepped.double(), frames + slope.double() * (0.1 - 0.6), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_output_in_padded_channels(device, frames, dtype):
    frames = frames.to(device)
    padded = torch.zeros(3, 8, 9, 7, dtype=dtype, device=device).to(memory_format=torch.channels_last)
    padded[:, :3] = fixed_output(frames)
    stepped, _ = edm_step(frames, padded[:, :3], 0.5, 0.1, impl="triton")
    plain, _ = edm_step(frames, padded[:, :3].float().contiguous(), 0.5, 0.1, impl="triton")
    assert stepped.dtype == torch.float32
    assert torch.equal(stepped, plain)


def test_operator_contract(device):
    x, buffer = torch.rand(2, 3, 4, 5, device=device), torch.rand(2, 8, 4, 5, device=device)
    buffer = buffer.to(memory_format=torch.channels_last)
    scales = (0.5, 0.3, True)
    step = torch.ops.diamond_fast.edm_step.default
    for start, where in ((None, None), (None, buffer), (x + 1, buffer)):
        torch.library.opcheck(step, (x, x, start, start, where, 5, 0.5, 0.5, -0.4, 0.1, *scales, where is None))
    denoise = torch.ops.diamond_fast.edm_denoise.default
    torch.library.opcheck(denoise, (x, x, torch.rand(2, device=device), 0.0, *scales))
    torch.library.opcheck(denoise, (x, x, None, 0.5, *scales))


def test_compiles_without_a_graph_break(device, frames):
    def two_steps(x, buffer):
        x, _ = edm_step(x, x * 2, 0.5, 0.1, network_input=buffer, first_channel=1, impl="triton")
        x, _ = edm_step(x, buffer[:, 1:4] * 2, 0.1, 0.0, impl="triton")
        return x

    results, frames = [], frames.to(device)
    for function in (two_steps, torch.compile(two_steps, fullgraph=True, backend="aot_eager")):
        buffer = torch.zeros(3, 4, 9, 7, device=device).to(memory_format=torch.channels_last)
        results.append((function(frames, buffer), buffer))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert results[1][1][:, 1:].abs().sum() > 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"noisy": torch.zeros(2, 3, 4, 4).double()}, TypeError, "noisy: expected dtype"),
        ({"network_output": torch.zeros(2, 4, 4, 4)}, ValueError, "network_output: expected shape"),
        ({"network_output": torch.zeros(2, 3, 4, 4, device="meta")}, ValueError, "network_output: is on meta"),
        ({"sigma": torch.tensor(0.5)}, TypeError, "sigma: expected a number"),
        ({"sigma": -1.0}, ValueError, "sigma: expected a finite number"),
        ({"sigma_hat": 0.0}, ValueError, "sigma_hat: must be positive"),
        ({"next_sigma": float("nan")}, ValueError, "next_sigma: expected a finite number"),
        ({"sigma_data": 0.0}, ValueError, "sigma_data: must be positive"),
        ({"network_input": torch.zeros(2, 3, 4, 5)}, ValueError, "network_input: expected shape"),
        ({"network_input": torch.zeros(2, 8, 4, 4)}, ValueError, "network_input: is written in place"),
        ({"network_input": torch.zeros(2, 8, 4, 4), "first_channel": 6}, ValueError, "first_channel: 3 channels"),
        ({"impl": ""}, ValueError, "impl: expected"),
    ],
)
def test_wrong_inputs_are_named(change, error, message):
    args = {
        "noisy": torch.zeros(2, 3, 4, 4),
        "network_output": torch.zeros(2, 3, 4, 4),
        "sigma": 0.5,
        "next_sigma": 0.1,
    }
    with pytest.raises(error, match=message):
        edm_step(**args | change)


def test_wrong_noise_levels_of_samples_are_named():
    x = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match="sigma: expected shape"):
        edm_denoise(x, x, torch.ones(3))
    with pytest.raises(TypeError, match="sigma: expected dtype float32"):
        edm_denoise(x, x, torch.ones(2, dtype=torch.float64))
    with pytest.raises(ValueError, match="next_sigma: Heun's correction"):
        edm_heun_step(x, x, x, x, 0.5, 0.0)
    with pytest.raises(ValueError, match="start_slope: expected shape"):
        edm_heun_step(x, x, x, x[:1], 0.5, 0.1)
