import pytest
import torch
from float64_truth import assert_quantised, assert_rounded_from

from diamond_fast.formulations import ddpm, flow
from diamond_fast.formulations.config import DDPMConfig, DDPMStepsConfig, FlowConfig, FlowStepsConfig
from diamond_fast.formulations.linear_fused import FusedDDPM, FusedFlow
from diamond_fast.kernels.linear_step import linear_step
from diamond_fast.world_model import PlainNetwork, Sampler

FACTORS = {"of_output": 0.6, "divisor": 0.8, "of_estimate": 0.3, "of_noisy": 0.7, "noise_scale": 0.2}


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 3, 9, 7, generator=generator) for _ in range(3)]


@pytest.mark.parametrize("rounding", ["none", "clamp", "quantise"])
@pytest.mark.parametrize("impl", ["triton", "torch"])
def test_against_float64(device, tensors, rounding, impl):
    x, output, noise = tensors
    estimate = (x.double() - 0.6 * output.double()) / 0.8
    on_device = [t.to(device) for t in tensors]
    if rounding == "quantise":  # alone: its jumps would be scaled
        stepped = linear_step(*on_device[:2], of_output=0.6, divisor=0.8, rounding=rounding, impl=impl)
        assert_quantised(stepped.cpu(), estimate)
        return
    if rounding == "clamp":
        estimate = estimate.clamp(-1, 1)
    truth = 0.3 * estimate + 0.7 * x.double() + 0.2 * noise.double()
    stepped = linear_step(*on_device[:2], noise=on_device[2], rounding=rounding, **FACTORS, impl=impl)
    assert_rounded_from(stepped.cpu(), truth)


@pytest.mark.parametrize("rounding", ["none", "clamp", "quantise"])
def test_what_is_not_a_number_stays_so(device, tensors, rounding):
    x, output, _ = (t.to(device) for t in tensors)
    x[1, 2, 3, 4] = torch.nan
    for impl in ("triton", "torch"):
        stepped = linear_step(x, output, of_output=0.5, rounding=rounding, impl=impl)
        assert torch.equal(stepped.isnan(), x.isnan())


FORMULATIONS = {
    "ddpm": (ddpm.DDPM, FusedDDPM, DDPMConfig(), DDPMStepsConfig),
    "flow": (flow.Flow, FusedFlow, FlowConfig(), FlowStepsConfig),
}


class JoinedNetwork(PlainNetwork):
    """Takes the network's input in one piece or in two."""

    def __init__(self, channels):
        super().__init__(None)
        self.channels = channels
        self.inputs = []

    def conditioning(self, levels, act):
        return [None] * len(levels)

    def evaluate(self, network_input, conditioning):
        x = network_input if torch.is_tensor(network_input) else torch.cat(network_input[::-1], 1)
        self.inputs.append(x.float().cpu().clone())
        wave = torch.sin(torch.arange(x[:1, :3].numel(), device=x.device) * 0.37).view(1, 3, *x.shape[2:])
        return wave + 0.5 * x[:, self.channels : self.channels + 3].float().flip(0) + x[:, :3].float()


@pytest.mark.parametrize("num_steps", [1, 2, 5])
@pytest.mark.parametrize("name", FORMULATIONS)
@pytest.mark.parametrize("impl", ["triton", "torch"])
def test_steps_retrace_the_readable_formulation(device, name, num_steps, impl, monkeypatch):
    """Frames, and what the network is given, without quantisation, which jumps at roundings."""
    if impl == "triton":
        for kernel in ("linear_step", "edm_precondition_input"):
            monkeypatch.setattr(f"diamond_fast.kernels.{kernel}.use_triton", lambda impl, tensor: True)
    readable, fused, cfg, steps = FORMULATIONS[name]
    plain = readable(cfg, quantised=False)
    generator = torch.Generator().manual_seed(1)
    context = torch.randn(2, 12, 5, 6, generator=generator).clamp(-1, 1)
    noise = torch.randn(1 + num_steps, 2, 3, 5, 6, generator=generator)
    acts = torch.zeros(2, 4, dtype=torch.int64)
    found = []
    for formulation, at in ((plain, "cpu"), (fused(plain, 12, torch.float32, 8, "auto"), device)):
        network = JoinedNetwork(12)
        sampler = Sampler(formulation, network, steps(num_steps=num_steps), torch.device(at))
        trajectory = sampler.sample(context.to(at), acts.to(at), noise.to(at))
        found.append(([x.cpu() for x in trajectory], network.inputs))
    (trajectory, inputs), (fused_trajectory, fused_inputs) = found
    assert len(inputs) == len(fused_inputs) == num_steps
    for x, y in zip(trajectory + inputs, fused_trajectory + [x[:, :15] for x in fused_inputs], strict=True):
        torch.testing.assert_close(y, x, rtol=1e-5, atol=1e-5)
    assert all((x[:, 15:] == 0).all() and x.size(1) == 16 for x in fused_inputs)


