"""Past frames that are remembered against the network's ``forward``, which encodes all of them at every step."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_cuda import fake, fake_cuda, move_to_fake_cuda, no_host_traffic
from small_world import SMALL_WORLD, make_replay

from diamond_fast import FastDenoiser
from diamond_fast.config import DenoiserConfig, SamplerConfig
from diamond_fast.engine.cached_network import CachedNetwork, CachedProgramNetwork
from diamond_fast.engine.choose import candidates, choose_path
from diamond_fast.engine.contest import Work, contest
from diamond_fast.engine.denoiser_networks import fast_sampler
from diamond_fast.engine.memory_program import MemoryPrograms
from diamond_fast.envs.world_model import WorldModelEnv
from diamond_fast.formulations.config import FlowConfig, FlowStepsConfig
from diamond_fast.networks.cross_attention.config import CrossAttentionConfig
from diamond_fast.networks.dit.config import DiTConfig
from diamond_fast.networks.memory import FrameByFrameNetwork
from diamond_fast.networks.unet3d.config import UNet3DConfig
from diamond_fast.spec import Discrete, Frame, Spec
from diamond_fast.world_model import Agent, Denoiser, DiffusionSampler

CPU = torch.device("cpu")
SPEC = Spec(Frame(9, 14), Discrete(4), context=3)
NETWORKS = {
    "cross_attention": CrossAttentionConfig(
        num_steps_conditioning=3,
        cond_channels=16,
        depths=(1, 1),
        channels=(8, 16),
        attn_depths=(0, 0),
        encoder_depths=(1, 1),
        encoder_channels=(8, 8),
    ),
    "dit": DiTConfig(num_steps_conditioning=3, patch_size=4, width=16, depth=2, num_heads=2),
    "unet3d": UNet3DConfig(
        num_steps_conditioning=3, cond_channels=16, depths=(1, 1), channels=(8, 16), attn_depths=(0, 0)
    ),
}
WHOLE = {"unet3d"}  # what they remember of a frame depends on those before it: a context is remembered as a whole
each_network = pytest.mark.parametrize("name", NETWORKS)
each_engine = pytest.mark.parametrize("engine", ["torch", "program"])


def make(name):
    torch.manual_seed(0)
    denoiser = Denoiser(DenoiserConfig(NETWORKS[name]), SPEC)
    for p in denoiser.parameters():
        torch.nn.init.normal_(p, std=0.2)  # some layers are zero at the start
    return denoiser, SamplerConfig(num_steps=2)


def films(n, length, seed=0):
    """Frames [N,L,C,H,W] and actions [N,L], whose windows are contexts one after the other."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(256, (n, length, 3, 9, 14), generator=generator) / 127.5 - 1
    return frames, torch.randint(4, (n, length), generator=generator)


def counted(network, monkeypatch):
    """How many frames are encoded, call by call: by the network, or by programs of it."""
    name = "encode" if isinstance(network, FrameByFrameNetwork) else "remember"
    counts, encode, compiled = [], getattr(network, name), getattr(MemoryPrograms, name)

    def counting(frames, act):
        counts.append(frames[..., 0, 0, 0].numel())
        return encode(frames, act)

    def counting_programs(self, frames, act):
        counts.append(frames[..., 0, 0, 0].numel())
        return compiled(self, frames, act)

    monkeypatch.setattr(network, name, counting)
    monkeypatch.setattr(MemoryPrograms, name, counting_programs)
    return counts


