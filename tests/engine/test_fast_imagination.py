"""The branch-free imagination against its readable twin, draw by draw, and over a GPU that is not there."""

from functools import partial

import pytest
import torch
from engine.imagined_games import ACTIONS, CFG, CONTEXT, ENVS, HORIZON, SIZE, make_replay, make_twin
from fake_cuda import fake, fake_cuda, move_to_fake_cuda, no_host_traffic

from diamond_fast.config import (
    ActorCriticConfig,
    DenoiserConfig,
    InnerModelConfig,
    RewardEndConfig,
)
from diamond_fast.engine import recompute
from diamond_fast.engine.cpu_program import why_unavailable
from diamond_fast.engine.fast_denoiser import FastDenoiser
from diamond_fast.engine.fast_encoders import FastPolicy, FastRewardEnd
from diamond_fast.engine.fast_imagination import FastImaginedEnv, ImaginedRollouts
from diamond_fast.engine.given_weights import Watch
from diamond_fast.engine.imagination import ImaginationState, InitialStates
from diamond_fast.engine.recompute import Played, play
from diamond_fast.engine.rollout import RolloutState, initial_state, rollout
from diamond_fast.networks.actor_critic import distributions
from diamond_fast.networks.actor_critic.model import ActorCritic
from diamond_fast.networks.reward_end.model import RewardEndModel
from diamond_fast.spec import Box, Discrete, Frame, Spec
from diamond_fast.world_model import Denoiser

STEPS = 6

AMX = pytest.param(
    torch.bfloat16,
    marks=pytest.mark.skipif(why_unavailable() is not None, reason=f"no AMX engine: {why_unavailable()}"),
)


@pytest.fixture(scope="module")
def models():
    return make_models(Discrete(ACTIONS))


def make_models(action):
    torch.manual_seed(0)
    spec = Spec(Frame(SIZE, SIZE), action, CONTEXT)
    inner = InnerModelConfig(cond_channels=16, depths=(1,), channels=(32,), attn_depths=(0,))
    denoiser = Denoiser(DenoiserConfig(inner), spec)
    torch.nn.init.normal_(denoiser.inner_model.conv_out.weight, std=0.3)
    cfg = RewardEndConfig(lstm_dim=6, cond_channels=8, depths=(1, 1), channels=(32, 32), attn_depths=(0, 0))
    policy = ActorCritic(ActorCriticConfig(lstm_dim=16, channels=(32, 32), down=(1, 1)), spec)
    torch.nn.init.normal_(policy.actor_linear.weight, std=0.5)
    torch.nn.init.normal_(policy.critic_linear.weight, std=0.5)
    return denoiser, RewardEndModel(cfg, spec), policy


@pytest.fixture(scope="module")
def replay():
    return make_replay(Discrete(ACTIONS))


def make_fast(models, replay, seed=0, dtype=torch.float32, num_batches=CFG.num_batches_to_preload, engine="auto"):
    reward_end = FastRewardEnd(models[1], dtype)
    starts = InitialStates(replay.segments(ENVS, CONTEXT, seed=seed), reward_end, num_batches)
    sampler = FastDenoiser(models[0], CFG.sampler, dtype=dtype, engine=engine)
    return FastImaginedEnv(sampler, reward_end, HORIZON, starts, ENVS, STEPS, torch.Generator().manual_seed(seed))


def test_steps_equal_the_twins(models, replay):
    """Frames, rewards, ends, memories and fresh starts, with the same draws; model and horizon both end episodes."""
    twin, fast = make_twin(models, replay), make_fast(models, replay)
    assert torch.equal(twin.reset(), fast.reset())
    actions = torch.randint(ACTIONS, (12, ENVS), generator=torch.Generator().manual_seed(3))
    num_ends = num_truncations = 0
    for act in actions:
        expected, actual = twin.step(act), fast.step(act)
        for name in ("rew", "end", "trunc"):
            assert torch.equal(getattr(expected, name), getattr(actual, name))
        for name in ("obs", "final_obs", "burnin_obs"):  # one level where rounding falls the other way
            torch.testing.assert_close(getattr(actual, name), getattr(expected, name), rtol=0, atol=0.01)
        for name, x in vars(twin.state).items():
            torch.testing.assert_close(getattr(fast.state, name), x, rtol=0, atol=0.01)
        num_ends += int(actual.end.sum())
        num_truncations += int((actual.trunc & ~actual.end).sum())
    assert num_ends > 5
    assert num_truncations > 1


