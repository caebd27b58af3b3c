from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics, TransformReward

from diamond_fast.config import (
    ActorCriticConfig,
    DenoiserConfig,
    InnerModelConfig,
    RewardEndConfig,
    RunConfig,
    SamplerConfig,
    WorldModelConfig,
)
from diamond_fast.engine.choose import Path
from diamond_fast.engine.fast_imagination import FastImaginedEnv
from diamond_fast.engine.imagination import InitialStates
from diamond_fast.envs import world_model
from diamond_fast.envs.world_model import WorldModelEnv
from diamond_fast.networks.recurrent.config import MemoryConfig
from diamond_fast.replay import Replay
from diamond_fast.world_model import Agent

CFG = RunConfig(
    frame_size=16,
    denoiser=DenoiserConfig(InnerModelConfig(cond_channels=16, depths=(1,), channels=(8,), attn_depths=(0,))),
    reward_end=RewardEndConfig(lstm_dim=8, cond_channels=8, depths=(1,), channels=(8,), attn_depths=(0,)),
    actor_critic=ActorCriticConfig(lstm_dim=8, channels=(8,), down=(1,)),
)
WORLD = WorldModelConfig(SamplerConfig(num_steps=1), horizon=4)


@pytest.fixture(scope="module")
def world():
    torch.manual_seed(0)
    agent = Agent(CFG, num_actions=5)
    torch.nn.init.normal_(agent.denoiser.inner_model.conv_out.weight, std=0.3)
    rng = np.random.default_rng(0)
    replay = Replay((16, 16, 3), capacity=50)
    for _ in range(50):
        frames = rng.integers(256, size=(2, 1, 16, 16, 3), dtype=np.uint8)
        no = np.zeros(1, bool)
        replay.append(frames[0], rng.integers(5, size=1), np.zeros(1, np.float32), no, no, frames[1])
    replay.commit()
    return agent, replay


@pytest.fixture
def env(world):
    env = WorldModelEnv(*world, num_envs=6, cfg=WORLD)
    yield env
    env.close()


def play(env, steps, seed):
    env.action_space.seed(seed)
    results = [env.reset(seed=seed)]
    results += [env.step(env.action_space.sample()) for _ in range(steps)]
    return results


