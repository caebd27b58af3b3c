"""The fused backend with Triton's kernels, in the interpreter, against the readable networks."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from worlds import world

from diamond_fast.config import ActorCriticConfig, InnerModelConfig, RewardEndConfig, SamplerConfig
from diamond_fast.engine import fused_torch
from diamond_fast.engine.denoiser_networks import FusedNetwork, fast_sampler
from diamond_fast.engine.fast_encoders import FastEncoder
from diamond_fast.engine.fused_torch import Activation, FusedTorch, Techniques
from diamond_fast.engine.weight_copies import WeightCopies
from diamond_fast.formulations.config import DenoiserConfig
from diamond_fast.formulations.edm import EDM
from diamond_fast.formulations.edm_fused import FusedEDM
from diamond_fast.kernels import (
    ada_group_norm_silu,
    bias_residual_stats,
    edm_precondition_input,
    edm_step,
    group_norm_silu,
)
from diamond_fast.kernels._triton import INTERPRETED
from diamond_fast.networks.actor_critic.model import ActorCriticEncoder
from diamond_fast.networks.reward_end.model import RewardEndEncoder
from diamond_fast.networks.unet.model import InnerModel

CFG = InnerModelConfig(cond_channels=16, depths=(1, 1), channels=(32, 64), attn_depths=(0, 1))


@pytest.fixture
def triton(monkeypatch):
    """``auto`` means Triton on the CPU too."""
    if not INTERPRETED:
        pytest.skip("needs TRITON_INTERPRET=1; on a GPU the kernels run as they are")
    modules = (ada_group_norm_silu, group_norm_silu, bias_residual_stats, edm_precondition_input, edm_step, fused_torch)
    for module in modules:
        monkeypatch.setattr(module, "use_triton", lambda impl, tensor: impl != "torch")


def randomised(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=generator) * (0.7 / p[0].numel() ** 0.5 if p.dim() > 1 else 0.3)
    return module.requires_grad_(False)


CPU = torch.device("cpu")
TECHNIQUES = ["none", "fused_norms", "fused_epilogues", "no_concat", "one_modulation"]


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("size", [pytest.param((8, 8), marks=pytest.mark.slow), (5, 7)])
@torch.no_grad()
def test_unet(triton, technique, size):
    network = randomised(InnerModel(CFG, world(4)))
    techniques = Techniques() if technique == "none" else replace(Techniques(), **{technique: False})
    x, context = torch.randn(2, 3, *size), torch.randn(2, 12, *size)
    act, sigma = torch.tensor([[0, 1, 2, 3], [3, 3, 0, 1]]), torch.tensor([0.5, 2.0])
    c_noise, c_in = sigma.log() / 4, 1 / (sigma**2 + 0.25).sqrt().view(-1, 1, 1, 1)
    truth = network.double()(x.double() * c_in, c_noise.double(), context.double() / 0.5, act)

    edm = EDM(DenoiserConfig(sigma_offset_noise=0.0))
    fast = fast_sampler(edm, network.float(), SamplerConfig(), CPU, torch.float32, techniques)
    conditioning = fast.network.conditioning(c_noise[None], act)[0]
    # one makes the network's input at once, the other in parts, which is the technique's business in nothing
    for formulation in (fast.formulation, edm) if technique == "none" else (fast.formulation,):
        y = fast.network.evaluate(formulation.prepare(x, context, sigma), conditioning)
        torch.testing.assert_close(y.double(), truth, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_unet_in_bfloat16_pads_its_channels():
    """15 input channels and 3 output channels fill up to what tensor cores want; what is added is 0."""
    network = randomised(InnerModel(CFG, world(4)))
    x, context, act = torch.randn(2, 3, 8, 8), torch.randn(2, 12, 8, 8), torch.zeros(2, 4, dtype=torch.int64)
    truth = network(x / 1.25**0.5, torch.zeros(2), context / 0.5, act)
    edm = EDM(DenoiserConfig(sigma_offset_noise=0.0))
    fast = fast_sampler(edm, network, SamplerConfig(), CPU, torch.bfloat16, Techniques())
    fast.network = FusedNetwork(network, torch.bfloat16, Techniques())  # on a CPU with AMX it would be another
    fused = FusedEDM(edm, 12, torch.bfloat16, 16)
    assert fused.prepare(x, context, 1.0).shape == (2, 16, 8, 8)
    for formulation in (fused, edm):
        conditioning = fast.network.conditioning(torch.zeros(1, 1), act)[0]
        y = fast.network.evaluate(formulation.prepare(x, context, 1.0), conditioning)
        assert y.shape == (2, 3, 8, 8)
        assert ((y - truth).norm() / truth.norm()).item() < 2e-2


@torch.no_grad()
def test_sampler_steps_write_the_next_input(triton):
    """In one kernel behind the network, for Euler, Heun and churn, as without it."""
    network = randomised(InnerModel(replace(CFG, depths=(1,), channels=(32,), attn_depths=(0,)), world(4)))
    context, act = torch.randn(1, 12, 4, 4).clamp(-1, 1), torch.tensor([[0, 1, 2, 3]])
    for cfg in (SamplerConfig(), SamplerConfig(num_steps=2, order=2, s_churn=2.0)):
        samples = []
        for fused_edm in (True, False):
            edm, techniques = EDM(DenoiserConfig(), quantised=False), Techniques(fused_edm=fused_edm)
            sampler = fast_sampler(edm, network, cfg, CPU, torch.float32, techniques)
            noise = torch.randn(sampler.num_draws, 1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
            samples.append(sampler.sample(context, act, noise))
        for fused, plain in zip(*samples, strict=True):
            torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_reward_end_and_actor_critic_encoders(triton):
    cfg = RewardEndConfig(cond_channels=8, depths=(1, 1), channels=(32, 32), attn_depths=(0, 0))
    encoder = randomised(RewardEndEncoder(cfg, 3))
    x, cond = torch.randn(2, 6, 9, 7), torch.randn(2, 8)
    copies = WeightCopies(encoder, torch.float32)
    modulation = F.linear(cond, copies.modulation_weight, copies.modulation_bias)
    y = copies.network.walk(FusedTorch(copies, Techniques(), modulation), Activation(x)).x
    torch.testing.assert_close(y, encoder(x, cond), rtol=1e-4, atol=1e-4)

    encoder = randomised(ActorCriticEncoder(ActorCriticConfig(channels=(32, 64), down=(1, 1)), 3))
    copies = WeightCopies(encoder, torch.float32)
    y = copies.network.walk(FusedTorch(copies, Techniques()), Activation(x[:, :3])).x
    torch.testing.assert_close(y, encoder(x[:, :3]), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_encoders_in_bfloat16_pad_their_channels():
    """6 and 3 input channels fill up to 8, as tensor cores want them; what is added is 0. In float32 there is none."""
    frames, cond = [torch.randn(2, 3, 8, 8) for _ in range(2)], torch.randn(2, 8)
    cfg = RewardEndConfig(cond_channels=8, depths=(1,), channels=(32,), attn_depths=(0,))
    reward_end = randomised(RewardEndEncoder(cfg, 3))
    policy = randomised(ActorCriticEncoder(ActorCriticConfig(channels=(32,), down=(1,)), 3))
    for network, first, given in (
        (reward_end, "conv_in", (frames, cond)),
        (policy, "encoder.0", (frames[:1], None)),
    ):
        truth = network(*(torch.cat(x, dim=1) if isinstance(x, list) else x for x in given if x is not None))
        for dtype, channels, tolerance in ((torch.bfloat16, 8, 2e-2), (torch.float32, 3 * len(given[0]), 1e-5)):
            fast = FastEncoder(network, CPU, dtype, Techniques(), "torch", first)
            width = fast._copies.network.get_submodule(first).in_channels
            assert width == channels
            assert ((fast(*given) - truth).norm() / truth.norm()).item() < tolerance


def test_weights_are_copied_in_place():
    network = randomised(InnerModel(CFG, world(4)))
    copies = WeightCopies(network, torch.bfloat16, {"conv_in": (16, 1), "conv_out": (1, 8)})
    addresses = {k: p.data_ptr() for k, p in copies.network.named_parameters()}
    for p in network.parameters():
        p.data += 1
    network.noise_emb.weight += 1
    copies.refresh(network)
    source = dict(network.named_parameters())
    for name, p in copies.network.named_parameters():
        assert p.data_ptr() == addresses[name]
        expected = source[name].to(torch.bfloat16)
        if name.startswith(("conv_in", "conv_out")):
            p = p[tuple(slice(s) for s in expected.shape)]
        torch.testing.assert_close(p, expected, rtol=0, atol=0)
        if p.dim() == 4:
            assert p.stride(1) == 1
    assert torch.equal(copies.network.noise_emb.weight, network.noise_emb.weight.to(torch.bfloat16))
    assert copies.network.conv_in.weight[:, 15:].abs().max() == 0
    assert copies.network.conv_out.weight[3:].abs().max() == 0
    for norm, start in copies.offsets.items():
        rows = copies.modulation_weight[start : start + norm.linear.out_features]
        assert rows.data_ptr() == norm.linear.weight.data_ptr()
