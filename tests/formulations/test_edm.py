import numpy as np
import pytest
import torch
from golden_vectors import META, SHAPES, denoiser, replay_draws, tensors
from worlds import world

from diamond_fast.config import DenoiserConfig, InnerModelConfig, SigmaDistributionConfig
from diamond_fast.frames import quantise
from diamond_fast.networks.masking import masked_mean
from diamond_fast.networks.unet.model import InnerModel
from diamond_fast.spec import Box, Discrete, Frame, Spec
from diamond_fast.training.optim import make_optimizer, set_learning_rate, warmed_up
from diamond_fast.world_model import Denoiser


@pytest.mark.parametrize("size", ["paper", "small"])
def test_parameters_match_the_published_names_and_shapes(size):
    shapes = {k: list(v.shape) for k, v in denoiser(size).state_dict().items()}
    assert shapes == SHAPES[f"denoiser_{size}"]


@pytest.mark.parametrize("size", ["paper", "small"])
def test_denoise_golden(size):
    v = tensors(f"denoise_{size}")
    model = denoiser(size)
    obs = v["obs"].flatten(1, 2)
    with torch.no_grad():
        cs = model.formulation.conditioners(v["sigma"])
        output = model.predict(v["noisy"], v["sigma"], obs, v["act"])
    for name, value in cs._asdict().items():
        torch.testing.assert_close(value, v[name], rtol=1e-4, atol=0)
    torch.testing.assert_close(output, v["model_output"], rtol=1e-4, atol=1e-5)
    raw = cs.c_skip * v["noisy"] + cs.c_out * output
    torch.testing.assert_close(raw, v["denoised_raw"], rtol=1e-4, atol=1e-5)
    assert_same_grey_levels(model.denoise(v["noisy"], v["sigma"], obs, v["act"]), v["denoised"])


def assert_same_grey_levels(actual, expected):
    """At most 0.1 % of the pixels may differ, each by one grey level."""
    levels = ((actual - expected) * 127.5).abs()
    assert levels.max() < 1.01
    assert (levels > 0.5).float().mean() <= 1e-3


def test_quantise_keeps_the_256_levels_and_truncates_between_them():
    levels = torch.arange(256, dtype=torch.float64) / 255 * 2 - 1
    # Truncation is in float32: a level may fall to the one below by rounding, never further, never up.
    drop = ((levels - quantise(levels.float()).double()) * 127.5).round()
    assert set(drop.tolist()) <= {0.0, 1.0}
    between = (torch.arange(255) + 0.7) / 255 * 2 - 1
    assert torch.equal(((quantise(between) + 1) * 127.5).round(), torch.arange(255.0))
    assert quantise(torch.tensor([-7.0, 9.0])).tolist() == [-1.0, 1.0]


def test_training_golden():
    """Loss, gradient norm and learning rate over five optimiser steps, and a weight afterwards."""
    v, meta = tensors("denoiser_training"), META["denoiser_training"]
    model = denoiser("small")
    optimizer = make_optimizer(model, meta["lr"], meta["weight_decay"], meta["eps"])
    randn = replay_draws([v[f"noise_{i:02d}"] for i in range(meta["num_draws"])])
    for step in range(5):
        set_learning_rate(optimizer, warmed_up(meta["lr"], meta["warmup"], step))
        loss = model.loss(v["obs"], v["act"], v["mask"], SigmaDistributionConfig(), randn)
        loss.backward()
        if step == 0:
            norms = {name: p.grad.norm().item() for name, p in model.named_parameters()}
            assert norms == pytest.approx(meta["first_step_grad_norm_by_parameter"], rel=1e-3, abs=1e-6)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), meta["max_grad_norm"])
        assert optimizer.param_groups[0]["lr"] == pytest.approx(v["lrs"][step].item(), rel=1e-6)
        assert loss.item() == pytest.approx(v["losses"][step].item(), rel=1e-4)
        assert norm.item() == pytest.approx(v["grad_norms"][step].item(), rel=1e-4)
        optimizer.step()
        optimizer.zero_grad()
    assert not randn.left
    probe = model.get_parameter(meta["param_probe"])
    torch.testing.assert_close(probe.detach(), v["param_probe"], rtol=1e-3, atol=1e-6)


