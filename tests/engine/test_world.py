"""What a path makes of an agent: which environments, samplers, models and ways to play."""

from dataclasses import replace

import pytest
import torch
from small_world import SMALL_WORLD, make_agent, make_replay

from diamond_fast.engine.choose import Path
from diamond_fast.engine.fast_denoiser import FastDenoiser
from diamond_fast.engine.fast_imagination import FastImaginedEnv, ImaginedRollouts
from diamond_fast.engine.imagination import ImaginedEnv
from diamond_fast.engine.rollout import initial_state
from diamond_fast.engine.world import imagination, make_play, next_frame_sampler, trained
from diamond_fast.world_model import DiffusionSampler

READABLE = Path(torch.device("cpu"), torch.float32, "readable", False, "a test")
FUSED = replace(READABLE, engine="fused", graphs=True)
CFG = SMALL_WORLD


@pytest.fixture(scope="module")
def agent():
    return make_agent()


def make_env(agent, path, num_steps=None):
    contexts = make_replay([30]).segments(3, CFG.denoiser.inner_model.num_steps_conditioning)
    return imagination(agent, CFG.world_model, path, contexts, 3, num_steps)


def test_the_readable_path_is_the_readable_code(agent):
    env = make_env(agent, READABLE)
    assert isinstance(env, ImaginedEnv)
    assert isinstance(env.sampler, DiffusionSampler)
    assert env.reward_end is agent.rew_end_model
    assert make_play(env, agent, CFG, READABLE) is None
    assert trained(agent.denoiser, READABLE) is agent.denoiser


def test_the_fast_path(agent):
    """A sampler has graphs of its own, but none in a rollout that is one graph as a whole."""
    assert next_frame_sampler(agent.denoiser, CFG.world_model.sampler, FUSED).engine.graphs
    env = make_env(agent, FUSED)
    assert isinstance(env, FastImaginedEnv)
    assert isinstance(env.sampler, FastDenoiser)
    assert env.sampler.engine.graphs
    captured = []
    steps = CFG.actor_critic_loss.backup_every
    env = make_env(agent, FUSED, steps)
    assert not env.sampler.engine.graphs
    play = make_play(env, agent, CFG, FUSED, lambda name, function: captured.append(name) or function)
    assert isinstance(play, ImaginedRollouts)
    assert captured == ["imagined rollout"]
    played, _ = play(initial_state(env, agent.actor_critic))
    assert played.act.shape == (3, steps)


def test_what_is_trained_through_fused_kernels_shares_its_weights(agent):
    for model in (agent.denoiser, agent.rew_end_model, agent.actor_critic):
        before = [id(module) for module in model.modules()]
        twin = trained(model, FUSED)
        assert isinstance(twin, type(model))
        assert twin is not model
        assert [id(module) for module in model.modules()] == before
        assert {id(p) for p in twin.parameters()} <= {id(p) for p in model.parameters()}


def test_a_real_environment_is_played_without_gradients_on_a_gpu_alone(agent):
    env = make_env(agent, READABLE)  # stands for any other than the fast one
    assert make_play(env, agent, CFG, FUSED) is not None
    for engine in ("readable", "amx"):
        assert make_play(env, agent, CFG, replace(FUSED, engine=engine)) is None
