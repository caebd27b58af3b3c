"""The imagined environment against a slow, obvious transcription of its rules, one episode at a time."""

import copy
from collections import deque

import pytest
import torch
from outside_reads import Audited
from worlds import world

from diamond_fast.config import (
    DenoiserConfig,
    InnerModelConfig,
    RewardEndConfig,
    SamplerConfig,
    WorldModelConfig,
)
from diamond_fast.engine import imagination
from diamond_fast.engine.imagination import ImaginationState, ImaginedEnv, InitialStates
from diamond_fast.frames import to_float, to_uint8
from diamond_fast.networks.reward_end.model import RewardEndModel
from diamond_fast.replay import Replay
from diamond_fast.replay.batch import Batch
from diamond_fast.world_model import Denoiser, DiffusionSampler

SIZE, CONTEXT, ENVS, ACTIONS, HORIZON = 8, 4, 5, 3, 3
CFG = WorldModelConfig(SamplerConfig(num_steps=2), horizon=HORIZON, num_batches_to_preload=2)


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    inner = InnerModelConfig(cond_channels=16, depths=(1,), channels=(8,), attn_depths=(0,))
    denoiser = Denoiser(DenoiserConfig(inner), world(ACTIONS))
    torch.nn.init.normal_(denoiser.inner_model.conv_out.weight, std=0.3)
    cfg = RewardEndConfig(lstm_dim=6, cond_channels=8, depths=(1,), channels=(8,), attn_depths=(0,))
    return denoiser, RewardEndModel(cfg, world(ACTIONS, SIZE))


@pytest.fixture(scope="module")
def replay():
    g = torch.Generator().manual_seed(1)
    replay = Replay((SIZE, SIZE, 3), capacity=60)
    for t in range(40):
        frame, last = torch.randint(256, (2, 1, SIZE, SIZE, 3), generator=g, dtype=torch.uint8).numpy()
        end = torch.tensor([t % 13 == 12]).numpy()
        act = torch.randint(ACTIONS, (1,), generator=g).numpy()
        replay.append(frame, act, torch.zeros(1).numpy(), end, ~end & False, last)
    replay.commit()
    return replay


def make_env(models, replay, seed):
    starts = InitialStates(replay.segments(3, CONTEXT, seed=seed), models[1], CFG.num_batches_to_preload)
    return ImaginedEnv(
        DiffusionSampler(models[0], CFG.sampler), models[1], HORIZON, starts, ENVS, torch.Generator().manual_seed(seed)
    )