@each_network
@each_engine
@torch.no_grad()
def test_remembering_changes_nothing_but_how_often_frames_are_encoded(name, engine, monkeypatch):
    """Contexts that go on, jump, go on with another action in the past, and change their number."""
    denoiser, steps = make(name)
    network = denoiser.inner_model
    cached = fast_sampler(denoiser.formulation, network, steps, CPU, torch.float32, engine=engine)
    assert isinstance(cached.network, CachedProgramNetwork if engine == "program" else CachedNetwork)
    frames, act = films(2, 7)
    other = act.clone()
    other[1, 4] = (other[1, 4] + 1) % 4
    calls = [
        (frames[:, 0:3], act[:, 0:3], 6),
        (frames[:, 1:4], act[:, 1:4], 2),
        (frames[:, 2:5], act[:, 2:5], 2),
        (frames[:, 4:7], act[:, 4:7], 6),
        (frames[:, 3:6], act[:, 3:6], 6),
        (frames[:, 4:7], other[:, 4:7], 6),
        (frames[:1, 4:7], act[:1, 4:7], 3),
    ]
    noise = torch.randn(cached.num_draws, 2, 3, 9, 14, generator=torch.Generator().manual_seed(1))
    for obs, actions, expected in calls:
        n = len(obs)
        with monkeypatch.context() as patched:
            counts = counted(network, patched)
            y = cached.sample(obs.flatten(1, 2), actions, noise[:, :n])
        assert sum(counts) == (3 * n if name in WHOLE else expected)
        again = fast_sampler(denoiser.formulation, network, steps, CPU, torch.float32, engine=engine)
        fresh = again.sample(obs.flatten(1, 2), actions, noise[:, :n])
        torch.testing.assert_close(
            y[-1], fresh[-1], rtol=0, atol=0
        )  # the same numbers in the same order: a run resumes
        draws = iter(noise[:, :n])
        _, truth = DiffusionSampler(denoiser, steps).sample(obs, actions, lambda *_, device, draws=draws: next(draws))
        # before anything is quantised: the network's own output at the first level
        level = torch.full((n,), float(again.steps[0].level))
        told = denoiser.formulation.condition(level)
        noisy, context = denoiser.formulation.prepare(noise[0, :n], obs.flatten(1, 2), level)
        output = again.network.evaluate((noisy, context), again.network.conditioning(told[None], actions)[0])
        torch.testing.assert_close(output, network(noisy, told, context, actions), rtol=1e-4, atol=1e-5)
        assert ((y[-1] - truth[-1]).abs() * 127.5 > 0.01).float().mean() < 0.02


@torch.no_grad()
def test_a_caller_may_write_over_its_context():
    """Flow's network is given the context itself. Frames that all look alike then seem to go on from themselves."""
    denoiser, _ = make("dit")
    flow = Denoiser(FlowConfig(NETWORKS["dit"]), SPEC)
    flow.load_state_dict(denoiser.state_dict())
    steps, noise = FlowStepsConfig(num_steps=1), torch.randn(1, 3, 9, 14)
    fast, fresh = (FastDenoiser(flow, steps, dtype=torch.float32, engine="torch") for _ in "ab")
    frames, act = films(1, 3)
    fast.sample(frames, act, lambda *_, device: noise)
    frames.fill_(0.5)
    act.fill_(2)
    y, _ = fast.sample(frames, act, lambda *_, device: noise)
    assert torch.equal(y, fresh.sample(frames, act, lambda *_, device: noise)[0])


@each_network
def test_imagined_episodes_encode_one_frame_a_step(name, monkeypatch):
    """As the public environment steps them; what it imagines is what the readable networks imagine."""
    inner_model = replace(NETWORKS[name], num_steps_conditioning=4)
    cfg = replace(SMALL_WORLD, network=name, world_model_only=True, denoiser=DenoiserConfig(inner_model))
    agent = Agent(cfg, 4)
    torch.manual_seed(0)
    for p in agent.denoiser.parameters():
        torch.nn.init.normal_(p, std=0.2)
    counts, first = counted(agent.denoiser.inner_model, monkeypatch), {}
    for engine in ("readable", "program"):
        env = WorldModelEnv(agent, make_replay([30, 30]), num_envs=2, cfg=cfg.world_model, engine=engine)
        env.reset(seed=3)
        counts.clear()
        infos = [env.step(np.array([t, 3 - t]))[4] for t in range(4)]  # the horizon is 5
        first[engine] = infos[0]["final_obs"].astype(int)
        assert counts == ([8] * 4 if engine == "readable" or name in WHOLE else [2] * 4 + [2] * 3)
        env.close()
    assert np.abs(first["readable"] - first["program"]).max() <= 1  # a grey level, by truncation


