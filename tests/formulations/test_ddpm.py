"""DDPM against the published branch's vectors and, between them, against its formulas in plain Python."""

import json
import math
import random
from functools import cache

import pytest
import torch
from fake_cuda import fake, fake_cuda, move_to_fake_cuda, no_host_traffic
from golden_vectors import FOLDER, golden_weight, load, replay_draws
from worlds import world

from diamond_fast import FastDenoiser
from diamond_fast.config import InnerModelConfig
from diamond_fast.engine.choose import WITHOUT_TRITON
from diamond_fast.engine.denoiser_networks import fast_sampler
from diamond_fast.engine.fused_torch import Techniques
from diamond_fast.engine.fused_training import TrainableDenoiser
from diamond_fast.formulations.config import DDPMConfig, DDPMStepsConfig, LevelsConfig
from diamond_fast.formulations.ddpm import DDPM, alphas_cumprod, betas, timesteps
from diamond_fast.frames import quantise
from diamond_fast.world_model import Denoiser, DiffusionSampler

META = json.loads((FOLDER / "ddpm_meta.json").read_text())
NAME = "noise_model."  # how the published branch calls the network
CPU = torch.device("cpu")


def make_denoiser():
    sizes = {k: tuple(v) if isinstance(v, list) else v for k, v in META["inner_model"].items()}
    num_actions = sizes.pop("num_actions")
    cfg = DDPMConfig(InnerModelConfig(**sizes), sigma_offset_noise=META["sigma_offset_noise"])
    model = Denoiser(cfg, world(num_actions))
    state = {k: torch.from_numpy(golden_weight(NAME + k, p.shape)) for k, p in model.inner_model.state_dict().items()}
    model.inner_model.load_state_dict(state)
    return model


def vectors():
    """As stored: padding frames are zeros for the loss only."""
    v = {key: torch.from_numpy(value) for key, value in load("ddpm_small").items()}
    v["obs"] = v.pop("obs_u8").float() / 255 * 2 - 1
    return v


def as_normal(t):
    """The normal numbers that become these timesteps."""
    return torch.special.ndtri((t.double() + 0.5) / META["num_train_timesteps"]).float()


