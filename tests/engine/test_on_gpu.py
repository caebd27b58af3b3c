"""The engine on a GPU, in graphs, against the readable networks; each case also runs on a CPU, where it holds too.

pytest -m gpu tests/engine/test_on_gpu.py
"""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from golden_vectors import actor_critic, denoiser, reward_end_model

from diamond_fast.config import SamplerConfig
from diamond_fast.engine.denoiser_networks import fast_sampler
from diamond_fast.engine.fast_denoiser import FastDenoiser
from diamond_fast.engine.fast_encoders import FastPolicy, FastRewardEnd
from diamond_fast.engine.fast_imagination import FastImaginedEnv, ImaginedRollouts
from diamond_fast.engine.fused_torch import Techniques
from diamond_fast.engine.graphs import WARM_UP_CALLS, Captured
from diamond_fast.engine.imagination import InitialStates
from diamond_fast.engine.rollout import initial_state
from diamond_fast.replay import Replay
from diamond_fast.world_model import DiffusionSampler

LEVEL = 2 / 255
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SIZE = {"cpu": 32, "cuda": 64}  # a CPU has no work to spare for what does not depend on it
STEPS, ENVS = 4, 3
TECHNIQUES = {
    "none": Techniques(),
    **{f"without {name}": replace(Techniques(), **{name: False}) for name, on in vars(Techniques()).items() if on},
    "convolutions": Techniques(fused_convs=True),
    "hopper": Techniques(fused_convs=True, hopper_convs=True),
}


@pytest.fixture(autouse=True)
def exact_float32():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def inputs(seed, device, n=2, num_actions=6):
    g = torch.Generator().manual_seed(seed)
    obs = torch.randint(0, 256, (n, 4, 3, SIZE[device], SIZE[device]), generator=g) / 255 * 2 - 1
    return obs, torch.randint(0, num_actions, (n, 4), generator=g)


def noise_from(seed):
    g = torch.Generator().manual_seed(seed)
    return lambda *shape, device: torch.randn(*shape, generator=g).to(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "cfg", [SamplerConfig(), SamplerConfig(order=2, num_steps=2), SamplerConfig(s_churn=2.0, num_steps=4)]
)
def test_samples_replayed_with_other_inputs(device, cfg):
    """Each call against the twin in float32, so that nothing is left over from the call that was recorded."""
    twin = denoiser("small")
    fast = FastDenoiser(copy.deepcopy(twin), cfg, dtype=torch.float32).to(device)
    for seed in (0, 1):
        obs, act = inputs(seed, device)
        truth, _ = DiffusionSampler(twin, cfg).sample(obs, act, noise_from(seed))
        y, trajectory = fast.sample(obs.to(device), act.to(device), noise_from(seed))
        assert len(trajectory) == cfg.num_steps + 1
        off = (y.cpu() - truth).abs() / LEVEL
        assert (off > 0.01).float().mean() < (0.02 if cfg.order == 1 else 0.2)


@pytest.mark.parametrize(
    ("technique", "device"),
    [
        ("none", "cpu"),  # where the techniques make no difference
        *(pytest.param(t, "cuda", marks=pytest.mark.gpu) for t in TECHNIQUES),
    ],
)
def test_bfloat16_before_quantisation(device, technique):
    twin = denoiser("paper")
    obs, act = inputs(0, device)
    noisy, sigma = obs[:, -1], torch.tensor([0.5, 2.0])
    context = obs.flatten(1, 2)
    with torch.no_grad():
        truth = twin.predict(noisy, sigma, context, act)
        network = copy.deepcopy(twin.inner_model).to(device)
        fast = fast_sampler(
            twin.formulation, network, SamplerConfig(), torch.device(device), torch.bfloat16, TECHNIQUES[technique]
        )
        levels = twin.formulation.condition(sigma)[None].to(device)
        conditioning = fast.network.conditioning(levels, act.to(device))[0]
        network_input = fast.formulation.prepare(noisy.to(device), context.to(device), sigma.to(device))
        y = fast.network.evaluate(network_input, conditioning).float().cpu()
    assert ((y - truth).norm() / truth.norm()).item() < 1.5e-2


