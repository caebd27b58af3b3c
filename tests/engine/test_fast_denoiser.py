"""FastDenoiser against the published numbers, the readable twin, and a plain transcription of the published loop."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from golden_vectors import denoiser, replay_draws, tensors
from published_environment import SAMPLER_SETTINGS, PublishedDenoiser
from torch import nn

from diamond_fast import FastDenoiser
from diamond_fast.config import SamplerConfig
from diamond_fast.engine.cpu_program import why_unavailable
from diamond_fast.engine.fused_torch import Techniques
from diamond_fast.networks.unet.model import InnerModel
from diamond_fast.world_model import DiffusionSampler

LEVEL = 2 / 255
SIZE = 32

BF16 = pytest.param(
    torch.bfloat16,
    marks=pytest.mark.skipif(why_unavailable() is not None, reason=f"no AMX engine: {why_unavailable()}"),
)


def inputs(n=2, seed=0, num_actions=4):
    generator = torch.Generator().manual_seed(seed)
    obs = torch.randint(0, 256, (n, 4, 3, SIZE, SIZE), generator=generator) / 255 * 2 - 1
    return obs, torch.randint(0, num_actions, (n, 4), generator=generator)


SAMPLERS = {
    "sample_small_euler1": SamplerConfig(num_steps=1),
    "sample_small_euler3": SamplerConfig(num_steps=3),
    "sample_small_churn5": SamplerConfig(num_steps=5, s_churn=2.0, s_noise=1.003),
    "sample_paper_euler3": SamplerConfig(num_steps=3),
    "sample_small_heun3": SamplerConfig(num_steps=3, order=2),
}


@pytest.mark.parametrize("case", SAMPLERS)
def test_sample_golden(case):
    v = tensors(case)
    fast = FastDenoiser(denoiser(case.split("_")[1]), SAMPLERS[case], dtype=torch.float32)
    randn = replay_draws([v[f"noise_{i}"] for i in range(sum(k.startswith("noise_") for k in v))])
    sample, trajectory = fast.sample(v["obs"], v["act"], randn)
    assert not randn.left
    assert len(trajectory) == len(v["trajectory"])
    difference = (sample - v["sample"]).abs() / LEVEL
    # Truncation moves a pixel by one level if rounding falls the other way. Heun's second evaluation of a step is
    # divided by the next, much smaller sigma, and with it such a level: only how many pixels differ is bounded there.
    if SAMPLERS[case].order == 1:
        assert difference.max() < 1.01
    assert (difference > 0.01).float().mean() < 0.01


def before_quantisation(network, x, sigma, obs, act):
    """c_skip x + c_out F from a fast denoiser's own network."""
    fast = network._ready(x.device)
    formulation, cs = fast.sampler.formulation, network.formulation.conditioners(sigma)
    conditioning = fast.network.conditioning(cs.c_noise[None], act)[0]
    output = fast.network.evaluate(formulation.prepare(x, obs, sigma), conditioning)
    return cs.c_skip * x + cs.c_out * output


