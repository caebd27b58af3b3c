"""Imagination with a memory: the fast path against the readable one and a transcription, resumed, and never leaving a
GPU that is not there."""

from functools import partial

import pytest
import torch
from engine.imagined_games import ACTIONS, CFG, CONTEXT, ENVS, HORIZON, SIZE, make_replay, make_twin
from fake_cuda import fake, fake_cuda, move_to_fake_cuda, no_host_traffic
from torch.utils._python_dispatch import TorchDispatchMode

from diamond_fast.config import (
    ActorCriticConfig,
    DenoiserConfig,
    InnerModelConfig,
)
from diamond_fast.engine.fast_denoiser import FastDenoiser
from diamond_fast.engine.fast_encoders import FastMemory, FastPolicy
from diamond_fast.engine.fast_imagination import FastImaginedEnv
from diamond_fast.engine.given_weights import Watch
from diamond_fast.engine.imagination import ImaginationState, InitialStates
from diamond_fast.engine.path import WITHOUT_TRITON
from diamond_fast.engine.recompute import play
from diamond_fast.engine.rollout import RolloutState, initial_state
from diamond_fast.frames import to_float, to_uint8
from diamond_fast.networks.actor_critic import distributions
from diamond_fast.networks.actor_critic.model import ActorCritic
from diamond_fast.networks.recurrent.config import MemoryConfig
from diamond_fast.networks.recurrent.model import LAYERS, MemoryModel
from diamond_fast.spec import Discrete, Frame, Spec
from diamond_fast.world_model import Denoiser, DiffusionSampler

STEPS = 4
MEMORY = MemoryConfig(channels=(32,), down=(1,), action_width=4, width=6, layers=2, state=2, convolution=3, window=3)
SPEC = Spec(Frame(SIZE, SIZE), Discrete(ACTIONS), CONTEXT, memory=MEMORY.width)


def make_models(kind):
    torch.manual_seed(0)
    inner = InnerModelConfig(cond_channels=16, depths=(1,), channels=(32,), attn_depths=(0,))
    denoiser = Denoiser(DenoiserConfig(inner), SPEC)
    for weight in denoiser.parameters():
        if not weight.any():  # as blocks begin, which pass on nothing of what they are told
            torch.nn.init.normal_(weight, std=0.3)
    memory = MemoryModel(MEMORY, kind, SPEC)
    torch.nn.init.normal_(memory.head[2].weight)
    policy = ActorCritic(ActorCriticConfig(lstm_dim=8, channels=(32,), down=(1,)), SPEC)
    torch.nn.init.normal_(policy.actor_linear.weight, std=0.5)
    return denoiser, memory, policy


@pytest.fixture(scope="module")
def replay():
    return make_replay(Discrete(ACTIONS))