@pytest.mark.parametrize("name", FORMULATIONS)
def test_the_last_frame_is_quantised(device, tensors, name):
    readable, fused, cfg, steps = FORMULATIONS[name]
    x, output, _ = (t.to(device) for t in tensors)
    plain = readable(cfg)
    (step,) = plain.plan(steps(num_steps=1))
    frame, _, following = fused(plain, 12, torch.float32, 1, "triton").step(x, output, step, None, x, iter(()))
    assert following is None
    exact = readable(cfg, quantised=False).estimate(x.cpu().double(), output.cpu().double(), step.level)
    assert_quantised(frame.cpu(), exact)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_output_in_padded_channels(device, tensors, dtype):
    x, output, noise = (t.to(device) for t in tensors)
    padded = torch.zeros(3, 8, 9, 7, dtype=dtype, device=device).to(memory_format=torch.channels_last)
    padded[:, :3] = output
    stepped = linear_step(x, padded[:, :3], noise=noise, **FACTORS, impl="triton")
    plain = linear_step(x, padded[:, :3].float().contiguous(), noise=noise, **FACTORS, impl="triton")
    assert stepped.dtype == torch.float32
    assert torch.equal(stepped, plain)


def test_the_next_input_is_written_where_it_belongs(device, tensors):
    x, output, _ = (t.to(device) for t in tensors)
    buffer = torch.full((3, 16, 9, 7), 7.0, device=device).to(memory_format=torch.channels_last)
    stepped = linear_step(x, output, of_output=0.5, network_input=buffer, first_channel=12, impl="triton")
    assert torch.equal(buffer[:, 12:15], stepped)
    assert (buffer[:, :12] == 7).all()
    assert (buffer[:, 15:] == 7).all()


def test_operator_contract(device):
    x, buffer = torch.rand(2, 3, 4, 5, device=device), torch.rand(2, 8, 4, 5, device=device)
    buffer = buffer.to(memory_format=torch.channels_last)
    for noise, where in ((None, None), (x + 1, buffer)):
        arguments = (x, x, noise, where, 5, 0.6, 0.8, 0.3, 0.7, 0.2, "clamp")
        torch.library.opcheck(torch.ops.diamond_fast.linear_step.default, arguments)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"noisy": torch.zeros(2, 3, 4, 4).double()}, TypeError, "noisy: expected dtype"),
        ({"network_output": torch.zeros(2, 4, 4, 4)}, ValueError, "network_output: expected shape"),
        ({"noise": torch.zeros(2, 3, 4, 5)}, ValueError, "noise: expected shape"),
        ({"divisor": 0.0}, ValueError, "divisor: must not be 0"),
        ({"rounding": "floor"}, ValueError, "rounding: expected none, clamp or quantise"),
        ({"network_input": torch.zeros(2, 8, 4, 4)}, ValueError, "network_input: is written in place"),
        ({"impl": ""}, ValueError, "impl: expected"),
    ],
)
def test_wrong_inputs_are_named(change, error, message):
    args = {"noisy": torch.zeros(2, 3, 4, 4), "network_output": torch.zeros(2, 3, 4, 4), "of_output": 0.5}
    with pytest.raises(error, match=message):
        linear_step(**args | change)