def test_optimizer_groups_golden():
    meta = META["denoiser_training"]
    model = denoiser("small")
    optimizer = make_optimizer(model, 1e-4, 0.01, 1e-8)
    names = {id(p): n for n, p in model.named_parameters()}
    decayed, kept = ([names[id(p)] for p in group["params"]] for group in optimizer.param_groups)
    assert decayed == meta["decay"]
    assert kept == meta["no_decay"]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.01, 0.0]


def test_masked_mean_counts_only_what_the_mask_keeps():
    values = torch.tensor([1.0, 100.0, 3.0])
    assert masked_mean(values, torch.tensor([True, False, True])).item() == 2.0
    assert masked_mean(values, torch.zeros(3, dtype=torch.bool)).item() == 0.0


@pytest.mark.parametrize(("h", "w"), [(7, 9), (30, 56), (1, 1), (64, 65)])
def test_any_height_and_width(h, w):
    """Padding is right and bottom: equal to denoising the padded frame by hand and cropping the network's output."""
    cfg = DenoiserConfig(
        inner_model=InnerModelConfig(cond_channels=16, depths=(1, 1), channels=(8, 16), attn_depths=(0, 1))
    )
    torch.manual_seed(0)
    model = Denoiser(cfg, world(3)).eval()
    torch.nn.init.normal_(model.inner_model.conv_out.weight, std=0.1)
    x, obs, act = torch.randn(2, 3, h, w), torch.rand(2, 12, h, w) * 2 - 1, torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
    inner = model.inner_model
    with torch.no_grad():
        actual = inner(x, torch.tensor([0.1, -0.2]), obs, act)
        cond = inner.cond_proj(inner.noise_emb(torch.tensor([0.1, -0.2])) + inner.act_emb(act))
        features = inner.conv_in(torch.cat((obs, x), dim=1))
        padded = torch.zeros(2, 8, h + h % 2, w + w % 2)
        padded[:, :, :h, :w] = features
        features = inner.unet(padded, cond)[:, :, :h, :w]
        expected = inner.conv_out(torch.nn.functional.silu(inner.norm_out(features)))
    assert actual.shape == (2, 3, h, w)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"cond_channels": 31}, "cond_channels"),
        ({"depths": (1,)}, "depths"),
    ],
)
def test_settings_that_do_not_fit_are_named(changes, named):
    with pytest.raises(ValueError, match=named):
        Denoiser(DenoiserConfig(InnerModelConfig(**changes)), world(3))


@pytest.mark.parametrize("action", [Discrete(3), Box(2)])
@pytest.mark.parametrize(("width", "context", "each"), [(12, 4, 3), (16, 6, 3), (14, 5, 3), (4, 6, 1)])
def test_actions_are_embedded_for_any_context_and_width(action, width, context, each):
    """Side by side, as published, if the width is a multiple of the context; else a linear map makes it fit."""
    cfg = InnerModelConfig(
        num_steps_conditioning=context, cond_channels=width, depths=(1,), channels=(8,), attn_depths=(0,)
    )
    torch.manual_seed(0)
    inner = InnerModel(cfg, Spec(Frame(8, 8), action, context))
    for parameter in inner.parameters():
        torch.nn.init.normal_(parameter)
    rng = np.random.default_rng(0)
    act = action.sample(rng.random, (2, context))
    rows = inner.act_emb[0].weight.detach().double()
    assert rows.shape == (action.n, each)
    one_hot = np.eye(3)[act] if isinstance(action, Discrete) else act
    side_by_side = (torch.from_numpy(one_hot).double() @ rows).flatten(1)
    expected = side_by_side
    if each * context != width:
        last = inner.act_emb[2].double()
        expected = side_by_side @ last.weight.t() + last.bias
    else:
        assert len(inner.act_emb) == 2
    inner.float()
    with torch.no_grad():
        actual = inner.conditioning(torch.tensor([0.3]), torch.from_numpy(act))
        noise = inner.noise_emb(torch.tensor([0.3]))
        truth = inner.cond_proj(noise + expected.float())
        assert (actual - truth).norm() < 1e-6 * truth.norm()  # a number may be a small sum of large ones
        like = InnerModel.like(inner.state_dict())
        like.load_state_dict(inner.state_dict())
        if isinstance(action, Discrete):  # weights alone do not say what kind of actions they are for
            torch.testing.assert_close(like.conditioning(torch.tensor([0.3]), torch.from_numpy(act)), actual)