@pytest.mark.parametrize("dtype", [torch.float32, AMX])
def test_tensors_of_the_state_keep_their_addresses(models, replay, dtype):
    env = make_fast(models, replay, dtype=dtype)
    env.reset()
    addresses = {name: x.data_ptr() for name, x in vars(env.state).items()}
    for _ in range(3):
        env.step(torch.zeros(ENVS, dtype=torch.int64))
    env.reset()
    env.load_state_dict(env.state_dict())
    assert {name: x.data_ptr() for name, x in vars(env.state).items()} == addresses


def test_every_start_is_handed_out_once(models, replay):
    """Until too few are left for a rollout in which every episode ends at every step."""
    env = make_fast(models, replay, num_batches=8)
    pool = env.starts
    seen = []
    generator = torch.Generator().manual_seed(0)
    while True:
        pool.reserve(ENVS * STEPS)
        if env.starts.initial_states.pool and int(pool._cursor) == 0 and seen:
            break
        wanted = torch.rand(ENVS, generator=generator) < 0.5
        first = int(pool._cursor)
        _, ahead = pool.ahead(ENVS)
        state, numbers = pool.take(wanted)
        expected = pool._pool[2][first : first + int(wanted.sum())]
        assert torch.equal(state.act[wanted], expected)
        assert numbers[wanted].tolist() == [int(ahead) + i for i in range(int(wanted.sum()))]
        seen += range(first, int(pool._cursor))
    assert seen == list(range(len(seen)))
    assert len(seen) + ENVS * STEPS > len(pool._pool[0])


