"""The world in two resolutions against the published one: ``csgo_small`` holds its inputs, draws and results."""

import json

import numpy as np
import pytest
import torch
from formulations.test_edm import assert_same_grey_levels
from golden_vectors import FOLDER, replay_draws, tensors, with_golden_weights

from diamond_fast.config import DenoiserConfig, InnerModelConfig, SamplerConfig, SigmaDistributionConfig
from diamond_fast.formulations.edm import noise_schedule
from diamond_fast.spec import Frame, MultiBinary, Spec
from diamond_fast.upsampling import (
    TwoStageSampler,
    enlarged,
    no_actions,
    upsampler_loss,
    upsampling_input,
)
from diamond_fast.world_model import Denoiser, DiffusionSampler, make_upsampler

META = json.loads((FOLDER / "csgo_meta.json").read_text())
LEVELS = SigmaDistributionConfig(*META["sigma_training"])
SMALL = Frame(6, 11)
NEXT = SamplerConfig(num_steps=3, s_cond=0.005)
UPSAMPLING = {
    "up_euler10_churn": SamplerConfig(10, 1.0, 5.0, order=1, s_churn=10.0, s_tmin=1.0, s_tmax=5.0, s_noise=0.9),
    "up_heun1": SamplerConfig(1, 1.0, 5.0, order=2, s_churn=10.0, s_tmin=1.0, s_tmax=5.0, s_noise=0.9),
}


def config(stage, noise_context):
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in META[stage].items() if k != "num_actions"}
    inner = InnerModelConfig(**settings, context_noise=True)
    scales = META["sigma_data"], META["sigma_offset_noise"]
    return DenoiserConfig(inner, *scales, noise_context=noise_context)


def denoiser():
    spec = Spec(SMALL, MultiBinary(META["denoiser"]["num_actions"]), 4)
    return with_golden_weights(Denoiser(config("denoiser", noise_context=True), spec))


def upsampler():
    return with_golden_weights(make_upsampler(config("upsampler", noise_context=False), SMALL, factor=5))


@pytest.fixture(scope="module")
def v():
    arrays = tensors("csgo_small")
    return {name: x.to(torch.uint8) if name in ("act_multihot", "train_act") else x for name, x in arrays.items()}


def draws(v, name):
    """Those of ``randn`` in the order in which ours asks for them: the offset of a sampler's context is not drawn."""
    found = [v[key] for key in sorted(v) if key.startswith(f"{name}_noise_")]
    if name != "next":
        return found
    start, *of_steps = found
    return [start, *(part for noise in of_steps[1::2] for part in noise.split(3, dim=1))]


@pytest.mark.parametrize("stage", ["denoiser", "upsampler"])
def test_golden_names_and_shapes(stage):
    model = {"denoiser": denoiser, "upsampler": upsampler}[stage]()
    shapes = {name: list(x.shape) for name, x in model.state_dict().items()}
    assert shapes == META["shapes"][f"csgo_{stage}_small"]


def test_golden_next_frame(v):
    randn = replay_draws(draws(v, "next"))
    sample, trajectory = DiffusionSampler(denoiser(), NEXT).sample(v["obs"], v["act_multihot"], randn)
    assert not randn.left
    assert_same_grey_levels(sample, v["next_obs"])
    assert len(trajectory) == len(v["next_trajectory"])
    for x, expected in zip(trajectory, v["next_trajectory"], strict=True):
        assert_same_grey_levels(x, expected)


def test_golden_enlarged_frame_overshoots(v):
    guide = enlarged(v["next_obs"], 5)
    torch.testing.assert_close(guide, v["low_bicubic"][:, 0], rtol=0, atol=1e-6)
    assert guide.max() > 1.1  # published weights know it unclamped


@pytest.mark.parametrize("case", UPSAMPLING)
def test_golden_upsampling(v, case):
    cfg = UPSAMPLING[case]
    np.testing.assert_allclose(noise_schedule(cfg), v[f"{case}_sigmas"], rtol=1e-6)
    randn = replay_draws(draws(v, case))
    context, act = upsampling_input(v["next_obs"], v["full_res"])
    sample, trajectory = DiffusionSampler(upsampler(), cfg).sample(context, act, randn)
    assert not randn.left  # every step is churned, the first and the last on the very edge
    assert_same_grey_levels(sample, v[f"{case}_sample"])
    assert_same_grey_levels(trajectory[-1], v[f"{case}_trajectory_last"])


def test_golden_both_stages(v):
    sampler = TwoStageSampler(denoiser(), upsampler(), NEXT, UPSAMPLING["up_heun1"])
    randn = replay_draws([*draws(v, "next"), *draws(v, "up_heun1")])
    drawn = sampler.sample(v["obs"], v["act_multihot"], v["full_res"], randn)
    assert not randn.left
    assert_same_grey_levels(drawn.small, v["next_obs"])
    assert drawn.full_trajectory[-1] is drawn.full
    levels = ((drawn.full - v["up_heun1_sample"]) * 127.5).abs()
    assert (levels > 0.5).float().mean() <= 1e-2  # a level of the small frame moves the 25 pixels it is enlarged to


