"""Convolutions as one kernel, in the interpreter, against the readable networks."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from worlds import world

from diamond_fast.config import ActorCriticConfig, InnerModelConfig, RewardEndConfig
from diamond_fast.engine import fused_convs, fused_torch
from diamond_fast.engine.denoiser_networks import FusedNetwork
from diamond_fast.engine.fused_convs import FusedConvs, make_backend
from diamond_fast.engine.fused_torch import Activation, Techniques
from diamond_fast.engine.weight_copies import WeightCopies
from diamond_fast.kernels import ada_group_norm_silu, bias_residual_stats, fused_conv, group_norm_silu, launch
from diamond_fast.kernels._triton import INTERPRETED
from diamond_fast.networks.actor_critic.model import ActorCriticEncoder
from diamond_fast.networks.blocks import GroupNorm, conv3x3
from diamond_fast.networks.reward_end.model import RewardEndEncoder
from diamond_fast.networks.unet.model import InnerModel

TECHNIQUES = Techniques(fused_convs=True)


@pytest.fixture
def kernels(monkeypatch):
    """``auto`` means Triton on the CPU too, on a chip with large tiles; what is counted: calls of each kernel."""
    if not INTERPRETED:
        pytest.skip("needs TRITON_INTERPRET=1; on a GPU the kernels run as they are")
    for module in (ada_group_norm_silu, group_norm_silu, bias_residual_stats, fused_conv, fused_convs, fused_torch):
        monkeypatch.setattr(module, "use_triton", lambda impl, tensor: impl != "torch")
    monkeypatch.setattr(launch, "chip_of", lambda device: launch.Chip(90, 1))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(FusedConvs, "works", True)
    calls = {"fused_conv": 0, "conv2d": 0}

    def counted(name, function):
        def call(*args, **options):
            calls[name] += 1
            return function(*args, **options)

        return call

    monkeypatch.setattr(fused_convs, "fused_conv", counted("fused_conv", fused_conv.fused_conv))
    monkeypatch.setattr(F, "conv2d", counted("conv2d", F.conv2d))
    return calls


def randomised(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=generator) * (0.7 / p[0].numel() ** 0.5 if p.dim() > 1 else 0.3)
    return module.requires_grad_(False)


@torch.no_grad()
def test_unet(kernels):
    """With attention, down and up, at a size that is padded. Only the library's query-key-value product is left."""
    cfg = InnerModelConfig(cond_channels=16, depths=(1, 1), channels=(32, 64), attn_depths=(0, 0))
    network = randomised(InnerModel(cfg, world(4)))
    x, context = torch.randn(1, 3, 5, 7), torch.randn(1, 12, 5, 7)
    act, sigma = torch.tensor([[0, 1, 2, 3]]), torch.tensor([0.5])
    truth = network.double()(x.double(), sigma.double(), context.double(), act)
    kernels["conv2d"] = 0
    fast = FusedNetwork(network.float(), torch.float32, TECHNIQUES)
    y = fast.evaluate((x, context), fast.conditioning(sigma[None], act)[0])
    torch.testing.assert_close(y.double(), truth, rtol=1e-4, atol=1e-5)
    # in, out, down, up, two a block in 1 + 1 + 2 + 2 + 2 blocks, two after attention; projections are inside
    assert kernels == {"fused_conv": 4 + 2 * 8 + 2, "conv2d": 0}


@torch.no_grad()
def test_encoders(kernels):
    cfg = RewardEndConfig(cond_channels=8, depths=(1, 1), channels=(32, 64), attn_depths=(0, 0))
    encoder = randomised(RewardEndEncoder(cfg, 3))
    x, cond = torch.randn(1, 6, 5, 7), torch.randn(1, 8)
    truth = encoder(x, cond)
    copies = WeightCopies(encoder, torch.float32)
    modulation = F.linear(cond, copies.modulation_weight, copies.modulation_bias)
    y = copies.network.walk(make_backend(copies, TECHNIQUES, modulation), Activation(x)).x
    torch.testing.assert_close(y, truth, rtol=1e-4, atol=1e-4)

    encoder = randomised(ActorCriticEncoder(ActorCriticConfig(channels=(32, 64), down=(1, 1)), 3))
    truth = encoder(x[:, :3])
    copies, kernels["conv2d"] = WeightCopies(encoder, torch.float32), 0
    y = copies.network.walk(make_backend(copies, TECHNIQUES), Activation(x[:, :3])).x
    torch.testing.assert_close(y, truth, rtol=1e-4, atol=1e-4)
    assert kernels["conv2d"] == 0