@pytest.mark.parametrize("interrupted_after", [1, 4])
def test_resumes_bit_by_bit(models, replay, interrupted_after):
    actions = torch.randint(ACTIONS, (8, ENVS), generator=torch.Generator().manual_seed(3))

    def go_on(env, generator_state, acts):
        env.randn.keywords["generator"].set_state(generator_state)
        return [env.step(act) for act in acts]

    env = make_fast(models, replay)
    env.reset()
    for act in actions[:interrupted_after]:
        env.step(act)
    saved, dice = env.state_dict(), env.randn.keywords["generator"].get_state()
    expected = go_on(env, dice, actions[interrupted_after:])
    resumed = make_fast(models, replay)
    resumed.load_state_dict(saved)
    actual = go_on(resumed, dice, actions[interrupted_after:])
    for a, b in zip(expected, actual, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_an_epoch_begins_with_the_weights_as_they_are(models, replay):
    """Denoiser and reward/end model; and with starts burned in anew. This fails if a copy is not refreshed."""
    denoiser, reward_end, _ = models
    env, act = make_fast(models, replay, dtype=torch.float32), torch.zeros(ENVS, dtype=torch.int64)
    env.reset()
    before = env.starts._pool[3].clone()
    state = env.state_dict()
    for changed in (denoiser.inner_model.conv_out.bias, reward_end.encoder.conv_in.bias):
        changed.data += 1
        try:
            env.begin_epoch()
            fresh = make_fast(models, replay)
            for e in (env, fresh):
                e.load_state_dict(state)
                e.randn.keywords["generator"].manual_seed(7)
            a, b = env.step(act), fresh.step(act)
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
            if changed is reward_end.encoder.conv_in.bias:
                assert not torch.allclose(env.starts._pool[3], before)
        finally:
            changed.data -= 1


def test_starts_are_reserved_for_a_rollout_only_if_its_steps_cannot_ask(models, replay, monkeypatch):
    """For each that is reserved and not taken, contexts are drawn and burned in for nothing."""
    env, policy, reserved = make_fast(models, replay), FastPolicy(models[2], torch.float32), []
    state = initial_state(env, models[2])
    monkeypatch.setattr(env, "begin_rollout", lambda: reserved.append(True))
    for captured in (None, lambda name, play: play):
        ImaginedRollouts(env, policy, STEPS, ENVS, captured)(state)
        assert bool(reserved) == (captured is not None)


def test_policy_predicts_as_its_twin(models):
    policy = models[2]
    fast = FastPolicy(policy, torch.float32)
    obs, memory = torch.randn(4, 3, SIZE, SIZE), (torch.randn(4, 16), torch.randn(4, 16))
    for a, b in zip(fast.predict_act_value(obs, memory)[:2], policy.predict_act_value(obs, memory)[:2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    policy.encoder.encoder[0].bias.data += 1
    try:
        assert not torch.allclose(fast.encoder(obs), policy.encoder(obs), atol=1e-3)
        fast.refresh()
        torch.testing.assert_close(fast.encoder(obs), policy.encoder(obs), rtol=1e-5, atol=1e-5)
    finally:
        policy.encoder.encoder[0].bias.data -= 1


@pytest.mark.parametrize("dtype", [torch.float32, AMX])
@torch.no_grad()
def test_reward_end_model_predicts_as_its_twin(models, dtype):
    model = models[1]
    fast = FastRewardEnd(model, dtype)
    obs, act = torch.randn(2, 5, 3, SIZE, SIZE), torch.randint(ACTIONS, (2, 5))
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    for state in (None, (torch.randn(1, 2, 6), torch.randn(1, 2, 6))):
        expected = model.predict(obs[:, :-1], act[:, :-1], obs[:, 1:], state)
        actual = fast.predict(obs[:, :-1], act[:, :-1], obs[:, 1:], state)
        for a, b in zip((*actual[:2], *actual[2]), (*expected[:2], *expected[2]), strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, AMX])
def test_rollouts_equal_the_twins(models, replay, dtype):
    """Fast world model, fast policy and branch-free play together, against the readable rollout."""
    policy = models[2]
    results = []
    for env, player, way in (
        (make_twin(models, replay), policy, rollout),
        (make_fast(models, replay, dtype=dtype), FastPolicy(policy, dtype), partial(play, capacity=ENVS * STEPS)),
    ):
        torch.manual_seed(5)
        results.append(way(env, player, initial_state(env, policy), STEPS))
    (expected, _), (actual, _) = results
    for name in ("act", "rew", "end", "trunc"):
        same = (getattr(expected, name) == getattr(actual, name)).float().mean()
        assert same == 1.0 if dtype == torch.float32 else same > 0.7  # bfloat16 may tip a draw, and all behind it
    if dtype == torch.float32:
        torch.testing.assert_close(actual.val_bootstrap, expected.val_bootstrap, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_burn_ins_at_the_beginning_of_a_rollout_equal_those_behind_each_step(models, replay, monkeypatch):
    """As on a GPU, where starts are reserved for a whole rollout; in pieces of fewer starts than there are."""
    monkeypatch.setattr(recompute, "STARTS_AT_ONCE", 7)
    policy, results = FastPolicy(models[2], torch.float32), []
    for asks in (True, False):
        env = make_fast(models, replay)
        state = initial_state(env, models[2])
        env.asks = asks
        torch.manual_seed(5)
        for _ in range(2):  # the second begins where the cursor is
            env.begin_rollout()
            assert (env.burnins_ahead() is None) == asks
            played, state = play(env, policy, state, STEPS, capacity=ENVS * STEPS)
            results.append(played)
    assert (results[0].end | results[0].trunc).sum() > ENVS
    for at_steps, at_once in zip(results[:2], results[2:], strict=True):
        for name in Played._fields:
            torch.testing.assert_close(getattr(at_once, name), getattr(at_steps, name), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("action", [Discrete(ACTIONS), Box(2)], ids=["discrete", "box"])
@torch.no_grad()
def test_a_whole_rollout_never_leaves_the_gpu(action, monkeypatch):
    """All but the dice, which have no fake: torch's own are known to stay there. Every step is the same, since none may
    look at a number: two show how one follows another."""
    models, replay = make_models(action), make_replay(action)
    env, policy = make_fast(models, replay, engine="torch"), FastPolicy(models[2], torch.float32)
    state = initial_state(env, models[2])
    env.begin_rollout()
    env.step(policy.distribution.action(policy.distribution.draw(torch.zeros(ENVS, policy.distribution.num_outputs))))
    with fake_cuda():
        fast = env.sampler._fast
        for holder in (env.sampler, fast.sampler, env.reward_end, env.starts, policy):
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
        with no_host_traffic():
            played, after = play(env, policy, state, 2, capacity=ENVS)
    assert played.obs.shape == (ENVS, 2, 3, SIZE, SIZE)
    assert played.obs.device.type == after.hx.device.type == played.act.device.type == "cuda"
    assert played.act.shape == (ENVS, 2, *action.shape)


def test_made_and_stepped_in_inference_mode_and_outside(models, replay):
    """As ``play`` does, which measures its frame rate first; what is kept can be written in either."""
    act = torch.zeros(ENVS, dtype=torch.int64)
    frames = []
    for modes in ([torch.no_grad] * 4, [torch.inference_mode, torch.no_grad] * 2):
        with modes[0]():
            env = make_fast(models, replay)
            policy = FastPolicy(models[2], torch.float32)
            env.reset()
            env.step(act)
        with modes[1]():
            env.step(act)
            env.begin_epoch()
            env.step(act)
        with modes[2]():
            saved = env.state_dict()
            env.load_state_dict(saved)
        with modes[3]():
            policy.refresh()
            env.reset()
            frames.append(env.step(act).obs.clone())
    assert torch.equal(*frames)
