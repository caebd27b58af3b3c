"""Every formulation with every network in every kind of world. A new member is one more entry below."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_world import DOMAIN as LAMPS
from toys.pixelwise import PixelwiseConfig

from diamond_fast import FastDenoiser
from diamond_fast.config import InnerModelConfig, RewardEndConfig, RunConfig, of_kind
from diamond_fast.config_checks import checked
from diamond_fast.domains import DOMAINS
from diamond_fast.engine.contest import Work
from diamond_fast.engine.denoiser_networks import fast_sampler
from diamond_fast.engine.fast_encoders import FastRewardEnd
from diamond_fast.networks.cross_attention.config import CrossAttentionConfig
from diamond_fast.networks.dit.config import DiTConfig
from diamond_fast.networks.reward_end.model import RewardEndModel
from diamond_fast.networks.unet3d.config import UNet3DConfig
from diamond_fast.registry import FORMULATIONS, NETWORKS
from diamond_fast.runs.agents import load_agent
from diamond_fast.runs.folder import RunFolder
from diamond_fast.spec import Box, Discrete, Frame, MultiBinary, Spec
from diamond_fast.train import main as train
from diamond_fast.training.optim import make_optimizer
from diamond_fast.world_model import Denoiser, DiffusionSampler

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from straight_line import StraightLineConfig

NETWORK_SETTINGS = {
    "unet": InnerModelConfig(cond_channels=16, depths=(1, 1), channels=(8, 8), attn_depths=(0, 1)),
    "cross_attention": CrossAttentionConfig(
        cond_channels=16,
        depths=(1, 1),
        channels=(8, 8),
        attn_depths=(0, 0),
        encoder_depths=(1, 1),
        encoder_channels=(8, 8),
    ),
    "unet3d": UNet3DConfig(cond_channels=16, depths=(1, 1), channels=(8, 8), attn_depths=(0, 1)),
    "dit": DiTConfig(patch_size=4, width=16, depth=2, num_heads=2),
    "pixelwise": PixelwiseConfig(),
}
FORMULATION_NAMES = ["edm", "ddpm", "flow", "straight_line"]
SPECS = {
    "atari": Spec(Frame(8, 8), Discrete(4)),
    "buttons": Spec(Frame(6, 10), MultiBinary(3), context=3),  # no divisor of the conditioning's width
    "wheel": Spec(Frame(5, 7), Box(2), context=1),
}
CPU = torch.device("cpu")
N = 3

DEAR = {"cross_attention", "unet3d", "dit"}
"""Networks that take longer."""
OTHER_WORLDS = {("edm", "atari"), ("ddpm", "wheel"), ("flow", "atari"), ("straight_line", "wheel")}
"""By default every formulation is with every network in one world, and with the cheap ones in one more."""


def is_default(formulation, network, world):
    return world == "buttons" or (network not in DEAR and (formulation, world) in OTHER_WORLDS)


every = pytest.mark.parametrize(
    ("formulation", "network", "world"),
    [
        pytest.param(f, n, w, marks=[] if is_default(f, n, w) else [pytest.mark.slow])
        for f in FORMULATION_NAMES
        for n in NETWORK_SETTINGS
        for w in SPECS
    ],
)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(FORMULATIONS, "straight_line", StraightLineConfig)  # each toy's one line
    monkeypatch.setitem(NETWORKS, "pixelwise", PixelwiseConfig)


def settings(formulation, network, spec):
    cfg = of_kind(RunConfig(game="Boxing"), formulation, network)
    inner = replace(NETWORK_SETTINGS[network], num_steps_conditioning=spec.context)
    return replace(cfg, denoiser=replace(cfg.denoiser, inner_model=inner))


def make(formulation, network, world):
    spec = SPECS[world]
    cfg = settings(formulation, network, spec)
    torch.manual_seed(0)
    denoiser = Denoiser(cfg.denoiser, spec)
    for p in denoiser.parameters():
        torch.nn.init.normal_(p, std=0.2)  # some layers are zero at the start
    return cfg, denoiser


def actions(spec, *shape, seed=0):
    rng = np.random.default_rng(seed)
    if isinstance(spec.action, Discrete):
        return torch.from_numpy(rng.integers(spec.action.n, size=shape))
    values = (
        rng.integers(2, size=(*shape, *spec.action.shape))
        if isinstance(spec.action, MultiBinary)
        else rng.random((*shape, *spec.action.shape))
    )
    return torch.from_numpy(values.astype(spec.action.dtype))


def frames(spec, *shape, seed=0):
    height, width, channels = spec.frame.shape
    levels = torch.randint(256, (*shape, channels, height, width), generator=torch.Generator().manual_seed(seed))
    return levels / 255 * 2 - 1


def noise_from(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape, device=None: torch.randn(*shape, generator=generator)


@every
@torch.no_grad()
def test_fast_equals_readable(formulation, network, world):
    cfg, denoiser = make(formulation, network, world)
    spec, steps = SPECS[world], cfg.world_model.sampler
    obs, act = frames(spec, N, spec.context), actions(spec, N, spec.context)
    truth, trajectory = DiffusionSampler(denoiser, steps).sample(obs, act, noise_from(1))
    assert len(trajectory) == steps.num_steps + 1
    assert torch.isfinite(truth).all()

    fast = fast_sampler(denoiser.formulation, denoiser.inner_model, steps, CPU, torch.float32)
    randn = noise_from(1)
    noise = [randn(*truth.shape) for _ in range(fast.num_draws)]
    assert_same_frames(fast.sample(obs.flatten(1, 2), act, noise)[-1], truth)
    y, _ = FastDenoiser(denoiser, steps, dtype=torch.float32).sample(obs, act, noise_from(1))
    assert_same_frames(y, truth)

    level = torch.linspace(0.1, 0.9, N)
    noisy = torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))
    y = FastDenoiser(denoiser, steps, dtype=torch.float32).denoise(noisy, level, obs.flatten(1, 2), act)
    assert_same_frames(y, denoiser.denoise(noisy, level, obs.flatten(1, 2), act))


@pytest.mark.parametrize("network", NETWORK_SETTINGS)
@torch.no_grad()
def test_weights_that_move_are_followed(network):
    """What runs on copies takes them; a network that runs as it is is prepared anew if its weights are elsewhere."""
    cfg, denoiser = make("edm", network, "atari")
    fast = FastDenoiser(denoiser, cfg.world_model.sampler, dtype=torch.float32)
    obs, act = frames(SPECS["atari"], N, 4), actions(SPECS["atari"], N, 4)
    fast.sample(obs, act, noise_from(1))
    before = fast._fast
    moved = {name: p * 1.1 for name, p in denoiser.state_dict().items()}
    denoiser.load_state_dict(moved, assign=True)
    y, _ = fast.sample(obs, act, noise_from(1))
    assert_same_frames(y, DiffusionSampler(denoiser, cfg.world_model.sampler).sample(obs, act, noise_from(1))[0])
    assert (fast._fast is before) == Work.of(denoiser, cfg.world_model.sampler, N).compiles


@pytest.mark.parametrize("world", SPECS)
@torch.no_grad()
def test_fast_reward_end_model_equals_the_readable_one(world):
    spec = SPECS[world]
    torch.manual_seed(0)
    cfg = RewardEndConfig(lstm_dim=6, cond_channels=8, depths=(1, 1), channels=(8, 8), attn_depths=(0, 0))
    model = RewardEndModel(cfg, spec)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    obs, act = frames(spec, N, 4), actions(spec, N, 3)
    truth = model.predict(obs[:, :-1], act, obs[:, 1:])
    fast = FastRewardEnd(model, torch.float32).predict(obs[:, :-1], act, obs[:, 1:])
    torch.testing.assert_close(fast, truth, rtol=1e-4, atol=1e-5)


def assert_same_frames(y, truth):
    """Truncation moves a pixel by one level if rounding falls the other way; a later step magnifies it."""
    assert ((y - truth).abs() * 127.5 > 0.01).float().mean() < 0.02


@every
def test_updates_lower_the_loss_and_restart_from_a_checkpoint(formulation, network, world, tmp_path):
    """The loss of one batch with the same noise falls; weights saved and loaded give the same loss bit for bit."""
    cfg, denoiser = make(formulation, network, world)
    spec = SPECS[world]
    length = spec.context + 2
    batch = frames(spec, N, length), actions(spec, N, length), torch.tensor([[True] * length] * N)

    def loss(model):
        return model.loss(*batch, cfg.sigma_distribution, noise_from(3))

    optimizer = make_optimizer(denoiser, lr=1e-3, weight_decay=0.01, eps=1e-8)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        value = loss(denoiser)
        value.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in denoiser.parameters())
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < losses[0]

    torch.save(denoiser.state_dict(), tmp_path / "weights.pt")
    other = Denoiser(cfg.denoiser, spec)
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(loss(other), loss(denoiser))


@every
def test_settings_are_written_and_read(formulation, network, world, tmp_path):
    cfg = checked(settings(formulation, network, SPECS[world]))
    assert RunFolder.create(tmp_path / "run", cfg).read_config() == cfg


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("edn", "unet"), "--formulation edn: unknown; did you mean edm?"),
        (
            ("edm", "transformer"),
            "--network transformer: unknown; known: unet, cross_attention, unet3d, dit, pixelwise",
        ),
    ],
)
def test_an_unknown_member_is_one_line(names, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        of_kind(RunConfig(), *names)


def test_the_loss_is_the_plain_one():
    """The loss of a straight line, written out with numpy-like plain Python for one frame at a time."""
    cfg, denoiser = make("straight_line", "pixelwise", "atari")
    spec = SPECS["atari"]
    obs, act, mask = frames(spec, 1, 5), actions(spec, 1, 5), torch.ones(1, 5, dtype=torch.bool)
    randn = noise_from(4)
    t, noise = torch.sigmoid(randn(1)), randn(1, *obs.shape[2:])
    x = (1 - t) * obs[:, 4] + t * noise
    with torch.no_grad():
        output = denoiser.inner_model(x, t, obs[:, :4].flatten(1, 2), act[:, :4])
        expected = (output - (noise - obs[:, 4])).square().mean()
        torch.testing.assert_close(denoiser.loss(obs, act, mask, cfg.sigma_distribution, noise_from(4)), expected)


def test_a_toy_formulation_network_and_world_train_together(monkeypatch, tmp_path, capsys):
    """From the command line: collected with random actions, trained for a few updates, resumed, judged."""
    monkeypatch.setitem(DOMAINS, "lamps", LAMPS)  # the world's one line
    train(
        f"--domain lamps --formulation straight_line --network pixelwise --world-model-only --out {tmp_path}/run "
        "--device cpu --frame-size 24 40 --collection.num-steps-total 60 --collection.first-epoch-min 40 "
        "--collection.first-epoch-max 40 --collection.first-epoch-threshold-rew 0 --collection.steps-per-epoch 20 "
        "--num-final-epochs 1 --denoiser-update.steps-first-epoch 3 --denoiser-update.steps-per-epoch 2 "
        "--denoiser-update.batch-size 4 --denoiser.noise-std 0.9 --denoiser.inner-model.width 6".split()
    )
    said = capsys.readouterr().out
    epochs = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("denoiser/loss" in epoch for epoch in epochs), said
    config = RunFolder.open(tmp_path / "run").read_config()
    assert config.denoiser == StraightLineConfig(PixelwiseConfig(width=6), noise_std=0.9)
    agent = load_agent(tmp_path / "run").agent
    assert agent.denoiser.inner_model.first.out_channels == 6
    assert agent.actor_critic is None