def test_golden_denoiser_loss(v):
    randn = replay_draws(draws(v, "denoiser_loss"))
    mask = torch.ones(v["train_act"].shape[:2], dtype=torch.bool)
    loss = denoiser().loss(v["train_obs"], v["train_act"], mask, LEVELS, randn)
    assert not randn.left
    assert loss.item() == pytest.approx(v["denoiser_loss"].item(), rel=1e-4)


def test_golden_upsampler_loss(v):
    randn = replay_draws(draws(v, "upsampler_loss"))
    full = v["train_full_res"]
    mask = torch.ones(full.shape[:2], dtype=torch.bool)
    loss = upsampler_loss(upsampler(), full, v["train_obs"][:, :2], mask, LEVELS, randn)
    assert not randn.left
    assert loss.item() == pytest.approx(v["upsampler_loss"].item(), rel=1e-4)


def test_padded_targets_do_not_count():
    torch.manual_seed(0)
    model, full, small = upsampler(), torch.rand(2, 3, 3, 30, 55), torch.rand(2, 3, 3, 6, 11)
    both = torch.ones(2, 3, dtype=torch.bool)
    first_only = both.clone()
    first_only[1] = False

    def loss(full, small, mask):
        noise = torch.Generator().manual_seed(1)
        n = len(full)

        def randn(rows, *shape, device=None):
            return torch.randn(2, *shape, generator=noise)[:n]

        return upsampler_loss(model, full, small, mask, LEVELS, randn).item()

    assert loss(full, small, first_only) == pytest.approx(loss(full[:1], small[:1], both[:1]), rel=1e-5)
    assert loss(full, small, first_only) != pytest.approx(loss(full, small, both), rel=1e-5)


def test_gradients_against_finite_differences_in_float64():
    """Of one step each: what later steps see of the first one's output has no gradient, as published."""
    torch.manual_seed(0)
    full, small = torch.rand(2, 2, 3, 10, 15).double() * 2 - 1, torch.rand(2, 2, 3, 2, 3).double() * 2 - 1
    obs = torch.rand(2, 5, 3, 2, 3).double() * 2 - 1
    act = torch.randint(0, 2, (2, 5, 11), dtype=torch.uint8)
    guide = torch.nn.functional.interpolate(small.flatten(0, 1), scale_factor=5, mode="bicubic").unflatten(0, (2, 2))

    def randn(*shape, device=None, generator=torch.Generator()):  # noqa: B008
        return torch.randn(*shape, generator=generator.manual_seed(len(shape)), dtype=torch.float64)

    of_upsampler = (full, no_actions(2, 2), torch.ones(2, 2, dtype=torch.bool), LEVELS, randn, guide)
    of_denoiser = (obs, act, torch.ones(2, 5, dtype=torch.bool), LEVELS, randn)
    for model, arguments in ((upsampler().double(), of_upsampler), (denoiser().double(), of_denoiser)):
        model.loss(*arguments).backward()
        weights = list(model.parameters())
        assert all(weight.grad.norm() > 0 for weight in weights)
        direction = [torch.randn_like(weight) for weight in weights]
        slope, losses = sum((w.grad * d).sum() for w, d in zip(weights, direction, strict=True)).item(), []
        for step in (1e-4, -2e-4):
            with torch.no_grad():
                torch._foreach_add_(weights, direction, alpha=step)
                losses.append(model.loss(*arguments).item())
        assert (losses[0] - losses[1]) / 2e-4 == pytest.approx(slope, rel=1e-3)  # outputs are float32


def test_buttons_and_choices_are_embedded_alike():
    spec = Spec(SMALL, MultiBinary(4), 4)
    inner = InnerModelConfig(cond_channels=16, depths=(1,), channels=(8,), attn_depths=(0,), context_noise=True)
    model = Denoiser(DenoiserConfig(inner, noise_context=True), spec).inner_model
    act = torch.tensor([[0, 3, 1, 2]])
    buttons = torch.nn.functional.one_hot(act, 4).to(torch.uint8)
    rows = model.act_emb[0].weight[act].flatten(1)
    torch.testing.assert_close(model.act_emb(buttons), rows)
    assert (model.act_emb(torch.zeros_like(buttons)) == 0).all()  # as padding has it


def test_network_without_noise_in_its_context_says_so():
    inner = InnerModelConfig(cond_channels=16, depths=(1,), channels=(8,), attn_depths=(0,))
    model = Denoiser(DenoiserConfig(inner), 4)
    with pytest.raises(ValueError, match="context_noise"):
        DiffusionSampler(model, SamplerConfig(1, s_cond=0.1)).sample(
            torch.zeros(1, 4, 3, 8, 8), torch.zeros(1, 4, dtype=torch.int64)
        )