@pytest.mark.parametrize("size", ["small", "paper"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@torch.no_grad()
def test_error_before_quantisation(size, dtype, tolerance):
    twin = denoiser(size)
    obs, act = inputs()
    obs = obs.flatten(1, 2)
    fast = FastDenoiser(twin, dtype=dtype)
    for low, high in ((2e-3, 0.05), (0.5, 5.0)):
        sigma = torch.tensor([low, high])
        x = (
            torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * sigma.view(-1, 1, 1, 1)
            + obs[:, -3:]
        )
        cs = twin.formulation.conditioners(sigma)
        truth = cs.c_skip * x + cs.c_out * twin.predict(x, sigma, obs, act)
        error = before_quantisation(fast, x, sigma, obs, act) - truth
        assert (error.norm() / truth.norm()).item() < tolerance
        if dtype == torch.float32:
            assert error.abs().max().item() < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_last_step_is_within_two_levels_and_does_not_drift(dtype):
    twin = denoiser("paper")
    obs, act = inputs(n=4)
    x = obs[:, -1] + 2e-3 * torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    obs, sigma = obs.flatten(1, 2), torch.full((4,), 2e-3)
    levels = (FastDenoiser(twin, dtype=dtype).denoise(x, sigma, obs, act) - twin.denoise(x, sigma, obs, act)) / LEVEL
    assert levels.abs().max() < 2.01
    assert abs(levels.mean()) < 0.05


@pytest.mark.parametrize("technique", ["none", *Techniques.__dataclass_fields__])
def test_each_technique_can_be_turned_off(technique):
    twin = denoiser("small")
    obs, act = inputs(n=1)
    obs = obs[..., :16, :24]
    off = Techniques() if technique == "none" else replace(Techniques(), **{technique: False})
    noise = torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    truth, _ = DiffusionSampler(twin, SamplerConfig()).sample(obs, act, lambda *_, **__: noise)
    y, _ = FastDenoiser(twin, dtype=torch.float32, techniques=off).sample(obs, act, lambda *_, **__: noise)
    levels = ((y - truth) / LEVEL).abs()
    assert levels.max() < 1.01
    assert (levels > 0.01).float().mean() < 1e-4 / LEVEL  # errors of float32, 1e-4 at most, round so many otherwise


def published_loop(sample, obs, act, num_frames):
    """Imagining as the published environment does: context and actions roll on by one frame a step."""
    frames = []
    for t in range(num_frames):
        next_obs, _ = sample(obs, act)
        frames.append(next_obs)
        obs, act = obs.roll(-1, dims=1), act.roll(-1, dims=1)
        obs[:, -1] = next_obs
        act[:, -1] = t % 4
    return torch.stack(frames)


@pytest.mark.parametrize("given", ["denoiser", "published", "state_dict", "agent_state_dict"])
def test_stands_in_for_the_sampler_in_the_published_loop(given):
    twin = denoiser("small")
    state = twin.state_dict()
    denoisers = {
        "denoiser": twin,
        "published": PublishedDenoiser(twin),
        "state_dict": state,
        "agent_state_dict": {f"denoiser.{k}": v for k, v in state.items()} | {"actor_critic.x": torch.zeros(1)},
    }
    obs, act = inputs(n=1)
    torch.manual_seed(0)
    truth = published_loop(DiffusionSampler(twin, SamplerConfig()).sample, obs.clone(), act.clone(), 2)
    torch.manual_seed(0)
    fast = FastDenoiser(denoisers[given], SAMPLER_SETTINGS, dtype=torch.float32)
    y = published_loop(fast.sample, obs.clone(), act.clone(), 2)
    assert ((y[0] - truth[0]).abs() / LEVEL).max() < 1.01
    assert ((y - truth).abs() / LEVEL > 0.01).float().mean() < 0.02
    assert set(fast.state_dict()) == set(state)


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
@pytest.mark.parametrize("given", ["denoiser", "published"])
def test_refresh_takes_the_weights_as_they_are(dtype, given):
    twin = denoiser("small")
    obs, act = inputs()
    source = twin if given == "denoiser" else PublishedDenoiser(twin)
    fast = FastDenoiser(source, dtype=dtype)
    sigma, x = torch.tensor([0.5]), obs[:, -1]
    before = fast.denoise(x, sigma, obs.flatten(1, 2), act)
    for p in source.parameters():
        p.data *= 1.2
    assert torch.equal(fast.denoise(x, sigma, obs.flatten(1, 2), act), before)
    fast.refresh()
    after = fast.denoise(x, sigma, obs.flatten(1, 2), act)
    assert torch.equal(after, FastDenoiser(source, dtype=dtype).denoise(x, sigma, obs.flatten(1, 2), act))
    assert not torch.equal(after, before)
    fast.load_state_dict(denoiser("small").state_dict())
    assert torch.equal(fast.denoise(x, sigma, obs.flatten(1, 2), act), before)


def test_wrap_gives_any_network_the_same_sampler():
    twin = denoiser("small")
    obs, act = inputs()
    torch.manual_seed(0)
    truth, _ = DiffusionSampler(twin, SamplerConfig(num_steps=2)).sample(obs, act)

    def network(x, c_noise, context, actions):
        assert c_noise.shape == (2,)
        return twin.inner_model(x, c_noise, context, actions)

    for wrapped in (twin.inner_model, network):
        fast = FastDenoiser.wrap(
            wrapped, sigma_data=0.5, sigma_offset_noise=0.3, quantised=True, sampler=SamplerConfig(num_steps=2)
        )
        torch.manual_seed(0)
        y, trajectory = fast.sample(obs, act)
        assert len(trajectory) == 3
        assert ((y - truth).abs() / LEVEL > 0.01).float().mean() < 1e-3
    smooth = FastDenoiser.wrap(twin.inner_model, sigma_data=0.5, sigma_offset_noise=0.3)
    y, _ = smooth.sample(obs, act)
    assert len(np.unique(y.numpy())) > 256  # no grey levels where they were not asked for


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prev_obs": torch.zeros(2, 3, 3, SIZE, SIZE)}, "prev_obs: context and frame have 12 channels together"),
        ({"prev_obs": torch.zeros(2, 4, 3, SIZE, SIZE, dtype=torch.uint8)}, "prev_obs: expected a tensor of floats"),
        ({"prev_obs": torch.zeros(2, 4, 3, 0, SIZE)}, "prev_obs: expected shape"),
        ({"prev_act": torch.zeros(2, 4)}, "prev_act: expected an int64 or int32 tensor, got torch.float32"),
        ({"prev_act": torch.zeros(3, 4, dtype=torch.int64)}, r"prev_act: expected shape \[2, T\]"),
        ({"prev_act": torch.zeros(2, 3, dtype=torch.int64)}, "prev_act: expected the 4 actions"),
        ({"prev_act": torch.full((2, 4), 6)}, "prev_act: expected 0 to 5, got 6 to 6"),
        ({"prev_act": torch.full((2, 4), -1)}, "prev_act: expected 0 to 5, got -1 to -1"),
    ],
)
def test_bad_arguments_are_named(change, message):
    obs, act = inputs()
    arguments = {"prev_obs": obs, "prev_act": act} | change
    with pytest.raises((TypeError, ValueError), match=message):
        FastDenoiser(denoiser("small")).sample(**arguments)