@torch.no_grad()
def test_a_kernel_that_fails_is_done_without(kernels, monkeypatch, capsys):
    """One line, the same result, and no further attempt."""
    encoder = randomised(ActorCriticEncoder(ActorCriticConfig(channels=(32, 64), down=(0, 0)), 3))
    x, copies, attempts = torch.randn(1, 3, 4, 4), WeightCopies(encoder, torch.float32), []

    def out_of_resources(*args, **options):
        attempts.append(args)
        raise RuntimeError("out of resource: shared memory\nand more")

    monkeypatch.setattr(fused_convs, "fused_conv", out_of_resources)
    for _ in range(2):
        y = copies.network.walk(make_backend(copies, TECHNIQUES), Activation(x)).x
        torch.testing.assert_close(y, encoder(x), rtol=1e-4, atol=1e-4)
    assert len(attempts) == 1
    assert capsys.readouterr().out == (
        "fused convolutions: going on with the library's, which are slower "
        "(RuntimeError: out of resource: shared memory)\n"
    )


@torch.no_grad()
def test_where_hoppers_kernel_fails_tritons_goes_on(kernels, monkeypatch, capsys):
    """One line, the same result, no further attempt; and none where it cannot do it, or does not pay."""
    monkeypatch.setattr(FusedConvs, "hopper_works", True)
    encoder = randomised(ActorCriticEncoder(ActorCriticConfig(channels=(32, 64), down=(0, 0)), 3))
    x, copies, attempts = torch.randn(1, 3, 4, 4), WeightCopies(encoder, torch.float32), []

    def refused(*args):
        attempts.append(args)
        raise OSError("no compiler")

    monkeypatch.setattr(fused_convs, "hopper_conv", refused)
    techniques = Techniques(fused_convs=True, hopper_convs=True)
    for able, worth in ((True, False), (False, True), (True, True), (True, True)):
        monkeypatch.setattr(fused_convs, "can_do", lambda *args, able=able: able)
        monkeypatch.setattr(fused_convs, "pays", lambda *args, worth=worth: worth)
        kernels["conv2d"] = 0
        y = copies.network.walk(make_backend(copies, techniques), Activation(x)).x
        assert kernels["conv2d"] == 0
        torch.testing.assert_close(y, encoder(x), rtol=1e-4, atol=1e-4)
        assert len(attempts) == (able and worth)
    assert FusedConvs.works
    assert capsys.readouterr().out == (
        "Hopper's convolutions: going on with Triton's, which are slower (OSError: no compiler)\n"
    )


@torch.no_grad()
def test_what_the_kernel_cannot_do_is_left_to_the_library(kernels):
    """Another padding, or a norm whose groups straddle the seam: the same result without a word."""
    backend = make_backend(WeightCopies(nn.Linear(1, 1), torch.float32), TECHNIQUES)
    x, x2 = torch.randn(1, 24, 4, 4), torch.randn(1, 40, 4, 4)
    layer = randomised(nn.Conv2d(24, 4, 3))
    torch.testing.assert_close(backend.conv(layer, [Activation(x)]).x, layer(x), rtol=1e-5, atol=1e-5)

    layer, norm = randomised(conv3x3(64, 4)), randomised(GroupNorm(64))
    expected = layer(F.silu(norm(torch.cat((x, x2), dim=1))))
    actual = backend.conv(layer, [Activation(x), Activation(x2)], norm).x
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert kernels["fused_conv"] == 0