class Transcription:
    """N episodes kept as plain lists; the draws come in the same order from a generator of the same seed."""

    def __init__(self, models, replay, seed):
        self.denoiser, self.reward_end = models
        self.segments = replay.segments(3, CONTEXT, seed=seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.pool = deque()
        self.episodes = self.start(ENVS)

    @torch.no_grad()
    def start(self, n):
        if len(self.pool) < n:
            self.pool.clear()
            for _ in range(CFG.num_batches_to_preload):
                self.pool.extend(self._batch())
        while len(self.pool) < n:
            self.pool.extend(self._batch())
        return [self.pool.popleft() for _ in range(n)]

    def _batch(self):
        batch = self.segments.next()
        for obs, act in zip(batch.obs(), batch.act, strict=True):
            hx_cx = None
            for t in range(CONTEXT - 1):
                *_, hx_cx = self.reward_end.predict(
                    obs[None, t, None], act[None, t, None], obs[None, t + 1, None], hx_cx
                )
            yield {"obs": list(obs), "act": act.tolist(), "hx_cx": hx_cx, "len": 0}

    @torch.no_grad()
    def step(self, actions):
        for e, a in zip(self.episodes, actions, strict=True):
            e["act"][-1] = a
        context = torch.stack([torch.stack(e["obs"]) for e in self.episodes])
        acts = torch.tensor([e["act"] for e in self.episodes])
        sampler = DiffusionSampler(self.denoiser, CFG.sampler)
        next_obs, _ = sampler.sample(context, acts, lambda *s, device: torch.randn(*s, generator=self.generator))
        next_obs = to_float(to_uint8(next_obs))  # kept as bytes
        logits = []
        for e, frame in zip(self.episodes, next_obs, strict=True):
            act = torch.tensor([[e["act"][-1]]])
            rew, end, e["hx_cx"] = self.reward_end.predict(e["obs"][-1][None, None], act, frame[None, None], e["hx_cx"])
            logits.append((rew[0, 0], end[0, 0]))
        draw = lambda rows: torch.multinomial(torch.stack(rows).softmax(-1), 1, generator=self.generator)[:, 0]  # noqa: E731
        rew = draw([r for r, _ in logits]) - 1
        end = draw([e for _, e in logits]).bool()
        dead = []
        for i, (e, frame) in enumerate(zip(self.episodes, next_obs, strict=True)):
            e["obs"] = [*e["obs"][1:], frame]
            e["act"] = [*e["act"][1:], None]
            e["len"] += 1
            if end[i] or e["len"] >= HORIZON:
                dead.append(i)
        trunc = torch.tensor([e["len"] >= HORIZON for e in self.episodes])
        for i, fresh in zip(dead, self.start(len(dead)) if dead else [], strict=True):
            self.episodes[i] = fresh
        return next_obs, rew, end, trunc


def test_imagined_steps_equal_the_transcription(models, replay):
    env, slow = make_env(models, replay, 3), Transcription(models, replay, 3)
    obs = env.reset()
    torch.testing.assert_close(obs, torch.stack([e["obs"][-1] for e in slow.episodes]))
    g = torch.Generator().manual_seed(0)
    ended = truncated = 0
    for _ in range(30):
        act = torch.randint(ACTIONS, (ENVS,), generator=g)
        step = env.step(act)
        next_obs, rew, end, trunc = slow.step(act.tolist())
        assert (step.final_obs - next_obs).abs().max() * 127.5 < 1.01  # truncation may fall to the next level
        assert torch.equal(step.rew.long(), rew)
        assert torch.equal(step.end, end)
        assert torch.equal(step.trunc, trunc)
        assert (step.obs - torch.stack([e["obs"][-1] for e in slow.episodes])).abs().max() < 0.01
        burnin = torch.stack([torch.stack(e["obs"][:-1]) for e in slow.episodes])
        assert (step.burnin_obs - burnin).abs().max() < 0.01
        hx = torch.stack([e["hx_cx"][0][0, 0] for e in slow.episodes])
        torch.testing.assert_close(env.state.hx[0], hx, rtol=1e-3, atol=1e-3)
        ended, truncated = ended + int(end.sum()), truncated + int(trunc.sum())
    assert ended > 5
    assert truncated > 5


@pytest.mark.parametrize("between_epochs", [True, False])
def test_continues_from_its_state_dict(models, replay, between_epochs):
    """Also with starts left in the pool, which come again without being stored."""
    env = make_env(models, replay, 5)
    env.reset()
    act = torch.zeros(ENVS, dtype=torch.int64)
    for _ in range(3):
        env.step(act)
    if between_epochs:
        env.begin_epoch()
    state, random_state = env.state_dict(), env.generator.get_state()
    expected = [env.step(act) for _ in range(8)]

    again = make_env(models, replay, 99)
    again.load_state_dict(state)
    again.generator.set_state(random_state)
    for step in expected:
        for a, b in zip(step, again.step(act), strict=True):
            assert torch.equal(a, b)


def test_starts_are_padded_contexts_with_a_burned_in_memory(models, replay):
    starts = InitialStates(replay.segments(4, CONTEXT, seed=0), models[1], num_batches=1)
    taken = starts.take(4)
    batch = replay.segments(4, CONTEXT, seed=0).next()
    assert torch.equal(taken.obs, batch.obs())
    assert not taken.ep_len.any()
    with torch.no_grad():
        *_, (hx, _) = models[1].predict(batch.obs()[:, :-1], batch.act[:, :-1], batch.obs()[:, 1:])
    torch.testing.assert_close(taken.hx, hx)


def test_a_context_is_kept_as_bytes_and_loses_nothing(models, replay):
    """Padding included, which no byte stores; and a state as earlier versions saved it, with floats, is the same."""
    env = make_env(models, replay, 5)
    env.reset()
    padded = not env.state.pixel_mask.all()
    for _ in range(6):
        step = env.step(torch.zeros(ENVS, dtype=torch.int64))
        state = env.state
        assert state.frames.dtype == torch.uint8
        assert torch.equal(torch.cat((step.burnin_obs, step.obs[:, None]), dim=1), state.obs)
        alive = ~(step.end | step.trunc)
        assert torch.equal(state.obs[alive, -1], step.final_obs[alive])
        padded |= not state.pixel_mask.all()
        rounding = torch.empty_like(state.obs).uniform_(-1e-6, 1e-6) * state.pixel_mask[..., None, None, None]
        old = {"obs": state.obs + rounding, **{name: getattr(state, name) for name in ("act", "hx", "cx", "ep_len")}}
        loaded = ImaginationState.load(old, torch.device("cpu"))
        assert torch.equal(loaded.obs, state.obs)
        assert torch.equal(loaded.pixel_mask, state.pixel_mask)
        assert loaded.ep_len is state.ep_len
    assert padded


def test_a_frame_that_is_not_a_number_shows_in_the_reward(models, replay):
    """Bytes could not tell it from black."""
    env = make_env(models, replay, 5)
    env.reset()
    frame = to_float(env.state.frames[:, -1])
    frame[2, 1, 3, 3] = torch.nan
    env.sampler.sample = lambda *args: (frame, [])
    step = env.step(torch.zeros(ENVS, dtype=torch.int64))
    assert step.rew.isnan().tolist() == [False, False, True, False, False]
    assert torch.equal(step.final_obs[:2], frame[:2])


def test_starts_are_burned_in_together_on_a_gpu(models, replay, monkeypatch):
    """As many at a time as ``STARTS_AT_ONCE``, whatever the batches; the last ones are fewer."""
    sizes, one_by_one = [], InitialStates(replay.segments(2, CONTEXT, seed=0), models[1], num_batches=5)
    one_by_one.refill(0)

    class OnGpu:
        device = torch.device("cuda")

        def predict(self, obs, act, next_obs):
            sizes.append(len(obs))
            return models[1].predict(obs, act, next_obs)

    monkeypatch.setattr(imagination, "STARTS_AT_ONCE", 4)
    monkeypatch.setattr(Batch, "to", lambda self, device: self)
    together = InitialStates(replay.segments(2, CONTEXT, seed=0), OnGpu(), num_batches=5)
    together.refill(0)
    assert sizes == [4, 4, 2]
    for a, b in zip(together.pool, one_by_one.pool, strict=True):
        torch.testing.assert_close(a, b)


@torch.no_grad()
def test_starts_from_a_graph_equal_those_without(models, replay):
    """One graph for all parts and all refills. Every replay reads the inputs and the weights that are there by then."""

    def starts(captured=None):
        made = InitialStates(replay.segments(2, CONTEXT, seed=0), model, num_batches=6, captured=captured)
        pools = []
        for bias in (0.0, 1.0):
            model.encoder.conv_in.bias.fill_(bias)
            made.refill(0)
            pools.append(made.pool)
        return pools

    model, made = copy.deepcopy(models[1]), []
    replayed = starts(lambda *what: made.append(Audited(*what)) or made[0])
    for pool, expected in zip(replayed, starts(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(pool, expected, strict=True))
    assert not torch.equal(replayed[0][3][0], replayed[0][3][2])
    assert not torch.equal(replayed[0][3], replayed[1][3])
    assert made[0].captures == 1
    assert made[0].gone() == []


def test_more_starts_than_the_pool_holds(models, replay):
    starts = InitialStates(replay.segments(2, CONTEXT, seed=0), models[1], num_batches=1)
    assert len(starts.take(7).act) == 7