def test_bad_settings_are_named():
    twin = denoiser("small")
    with pytest.raises(ValueError, match="dtype: expected"):
        FastDenoiser(twin, dtype=torch.float16)
    with pytest.raises(TypeError, match="sampler: expected a SamplerConfig"):
        FastDenoiser(twin, sampler=3)
    with pytest.raises(TypeError, match="denoiser: expected a Denoiser or its state dict"):
        FastDenoiser("Boxing")
    with pytest.raises(ValueError, match=r"denoiser: these are not a denoiser's weights"):
        FastDenoiser(nn.Linear(2, 2))
    state = twin.state_dict()
    del state["inner_model.unet.mid_blocks.resblocks.0.attn.qkv_proj.weight"]
    with pytest.raises(ValueError, match="denoiser: its weights are not those of this U-Net"):
        FastDenoiser(state)
    with pytest.raises(ValueError, match="max_graphs: expected at least 1"):
        FastDenoiser(twin, max_graphs=0)
    obs, act = inputs()
    with pytest.raises(ValueError, match="sigma: expected one number, or one for each of 2 samples, got 3"):
        FastDenoiser(twin).denoise(obs[:, -1], torch.ones(3), obs.flatten(1, 2), act)


def test_a_module_among_others():
    """It can be a part of a module: its network is registered once, and moves with it."""
    twin = denoiser("small")
    holder = nn.Module()
    holder.denoiser = FastDenoiser(twin)
    assert isinstance(holder.denoiser.inner_model, InnerModel)
    assert {k.removeprefix("denoiser.") for k in holder.state_dict()} == set(twin.state_dict())
    assert holder.denoiser.to("cpu").device == torch.device("cpu")
    obs, act = inputs(n=1)
    assert holder.denoiser.sample(obs, act)[0].shape == (1, 3, SIZE, SIZE)
