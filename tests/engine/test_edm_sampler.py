"""What only a GPU runs, as far as it can be proved without one: a whole sample stays on the device and traces whole."""

import pytest
import torch
from fake_cuda import fake, fake_cuda, move_to_fake_cuda, no_host_traffic
from worlds import world

from diamond_fast.config import DenoiserConfig, InnerModelConfig, SamplerConfig
from diamond_fast.engine.denoiser_networks import FusedNetwork, fast_sampler
from diamond_fast.engine.fused_torch import Techniques
from diamond_fast.formulations.edm import EDM
from diamond_fast.formulations.edm_fused import FusedEDM
from diamond_fast.kernels import dispatch
from diamond_fast.networks.unet.model import InnerModel
from diamond_fast.world_model import PlainNetwork, Sampler

# Euler's steps to a level and to none; Heun's both halves, Euler's last step, and churn before either.
SAMPLERS = [SamplerConfig(num_steps=2), SamplerConfig(num_steps=2, order=2, s_churn=2.0)]


def make_network():
    """Concatenations whose groups of 32 channels straddle the seam, and some whose do not; attention; two sizes."""
    torch.manual_seed(0)
    cfg = InnerModelConfig(cond_channels=16, depths=(1, 1), channels=(16, 32), attn_depths=(0, 1))
    return InnerModel(cfg, world(4)).requires_grad_(False)


def make_sampler(cfg, dtype=torch.bfloat16, **techniques):
    network = FusedNetwork(make_network(), dtype, Techniques(**techniques))
    impl = "auto" if network.techniques.fused_edm else "torch"
    edm = FusedEDM(EDM(DenoiserConfig()), network.context_channels, dtype, network.pad_to, impl)
    return Sampler(edm, network, cfg, torch.device("cpu"))


def make_inputs(sampler, n=3):
    return (
        torch.zeros(n, 12, 64, 64),
        torch.zeros(n, 4, dtype=torch.int64),
        torch.randn(sampler.num_draws, n, 3, 64, 64),
    )


@pytest.mark.parametrize("cfg", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@torch.no_grad()
def test_a_sample_never_leaves_the_gpu(cfg, dtype):
    check_it_stays_there(make_sampler(cfg, dtype), cfg)


def check_it_stays_there(sampler, cfg, *modules):
    inputs = make_inputs(sampler)
    with fake_cuda():
        for holder in (sampler, *modules):
            move_to_fake_cuda(holder)
        inputs = [fake(x) for x in inputs]
        with no_host_traffic():
            trajectory = sampler.sample(*inputs)
            sampler.denoise(inputs[2][0], sampler._levels[0, :1], *inputs[:2])
    assert [tuple(x.shape) for x in trajectory] == [(3, 3, 64, 64)] * (cfg.num_steps + 1)
    assert all(x.device.type == "cuda" and x.dtype == torch.float32 for x in trajectory)


# Techniques of the network know nothing of the sampler: a step shows what all of them do.
OF_THE_NETWORK = [name for name in Techniques.__dataclass_fields__ if name not in ("fused_edm", "cuda_graphs")]


@pytest.mark.parametrize(
    ("cfg", "off"),
    [*((cfg, "fused_edm") for cfg in SAMPLERS), *((SamplerConfig(num_steps=1), name) for name in OF_THE_NETWORK)],
)
@torch.no_grad()
def test_nor_does_it_with_a_technique_turned_off(cfg, off):
    check_it_stays_there(make_sampler(cfg, **{off: False}), cfg)


@pytest.mark.parametrize("cfg", SAMPLERS)
@torch.no_grad()
def test_nor_without_triton(cfg, monkeypatch):
    monkeypatch.setattr(dispatch, "INSTALLED", False)
    check_it_stays_there(make_sampler(cfg), cfg)


@pytest.mark.parametrize("cfg", SAMPLERS)
@torch.no_grad()
def test_nor_around_any_network(cfg):
    """As ``FastDenoiser.wrap`` samples, and as a network without a walk does."""
    network = make_network()
    sampler = Sampler(EDM(DenoiserConfig()), PlainNetwork(network), cfg, torch.device("cpu"))
    check_it_stays_there(sampler, cfg, network)


@torch.no_grad()
def test_the_watch_over_host_traffic_sees_some():
    with fake_cuda():
        x = fake(torch.zeros(3))
        with pytest.raises(AssertionError, match="on the cpu"), no_host_traffic():
            x.cpu()
        with pytest.raises(Exception, match="_local_scalar_dense"), no_host_traffic():
            x.sum().item()


@torch.no_grad()
def test_a_sample_traces_without_a_break():
    small = InnerModel(InnerModelConfig(cond_channels=16, depths=(1, 1), channels=(8, 8), attn_depths=(0, 1)), world(4))
    for p in small.parameters():
        torch.nn.init.normal_(p, std=0.1)  # its last layers are zero at the start
    cfg = SamplerConfig(num_steps=2, order=2, s_churn=2.0)
    sampler = fast_sampler(EDM(DenoiserConfig()), small, cfg, torch.device("cpu"), torch.float32)
    inputs = make_inputs(sampler, n=1)
    truth = sampler.sample(*inputs)
    traced = torch.compile(sampler.sample, backend="eager", fullgraph=True)(*inputs)
    for x, y in zip(traced, truth, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0)


def test_steps_are_planned_as_published():
    edm = EDM(DenoiserConfig())
    heun = edm.plan(SamplerConfig(num_steps=3, order=2))
    assert [s.half for s in heun] == [1, 2, 1, 2, 0]  # there is no slope at noise level 0
    assert [s.level for s in heun[1::2]] == [s.next_sigma for s in heun[:-1:2]]
    assert [s.next_sigma for s in heun][-1] == 0.0
    churned = edm.plan(SamplerConfig(num_steps=2, s_churn=100.0, s_tmin=1.0))
    assert churned[0].sigma_hat == pytest.approx(5.0 * 2**0.5)
    assert churned[0].noise_scale == pytest.approx(5.0)
    assert churned[1].noise_scale is None
    assert churned[1].sigma_hat == churned[1].level