@each_network
@each_engine
@torch.no_grad()
def test_other_weights_forget(name, engine):
    """After an update the frames are encoded anew, also those that were in the context before."""
    denoiser, steps = make(name)
    fast = FastDenoiser(denoiser, steps, dtype=torch.float32, engine=engine)
    frames, act = films(1, 4)
    fast.sample(frames[:, :3], act[:, :3])
    for p in denoiser.parameters():
        p.mul_(1.1)
    noise = torch.randn(1, 3, 9, 14)
    y, _ = fast.sample(frames[:, 1:], act[:, 1:], lambda *_, device: noise)
    fresh = FastDenoiser(denoiser, steps, dtype=torch.float32, engine=engine)
    assert torch.equal(y, fresh.sample(frames[:, 1:], act[:, 1:], lambda *_, device: noise)[0])


@each_network
@pytest.mark.filterwarnings("ignore:CUDA is not available")
@torch.no_grad()
def test_on_a_gpu_nothing_is_asked(name, monkeypatch):
    """A frame can be captured: all stays on the (fake) device, and the past is encoded once for all steps."""
    denoiser, steps = make(name)
    sampler = fast_sampler(denoiser.formulation, denoiser.inner_model, steps, CPU, torch.bfloat16, engine="fused")
    sampler.network._autocast = ("cuda", torch.bfloat16)
    inputs = [
        torch.zeros(2, 9, 9, 14),
        torch.zeros(2, 3, dtype=torch.int64),
        torch.zeros(sampler.num_draws, 2, 3, 9, 14),
    ]
    with fake_cuda():
        move_to_fake_cuda(sampler)
        move_to_fake_cuda(denoiser.inner_model)
        inputs = [fake(x) for x in inputs]
        counts = counted(denoiser.inner_model, monkeypatch)
        with no_host_traffic():
            for _ in range(2):
                trajectory = sampler.sample(*inputs)
    assert counts == [6, 6]  # nothing is known of the call before
    assert all(x.device.type == "cuda" and x.shape == (2, 3, 9, 14) and x.dtype == torch.float32 for x in trajectory)


@each_network
@pytest.mark.filterwarnings("ignore:CUDA is not available")
@torch.no_grad()  # torch's CPU build has no gradients on a device that is not there
def test_a_loss_on_a_gpu_asks_nothing(name):
    """Under autocast, as an update's graph captures it."""
    denoiser, _ = make(name)
    levels = denoiser.cfg.levels()
    with fake_cuda():
        move_to_fake_cuda(denoiser)
        obs, act = fake(torch.zeros(2, 5, 3, 9, 14)), fake(torch.zeros(2, 5, dtype=torch.int64))
        mask = fake(torch.ones(2, 5, dtype=torch.bool))
        randn = lambda *shape, device: torch.empty(*shape, device=device)  # noqa: E731
        with no_host_traffic(), torch.autocast("cuda", torch.bfloat16):
            loss = denoiser.loss(obs, act, mask, levels, randn)
    assert loss.device.type == "cuda"
    assert loss.shape == ()


@each_network
def test_paths_of_a_cpu(name):
    """Programs, torch's operations if asked for or measured, the networks as written; none has to excuse itself."""
    denoiser, steps = make(name)
    work = Work.of(denoiser, steps, 2)
    assert [path.engine for path in candidates(CPU, torch.float32, work=work)] == ["program", "torch", "readable"]
    for engine in ("program", "torch", "readable"):
        assert choose_path(CPU, torch.float32, engine, work=work).why == "asked for"


@each_network
def test_held_against_the_readable_network(name):
    """As on a user's machine, with weights of a trained network's size."""
    denoiser, steps = make(name)
    work = Work.of(denoiser, steps, 2)
    rows = contest(work, candidates(CPU, torch.float32, work=work), lambda _: None)
    assert [row.why_not for row in rows] == [None] * 3
    assert all(row.error < 1e-5 for row in rows)