@pytest.mark.parametrize("device", DEVICES)
def test_graphs_see_the_weights_as_they_are(device):
    twin = denoiser("small").to(device)
    fast = FastDenoiser(twin, dtype=torch.float32)
    obs, act = (x.to(device) for x in inputs(0, device))
    before, _ = fast.sample(obs, act, noise_from(0))
    for p in twin.parameters():
        p.grad = p.detach() * -0.2
    torch.optim.AdamW(twin.parameters(), lr=0.0, fused=True).step()  # changes nothing
    assert torch.equal(fast.sample(obs, act, noise_from(0))[0], before)
    torch.optim.SGD(twin.parameters(), lr=1.0, fused=True).step()
    truth, _ = DiffusionSampler(twin, SamplerConfig()).sample(obs, act, noise_from(0))
    assert not torch.equal(truth, before)
    assert ((fast.sample(obs, act, noise_from(0))[0] - truth).abs() / LEVEL > 0.01).float().mean() < 0.02


def make_rollouts(device, captured):
    models = denoiser("small"), reward_end_model(), actor_critic()
    world, rewards, policy = (m.to(device) for m in models)
    size, actions = 32, policy.num_actions
    replay = Replay((size, size, 3), capacity=60)
    g = torch.Generator().manual_seed(1)
    for t in range(40):
        frame, last = torch.randint(256, (2, 1, size, size, 3), generator=g, dtype=torch.uint8).numpy()
        end, act = torch.tensor([t % 13 == 12]).numpy(), torch.randint(actions, (1,), generator=g).numpy()
        replay.append(frame, act, torch.zeros(1).numpy(), end, ~end & False, last)
    replay.commit()
    reward_end = FastRewardEnd(rewards, torch.float32)
    starts = InitialStates(replay.segments(ENVS, 4, seed=0), reward_end, num_batches=20)
    env = FastImaginedEnv(FastDenoiser(world, dtype=torch.float32), reward_end, 3, starts, ENVS, STEPS)
    return env, ImaginedRollouts(env, FastPolicy(policy, torch.float32), STEPS, 2 * ENVS, captured), policy


@pytest.mark.parametrize("device", DEVICES)
def test_rollouts_in_a_graph_equal_those_without(device):
    """Frames acted on follow from frames and actions alike: each rollout continues the one before, whoever plays it."""
    env, rollouts, policy = make_rollouts(device, partial(Captured, changes_state=True))
    state = initial_state(env, policy)
    for _ in range(WARM_UP_CALLS + 3):
        first = state.obs.clone()
        played, state = rollouts(state)
        assert torch.equal(played.obs[:, 0], first)
        ended = played.end | played.trunc
        assert ended.any()
        # memory behind each step, recomputed without the graph from the frames it played
        hx, cx = played.hx, played.cx
        for t in range(STEPS):
            with torch.no_grad():
                _, _, (hx, cx) = policy.predict_act_value(played.obs[:, t], (hx, cx))
            alive = ~ended[:, t]
            torch.testing.assert_close(played.hx_next[alive, t], hx[alive], rtol=1e-3, atol=1e-4)
            hx, cx = played.hx_next[:, t], played.cx_next[:, t]
        for x in played:
            assert x.dtype != torch.float32 or torch.isfinite(x).all()
    other, _ = rollouts(state)
    assert not torch.equal(other.obs, played.obs)


@pytest.mark.parametrize("device", DEVICES)
def test_reward_end_and_policy_in_float32(device):
    model, policy = reward_end_model(), actor_critic()
    fast, fast_policy = (
        FastRewardEnd(copy.deepcopy(model).to(device), torch.float32),
        FastPolicy(copy.deepcopy(policy).to(device), torch.float32),
    )
    obs, act = inputs(0, device, num_actions=4)
    obs = obs[..., :32, :32]
    with torch.no_grad():
        truth = model.predict(obs[:, :-1], act[:, :-1], obs[:, 1:])
        y = fast.predict(obs[:, :-1].to(device), act[:, :-1].to(device), obs[:, 1:].to(device))
        for a, b in zip(y[:2], truth[:2], strict=True):
            torch.testing.assert_close(a.cpu(), b, rtol=1e-3, atol=1e-4)
        memory = torch.zeros(2, policy.lstm_dim), torch.zeros(2, policy.lstm_dim)
        truth = policy.predict_act_value(obs[:, 0], memory)
        y = fast_policy.predict_act_value(obs[:, 0].to(device), tuple(m.to(device) for m in memory))
        for a, b in zip(y[:2], truth[:2], strict=True):
            torch.testing.assert_close(a.cpu(), b, rtol=1e-3, atol=1e-4)