def test_keeps_gymnasiums_promises(env):
    assert isinstance(env, VectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    obs, info = env.reset(seed=1)
    assert obs in env.observation_space
    assert info == {}
    ended = 0
    for _ in range(12):
        actions = env.action_space.sample()
        before = obs
        obs, rew, end, trunc, info = env.step(actions)
        assert obs in env.observation_space
        assert info["final_obs"] in env.observation_space
        assert rew.dtype == np.float32
        assert set(rew.tolist()) <= {-1.0, 0.0, 1.0}
        assert end.dtype == trunc.dtype == bool
        assert rew.shape == end.shape == trunc.shape == (6,)
        dead = end | trunc
        assert (info["_final_obs"] == dead).all()
        assert (obs[~dead] == info["final_obs"][~dead]).all()
        assert (obs[dead] != info["final_obs"][dead]).any(axis=(1, 2, 3)).all()
        assert not (obs == before).all()
        ended += dead.sum()
    assert ended >= 12 * 6 // WORLD.horizon


def test_episodes_are_truncated_at_the_horizon(world):
    env = WorldModelEnv(*world, num_envs=2, cfg=WORLD)
    env.reset(seed=0)
    length = np.zeros(2, int)
    seen = set()
    for _ in range(40):
        _, _, end, trunc, _ = env.step(np.zeros(2, int))
        length += 1
        assert (trunc == (length == WORLD.horizon)).all()
        seen |= set(length[end | trunc].tolist())
        length[end | trunc] = 0
    assert max(seen) == WORLD.horizon


def test_a_seed_fixes_everything_and_another_does_not(env):
    a, b, c = play(env, 8, seed=7), play(env, 8, seed=7), play(env, 8, seed=8)
    assert data_equivalence(a, b)
    assert not data_equivalence(a, c)


def test_a_later_reset_without_seed_goes_on_drawing(env):
    first, _ = env.reset(seed=3)
    second, _ = env.reset()
    assert (first != second).any()


def test_returned_arrays_are_not_reused(env):
    obs, _ = env.reset(seed=0)
    kept = obs.copy()
    env.step(np.zeros(6, int))
    assert (obs == kept).all()


def test_works_under_gymnasiums_wrappers(env):
    wrapped = RecordEpisodeStatistics(env)
    wrapped.reset(seed=0)
    total, done = np.zeros(6), []
    for _ in range(6):
        _, rew, end, trunc, info = wrapped.step(env.action_space.sample())
        total += rew
        dead = end | trunc
        if dead.any():
            np.testing.assert_allclose(info["episode"]["r"][dead], total[dead])
            done += total[dead].tolist()
            total[dead] = 0
    assert done
    doubled = TransformReward(env, lambda r: 2 * r)
    doubled.reset(seed=0)
    assert set(np.concatenate([doubled.step(env.action_space.sample())[1] for _ in range(9)])) == {-2.0, 0.0, 2.0}


@pytest.mark.parametrize(
    ("actions", "error", "message"),
    [
        (np.zeros(5, int), ValueError, r"expected shape \(6,\), got \(5,\)"),
        (np.zeros(6), TypeError, "expected integers, got float64"),
        (np.array([0, 0, 0, 0, 0, 5]), ValueError, "expected 0 to 4, got 0 to 5"),
        (np.array([0, 0, 0, 0, 0, -1]), ValueError, "expected 0 to 4, got -1 to 0"),
    ],
)
def test_wrong_actions_are_refused(env, actions, error, message):
    env.reset(seed=0)
    with pytest.raises(error, match=f"^actions: {message}"):
        env.step(actions)


def test_step_before_reset_and_unknown_render_mode(world, env):
    with pytest.raises(RuntimeError, match="reset first"):
        env.step(np.zeros(6, int))
    with pytest.raises(ValueError, match="render_mode"):
        WorldModelEnv(*world, render_mode="human")


def test_render(world):
    env = WorldModelEnv(*world, num_envs=2, cfg=WORLD, render_mode="rgb_array")
    obs, _ = env.reset(seed=0)
    assert all((frame == o).all() for frame, o in zip(env.render(), obs, strict=True))


def test_the_fast_path_imagines_much_the_same(world, monkeypatch):
    """Rewards, ends and starts from the same draws; and at a reset with the weights as they are."""
    fused = Path(torch.device("cpu"), torch.float32, "fused", False, "a test")
    plain = WorldModelEnv(*world, num_envs=6, cfg=WORLD, engine="readable")
    monkeypatch.setattr(world_model, "choose_path", lambda *_, **__: fused)
    fast = WorldModelEnv(*world, num_envs=6, cfg=WORLD)
    bias = world[0].rew_end_model.encoder.conv_in.bias
    monkeypatch.setattr(bias, "data", bias.data.clone())
    for seed in (3, None):
        results = []
        for env in (plain, fast):
            env.action_space.seed(3)
            results.append([env.reset(seed=seed), *(env.step(env.action_space.sample()) for _ in range(9))])
        (first, *steps), (fast_first, *fast_steps) = results
        assert (fast_first[0] == first[0]).all()
        for a, b in zip(fast_steps, steps, strict=True):
            assert np.abs(a[0].astype(int) - b[0]).max() <= 1
            assert all((x == y).all() for x, y in zip(a[1:4], b[1:4], strict=True))
        assert any(step[2].any() for step in steps)
        bias.data += 1


def with_memory(world, memory, **changes):
    torch.manual_seed(0)
    small = MemoryConfig(channels=(4,), down=(1,), action_width=3, width=6, layers=2, state=2)
    agent = Agent(replace(CFG, memory=memory, memory_model=small, **changes), num_actions=5)
    torch.nn.init.normal_(agent.denoiser.inner_model.conv_out.weight, std=0.3)
    return agent, world[1]


@pytest.mark.parametrize("engine", ["readable", "torch"])
@pytest.mark.parametrize("memory", ["none", "gru", "mamba"])
def test_what_follows_a_state_follows_it_again(world, memory, engine, tmp_path):
    """Here, in a new environment, and through a file; with episodes that end and start on the way."""
    made = [
        WorldModelEnv(*with_memory(world, memory), num_envs=6, cfg=WORLD, render_mode="rgb_array", engine=engine)
        for _ in range(2)
    ]
    env, other = made
    env.reset(seed=3)
    actions = np.random.default_rng(0).integers(5, size=(15, 6))
    for act in actions[:3]:
        env.step(act)
    state, shown = env.get_state(), env.render()
    torch.save(state, tmp_path / "state.pt")
    expected = [env.step(act) for act in actions[3:]]
    assert sum(step[4]["_final_obs"].sum() for step in expected) > 12  # more than two batches of starts
    for again, given in ((env, state), (env, state), (other, torch.load(tmp_path / "state.pt"))):
        again.set_state(given)
        np.testing.assert_array_equal(again.render(), shown)
        assert data_equivalence([again.step(act) for act in actions[3:]], expected)
    env.reset(seed=4)
    env.set_state(state)
    assert data_equivalence([env.step(act) for act in actions[3:]], expected)


@pytest.mark.parametrize("engine", ["readable", "torch"])
@pytest.mark.parametrize("memory", ["none", "attention"])
def test_behind_a_context_of_one_frame_nothing_is_remembered(world, memory, engine):
    inner = replace(CFG.denoiser.inner_model, num_steps_conditioning=1)
    agent, replay = with_memory(world, memory, denoiser=DenoiserConfig(inner))
    env = WorldModelEnv(agent, replay, num_envs=6, cfg=WORLD, engine=engine)
    env.reset(seed=0)
    assert not env.get_state()["state"]["hx"].any()
    for _ in range(5):
        obs, *_ = env.step(np.zeros(6, int))
    assert len(np.unique(obs)) > 10


def test_starts_that_are_there_are_not_drawn_again(world, monkeypatch):
    """Whoever searches sets states far more often than episodes start."""
    for engine in ("readable", "torch"):
        endless = with_memory(world, "gru", world_model_only=True)
        env = WorldModelEnv(*endless, num_envs=6, cfg=replace(WORLD, horizon=100), engine=engine)
        env.reset(seed=0)
        state = env.get_state()
        monkeypatch.setattr(InitialStates, "refill", lambda *_: pytest.fail("drawn again"))
        monkeypatch.setattr(FastImaginedEnv, "_refresh", lambda *_: pytest.fail("weights taken again"))
        env.set_state(state)
        env.step(np.zeros(6, int))
        monkeypatch.undo()


def test_a_state_of_something_else_is_refused(world, env):
    with pytest.raises(RuntimeError, match="get_state: call reset first"):
        env.get_state()
    env.reset(seed=0)
    state = env.get_state()
    for wrong in ({}, state | {"format": 2}):
        with pytest.raises(ValueError, match="state: expected what get_state returned"):
            env.set_state(wrong)
    fewer = WorldModelEnv(*world, num_envs=2, cfg=WORLD)
    with pytest.raises(ValueError, match=r"its frames is \[6, 4, 16, 16, 3\], but \[2, 4, 16, 16, 3\] in this env"):
        fewer.set_state(state)
    with pytest.raises(ValueError, match=r"its hx is \[1, 6, 8\], but \[1, 6, 12\]"):
        WorldModelEnv(*with_memory(world, "gru"), num_envs=6, cfg=WORLD).set_state(state)