def make_fast(models, replay, engine="torch", techniques=None):
    memory = FastMemory(models[1], torch.float32, techniques, engine)
    starts = InitialStates(replay.segments(ENVS, CONTEXT), memory, CFG.num_batches_to_preload)
    sampler = FastDenoiser(models[0], CFG.sampler, dtype=torch.float32, engine=engine)
    return FastImaginedEnv(sampler, memory, HORIZON, starts, ENVS, STEPS, torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("kind", LAYERS)
def test_an_imagined_step_is_its_transcription(kind, replay):
    """The whole episode up to the frame acted on is read by the memory in one sequence, and nothing is carried."""
    denoiser, memory, _ = models = make_models(kind)
    env = make_twin(models, replay)
    env._restart = lambda dead: None  # episodes go on behind their ends
    env.reset()
    obs, real = env.state.obs, env.state.pixel_mask.clone()
    acts, dice = env.state.act.clone(), torch.Generator()
    for act in torch.randint(ACTIONS, (4, ENVS), generator=torch.Generator().manual_seed(3)):
        dice.set_state(env.generator.get_state())
        step = env.step(act)
        acts[:, -1] = act
        e, _ = memory(obs, acts, real)
        sampler = DiffusionSampler(denoiser, CFG.sampler)
        drawn, _ = sampler.sample(obs[:, -CONTEXT:], acts[:, -CONTEXT:], partial(torch.randn, generator=dice), e[:, -1])
        expected = to_float(to_uint8(drawn))
        torch.testing.assert_close(step.final_obs, expected, rtol=0, atol=0.01)
        logits, _ = memory.classify(e[:, -1])
        chosen = torch.multinomial(logits.softmax(-1), 1, generator=dice).squeeze(1)
        assert torch.equal(step.rew, chosen.float() - 1)
        obs = torch.cat((obs, step.obs[:, None]), dim=1)
        real = torch.cat((real, torch.ones(ENVS, 1, dtype=torch.bool)), dim=1)
        acts = torch.cat((acts, acts[:, -1:]), dim=1)


@pytest.mark.parametrize(
    ("kind", "engine", "techniques"),
    [
        *(("mamba", engine, techniques) for engine, techniques in (("torch", None), ("torch", WITHOUT_TRITON))),
        *((kind, "program", None) for kind in LAYERS),
        ("gru", "torch", None),
        ("attention", "torch", None),
    ],
    ids=str,
)
def test_steps_equal_the_twins(replay, kind, engine, techniques):
    models = make_models(kind)
    twin, fast = make_twin(models, replay), make_fast(models, replay, engine, techniques)
    assert torch.equal(twin.reset(), fast.reset())
    addresses = {name: x.data_ptr() for name, x in vars(fast.state).items()}
    ended = 0
    for act in torch.randint(ACTIONS, (8, ENVS), generator=torch.Generator().manual_seed(3)):
        expected, actual = twin.step(act), fast.step(act)
        for name in ("rew", "end", "trunc"):
            assert torch.equal(getattr(expected, name), getattr(actual, name))
        for name in ("obs", "final_obs", "burnin_obs"):  # one level where rounding falls the other way
            torch.testing.assert_close(getattr(actual, name), getattr(expected, name), rtol=0, atol=0.01)
        torch.testing.assert_close(fast.state.hx, twin.state.hx, rtol=0, atol=0.02)
        fast.state.frames.copy_(twin.state.frames)  # or that level would be several, some steps on
        ended += int((actual.end | actual.trunc).sum())
    assert ended > ENVS
    assert {name: x.data_ptr() for name, x in vars(fast.state).items()} == addresses
    assert fast.state.hx.shape == (1, ENVS, models[1].state_width)
    assert fast.state.cx.shape == (1, ENVS, 0)


def test_resumes_bit_by_bit(replay):
    models = make_models("mamba")
    actions = torch.randint(ACTIONS, (6, ENVS), generator=torch.Generator().manual_seed(3))

    def go_on(env, generator_state):
        env.randn.keywords["generator"].set_state(generator_state)
        return [env.step(act) for act in actions[2:]]

    env = make_fast(models, replay)
    env.reset()
    for act in actions[:2]:
        env.step(act)
    saved, dice = env.state_dict(), env.randn.keywords["generator"].get_state()
    expected, resumed = go_on(env, dice), make_fast(models, replay)
    resumed.load_state_dict(saved)
    for a, b in zip(expected, go_on(resumed, dice), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_an_epoch_begins_with_the_weights_as_they_are(replay):
    models = make_models("gru")
    env = make_fast(models, replay)
    env.reset()
    with torch.no_grad():
        for p in models[1].encoder.parameters():
            p.add_(0.3)
    env.begin_epoch()
    twin = make_twin(models, replay)
    twin.initial_states.contexts.load_state_dict(env.starts.initial_states.contexts.state_dict())
    env.reset()
    twin.reset()
    torch.testing.assert_close(env.state.hx, twin.state.hx, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_memory_never_leaves_the_gpu(kind):
    """In both of its forms: a graph can hold a loss and a step."""
    _, memory, _ = make_models(kind)
    obs, act = torch.zeros(2, 3, 3, SIZE, SIZE), torch.zeros(2, 3, dtype=torch.int64)
    mask, empty = torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, memory.state_width)
    with fake_cuda():
        move_to_fake_cuda(memory)
        obs, act, mask, empty = map(fake, (obs, act, mask, empty))
        with no_host_traffic():
            whole, _ = memory(obs, act, mask)
            e, state = memory.step(obs[:, 0], act[:, 0], empty)
    assert e.device.type == state.device.type == whole.device.type == "cuda"


class Operations(TorchDispatchMode):
    """Names of what is dispatched, in order, but for views, new memory and questions of where a tensor is."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if not func.is_view and not name.startswith(("empty", "new_empty", "device")):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
@pytest.mark.parametrize("techniques", [None, WITHOUT_TRITON], ids=str)
def test_on_a_gpu_a_mamba_layers_step_is_two_kernels(techniques):
    """Between three products; on a path without Triton it is the layer's own operations."""
    _, model, _ = make_models("mamba")
    memory = FastMemory(model, torch.float32, techniques, "fused")
    with fake_cuda():
        move_to_fake_cuda(memory)
        layer = memory._memory.layers[0]
        x, state = (torch.empty(2, width, device="cuda") for width in (MEMORY.width, layer.state_width))
        with Operations() as done, no_host_traffic():
            layer.step(x, state)
    norm = ["pow", "mean", "add_", "rsqrt", "mul", "mul"]  # one kernel, if torch is built for GPUs
    if techniques is None:
        assert done.names == [*norm, "mm", "mamba_convolution", "mm", "mamba_scan", "addmm"]
    else:
        assert not any(name.startswith("mamba") for name in done.names)
        assert len(done.names) > 30


@torch.no_grad()
def test_a_whole_rollout_never_leaves_the_gpu(replay, monkeypatch):
    """All but the dice, which have no fake: torch's own are known to stay there. So a graph can hold it."""
    models = make_models("mamba")
    env, policy = make_fast(models, replay), FastPolicy(models[2], torch.float32, engine="torch")
    state = initial_state(env, models[2])
    env.begin_rollout()
    env.step(torch.zeros(ENVS, dtype=torch.int64))
    contexts = env.starts._pool[:3]
    with fake_cuda():
        fast = env.sampler._fast
        for holder in (env.sampler, fast.sampler, env.reward_end, env.reward_end._run, env.starts, policy):
            move_to_fake_cuda(holder)
        fast.device, fast.watch, fast.sample = env.sampler.device, Watch(env.sampler), fast.sampler.sample
        env.asks = False
        env.starts._pool = tuple(fake(x) for x in env.starts._pool)
        env.state = ImaginationState(**{name: fake(x) for name, x in vars(env.state).items()})
        env.randn = lambda *shape, device: torch.empty(shape, device=device)
        env.categorical = lambda logits: logits.argmax(1)
        monkeypatch.setattr(distributions, "sample_categorical", env.categorical)
        for dice in ("rand_like", "randn_like"):
            monkeypatch.setattr(torch, dice, torch.empty_like)
        state = RolloutState(*map(fake, state))
        contexts = [fake(x) for x in contexts]
        with no_host_traffic():
            played, _ = play(env, policy, state, 1, capacity=ENVS)
            hx, _ = env.starts.initial_states.burnt_in(*contexts)
    assert played.obs.shape == (ENVS, 1, 3, SIZE, SIZE)
    assert env.state.hx.shape == (1, ENVS, models[1].state_width)
    assert hx.device.type == "cuda"


def test_the_fast_denoiser_is_told(replay):
    """By keyword, from a module and from its bare weights; on the same noise the readable frames."""
    denoiser, _, _ = make_models("gru")
    batch = replay.cut([(0, 2), (1, 5)], CONTEXT)
    obs, act, told = batch.obs(), batch.act, torch.randn(2, MEMORY.width)

    def frame(sampler, **given):
        return sampler.sample(obs, act, partial(torch.randn, generator=torch.Generator().manual_seed(1)), **given)[0]

    expected = frame(DiffusionSampler(denoiser, CFG.sampler), memory=told)
    for given in (denoiser, denoiser.state_dict()):
        fast = FastDenoiser(given, CFG.sampler, dtype=torch.float32, engine="torch")
        torch.testing.assert_close(frame(fast, memory=told), expected, rtol=0, atol=0.01)
        assert (frame(fast, memory=-told) - expected).abs().max() > 0.05
        with pytest.raises(ValueError, match=r"memory: this denoiser is told what a memory says, \[2, 6\]; got None"):
            frame(fast)
        with pytest.raises(ValueError, match="memory: expected shape"):
            frame(fast, memory=told[:, 1:])
    level = torch.full((2,), 0.7)
    args = obs[:, 0], level, obs.flatten(1, 2), act
    torch.testing.assert_close(
        fast.denoise(*args, memory=told), denoiser.denoise(*args, memory=told), rtol=0, atol=0.01
    )
    wrapped = FastDenoiser.wrap(lambda x, *_: x, sigma_data=0.5)
    with pytest.raises(ValueError, match="memory: a wrapped network knows none"):
        frame(wrapped, memory=told)