def test_schedule_golden():
    v = vectors()
    torch.testing.assert_close(betas(), v["betas"], rtol=1e-6, atol=0)
    torch.testing.assert_close(alphas_cumprod(), v["alphas_cumprod"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("n", [1, 3, 10])
def test_sample_golden(n):
    v, model = vectors(), make_denoiser()
    sampler = DiffusionSampler(model, DDPMStepsConfig(num_steps=n))
    assert [step.level for step in model.formulation.plan(sampler.cfg)] == v[f"n{n}_timesteps"].tolist()
    noise = [v[f"n{n}_noise_{k}"] for k in range(sum(key.startswith(f"n{n}_noise_") for key in v))]
    expected = v[f"n{n}_trajectory"]
    for quantised in (True, False):
        model.formulation = DDPM(model.cfg, quantised)
        randn = replay_draws(noise)
        sample, trajectory = sampler.sample(v["obs"][:, :4], v["act"][:, :4], randn)
        assert not randn.left
        assert len(trajectory) == len(expected) == n + 1
        for actual, truth in zip(trajectory[:-1], expected[:-1], strict=True):
            torch.testing.assert_close(actual, truth, rtol=1e-4, atol=1e-4)
        if quantised:
            assert_same_grey_levels(sample, v[f"n{n}_sample"])
        elif n > 1:  # the published trajectory of a single step ends with the quantised frame
            torch.testing.assert_close(sample, expected[-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("through", ["as written", "walk"])
def test_loss_golden(through):
    """Also as a GPU trains it: the network's operations one by one, in float32 here."""
    v, model = vectors(), make_denoiser()
    trained = model if through == "as written" else TrainableDenoiser(model, torch.float32, WITHOUT_TRITON)
    obs = v["obs"] * v["mask"][:, :, None, None, None]
    randn = replay_draws([v["loss_offset_noise"], v["loss_noise"], as_normal(v["timesteps"])])
    loss = trained.loss(obs, v["act"], v["mask"], LevelsConfig(), randn)
    loss.backward()
    assert not randn.left
    assert loss.item() == pytest.approx(v["loss"].item(), rel=1e-4)
    norms = {NAME + name: p.grad.norm().item() for name, p in model.inner_model.named_parameters()}
    assert norms == pytest.approx(META["grad_norm_by_parameter"], rel=1e-4, abs=1e-7)


def assert_same_grey_levels(actual, expected):
    """At most 0.1 % of the pixels may differ, each by one grey level."""
    levels = ((actual - expected) * 127.5).abs()
    assert levels.max() < 1.01
    assert (levels > 0.5).float().mean() <= 1e-3


# --- the formulas, pixel by pixel in plain Python


@cache
def kept_share(t):
    """alpha_bar."""
    return math.prod(1 - (1e-4 + (0.02 - 1e-4) * i / 999) for i in range(t + 1))


def drawn(x, predict, noise, num_steps):
    """One pixel's trajectory from a start x: ``predict(x, told)`` is the network, ``noise`` the draws behind it."""
    trajectory = [x]
    r = 1000 // num_steps
    for t in [500] if num_steps == 1 else [r * i for i in reversed(range(num_steps))]:
        kept, before = kept_share(t), 1.0 if num_steps == 1 or t < r else kept_share(t - r)
        clean = (x - math.sqrt(1 - kept) * predict(x, (t + 1) / 1000)) / math.sqrt(kept)
        clean = min(1.0, max(-1.0, clean))
        a = kept / before
        x = math.sqrt(before) * (1 - a) / (1 - kept) * clean + math.sqrt(a) * (1 - before) / (1 - kept) * x
        if before < 1:
            x += math.sqrt(max((1 - before) / (1 - kept) * (1 - a), 1e-20)) * noise.pop(0)
        trajectory.append(x)
    return trajectory


@pytest.mark.parametrize("n", [*range(1, 11), 37, 1000])
@torch.no_grad()
def test_a_sample_follows_the_formulas(n):
    """With a network that one pixel alone decides, so that plain numbers can follow it."""
    rng = random.Random(n)
    draws = [[rng.gauss(0, 1) for _ in range(4)] for _ in range(n)]  # 4 pixels of a frame
    ddpm = DDPM(DDPMConfig(), quantised=False)
    steps = ddpm.plan(DDPMStepsConfig(num_steps=n))
    assert 1 + sum(step.num_draws for step in steps) == n
    noise = iter([torch.tensor(draw).view(1, 1, 2, 2) for draw in draws])
    x, trajectory = next(noise), []
    for step in steps:
        told = ddpm.condition(torch.tensor([float(step.level)]))
        x, _, _ = ddpm.step(x, 0.8 * torch.sin(x) + told, step, None, None, noise)
        trajectory.append(x.flatten())
    assert next(noise, None) is None
    expected = [
        drawn(draws[0][i], lambda x, told: 0.8 * math.sin(x) + told, [d[i] for d in draws[1:]], n)[1:] for i in range(4)
    ]
    torch.testing.assert_close(torch.stack(trajectory, 1), torch.tensor(expected), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("t", [0, 1, 333, 500, 998, 999])
def test_training_follows_the_formulas(t):
    ddpm, generator = DDPM(DDPMConfig(sigma_offset_noise=0.2)), torch.Generator().manual_seed(t)
    clean = torch.rand(2, 3, 4, 5, generator=generator) * 2 - 1
    offset, white = (torch.randn(2, 3, *size, generator=generator) for size in ((1, 1), (4, 5)))
    level, noise = ddpm.draw(clean, LevelsConfig(), replay_draws([offset, white, as_normal(torch.tensor([t, t]))]))
    assert level.tolist() == [t, t]
    noisy = ddpm.corrupt(clean, level, noise)
    truth = 0.2 * offset.double() + white.double()
    of_clean, of_noise = math.sqrt(kept_share(t)), math.sqrt(1 - kept_share(t))
    torch.testing.assert_close(noisy.double(), of_clean * clean.double() + of_noise * truth, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ddpm.target(clean, noisy, level, noise).double(), truth, rtol=1e-6, atol=1e-6)
    # the noise gives the clean frame back; at t = 999 all but 0.6 % of the signal is lost, and its last digits with it
    tolerance = 1e-5 / of_clean
    for level_given in (level, t):
        clean_again = DDPM(ddpm.cfg, quantised=False).estimate(noisy, noise, level_given)
        torch.testing.assert_close(clean_again, clean, rtol=0, atol=tolerance)
    assert torch.equal(ddpm.estimate(noisy, noise, level), quantise(clean_again)) or t == 999


def test_timesteps_are_uniform():
    ddpm, n = DDPM(DDPMConfig()), 200_000
    t, _ = ddpm.draw(torch.zeros(n, 1, 1, 1), LevelsConfig(), seeded())
    assert t.min() == 0
    assert t.max() == 999
    assert torch.equal(t, t.floor())
    counts = torch.bincount(t.long(), minlength=1000)
    chi_square = ((counts - n / 1000) ** 2 / (n / 1000)).sum().item()
    assert abs(chi_square - 999) < 5 * math.sqrt(2 * 999)


def seeded():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape, device=None: torch.randn(*shape, generator=generator)


@pytest.mark.parametrize("n", [0, -1, 1001])
def test_numbers_of_steps_that_there_are_not(n):
    with pytest.raises(ValueError, match=f"num_steps: DDPM needs 1 to 1000 denoising steps, got {n}"):
        timesteps(n)


# --- on the fast networks


@pytest.mark.parametrize(("n", "dtype"), [(1, torch.float32), (3, torch.bfloat16)])
@torch.no_grad()
def test_a_sample_never_leaves_the_gpu(n, dtype):
    model = make_denoiser()
    sampler = fast_sampler(
        model.formulation, model.inner_model, DDPMStepsConfig(num_steps=n), CPU, dtype, engine="fused"
    )
    inputs = (
        torch.zeros(2, 12, 32, 32),
        torch.zeros(2, 4, dtype=torch.int64),
        torch.zeros(sampler.num_draws, 2, 3, 32, 32),
    )
    with fake_cuda():
        move_to_fake_cuda(sampler)
        inputs, level = [fake(x) for x in inputs], fake(torch.ones(2))
        with no_host_traffic():
            trajectory = sampler.sample(*inputs)
            estimate = sampler.denoise(trajectory[0], level, *inputs[:2])
    assert [tuple(x.shape) for x in trajectory] == [(2, 3, 32, 32)] * (n + 1)
    assert all(x.device.type == "cuda" and x.dtype == torch.float32 for x in [*trajectory, estimate])


@torch.no_grad()
def test_training_never_leaves_the_gpu():
    ddpm = DDPM(DDPMConfig())
    with fake_cuda():
        clean = fake(torch.zeros(2, 3, 8, 8))
        with no_host_traffic():
            level, noise = ddpm.draw(clean, LevelsConfig(), torch.randn)
            noisy = ddpm.corrupt(clean, level, noise)
            told = ddpm.condition(level)
            estimate = ddpm.estimate(noisy, noise, level)
    assert [x.shape[0] for x in (noisy, told, estimate)] == [2, 2, 2]


@torch.no_grad()
def test_the_fast_denoiser_takes_no_settings_of_edm():
    model, v = make_denoiser(), vectors()
    fast = FastDenoiser(model, dtype=torch.float32, techniques=Techniques(cuda_graphs=False))
    assert fast.sampler_config == DDPMStepsConfig()
    randn = replay_draws([v[f"n3_noise_{k}"] for k in range(3)])
    assert_same_grey_levels(fast.sample(v["obs"][:, :4], v["act"][:, :4], randn)[0], v["n3_sample"])
    with pytest.raises(ValueError, match="sigma_data: the denoiser is no EDM, whose preconditioning has one"):
        FastDenoiser(model, sigma_data=0.5)
