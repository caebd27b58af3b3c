"""What a path makes of an agent: which environments, samplers, models and ways to play."""

from dataclasses import replace

import pytest
import torch
from small_world import SMALL_WORLD, make_agent, make_replay

from diamond_fast.engine.choose import Path
from diamond_fast.engine.fast_denoiser import FastDenoiser
from diamond_fast.engine.fast_imagination import FastImaginedEnv, ImaginedRollouts
from diamond_fast.engine.imagination import ImaginedEnv
from diamond_fast.engine.path import WITHOUT_TRITON
from diamond_fast.engine.rollout import initial_state
from diamond_fast.engine.world import at_play, imagination, judged, make_play, next_frame_sampler, trained
from diamond_fast.evaluation.held_out import denoiser_loss, reward_end_quality
from diamond_fast.frames import to_float
from diamond_fast.kernels.frames_to_float import frames_to_float
from diamond_fast.training.make_updates import make_updates
from diamond_fast.world_model import DiffusionSampler

READABLE = Path(torch.device("cpu"), torch.float32, "readable", False, "a test")
FUSED = replace(READABLE, engine="fused", graphs=True)
PROGRAM = replace(READABLE, engine="program")
AMX = replace(READABLE, engine="amx", dtype=torch.bfloat16)
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


def test_games_and_figures_are_of_the_networks_as_written_unless_programs_are_as_exact(agent):
    for path in (READABLE, FUSED):
        assert at_play(agent.actor_critic, path) is agent.actor_critic
        assert judged(agent, path) is agent
    assert at_play(None, PROGRAM) is None


def test_there_may_be_no_programs_in_float32_beside_those_in_bfloat16(agent, monkeypatch):
    monkeypatch.setattr("diamond_fast.engine.world.instruction_set", lambda dtype: None)
    assert at_play(agent.actor_critic, AMX) is agent.actor_critic
    assert judged(agent, AMX) is agent


@pytest.mark.parametrize("path", [PROGRAM, AMX], ids=["program", "amx"])
def test_games_by_programs_are_those_of_the_networks_as_written(agent, path):
    """In float32 also where training is in bfloat16."""
    policy = at_play(agent.actor_critic, path)
    assert policy is not agent.actor_critic
    obs, memory = torch.rand(3, 3, 8, 8) * 2 - 1, tuple(torch.randn(2, 3, CFG.actor_critic.lstm_dim))
    expected, actual = (p.predict_act_value(obs, memory) for p in (agent.actor_critic, policy))
    for a, b in zip((*expected[:2], *expected[2]), (*actual[:2], *actual[2]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("path", [PROGRAM, AMX], ids=["program", "amx"])
def test_losses_by_programs_are_those_of_the_networks_as_written(agent, path):
    """With the weights as they are at the time."""
    replay, by_programs = make_replay([30, 20]), judged(agent, path)
    assert by_programs.denoiser is not agent.denoiser
    bias = agent.denoiser.inner_model.conv_in.bias
    for change in (0.0, 1.0):
        with torch.no_grad():
            bias += change
        expected, actual = (denoiser_loss(a, replay, CFG, seed=1) for a in (agent, by_programs))
        assert actual == pytest.approx(expected, rel=1e-5)
    with torch.no_grad():
        bias -= 1.0
    expected, actual = (reward_end_quality(a.rew_end_model, replay, CFG) for a in (agent, by_programs))
    assert actual.loss == pytest.approx(expected.loss, rel=1e-5)
    assert actual.confusion_reward.tolist() == expected.confusion_reward.tolist()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (FUSED, frames_to_float),
        (replace(FUSED, techniques=replace(FUSED.techniques, fused_frames=False)), to_float),
        (replace(FUSED, engine="torch", techniques=WITHOUT_TRITON), to_float),
        (READABLE, to_float),
    ],
    ids=["fused", "without", "torch", "readable"],
)
def test_how_bytes_become_floats(agent, path, expected):
    """By the kernel on the fused path alone: where Triton does not work, nothing calls it."""
    assert path.to_float is expected
    env = make_env(agent, path)
    if isinstance(env, FastImaginedEnv):
        assert env.to_float is env.starts.initial_states.to_float is expected
    updates = make_updates(CFG, agent, make_replay([30]), replace(path, graphs=False), segments_seed=0)
    assert updates["denoiser"].objective.to_float is updates["reward_end"].objective.to_float is expected
