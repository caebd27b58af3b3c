"""A tiny untrained agent for Catch, and real experience of random play."""

from dataclasses import replace

import pytest
import torch

from diamond_fast.config import (
    ActorCriticConfig,
    DenoiserConfig,
    InnerModelConfig,
    RewardEndConfig,
    RunConfig,
    SamplerConfig,
    WorldModelConfig,
)
from diamond_fast.domains.environments import make_real_env
from diamond_fast.playing.recorder import Recorder
from diamond_fast.playing.session import Session
from diamond_fast.playing.source import Source
from diamond_fast.replay import Replay
from diamond_fast.training.collect import Collector
from diamond_fast.world_model import Agent

TINY = RunConfig(
    env_id="diamond_fast/Catch-v0",
    frame_size=24,
    denoiser=DenoiserConfig(InnerModelConfig(cond_channels=16, depths=(1, 1), channels=(8, 8), attn_depths=(0, 0))),
    reward_end=RewardEndConfig(lstm_dim=8, cond_channels=8, depths=(1, 1), channels=(8, 8), attn_depths=(0, 0)),
    actor_critic=ActorCriticConfig(lstm_dim=8, channels=(8, 8), down=(1, 1)),
    world_model=WorldModelConfig(SamplerConfig(num_steps=2), horizon=5),
)


@pytest.fixture(scope="session")
def source():
    torch.manual_seed(0)
    agent = Agent(TINY, num_actions=3).eval().requires_grad_(False)
    for head in (agent.actor_critic.actor_linear, agent.actor_critic.critic_linear, agent.rew_end_model.head[-1]):
        torch.nn.init.normal_(head.weight)  # they start near zero, where every policy is uniform
    torch.nn.init.normal_(agent.denoiser.inner_model.conv_out.weight, std=0.2)
    replay = Replay((24, 24, 3), capacity=400)
    env = make_real_env(None, TINY.env_id, 1, 24, done_on_life_loss=True)
    Collector(env, seed=1).collect(agent.actor_critic, replay, 400, epsilon=1.0)
    env.close()
    return Source("Catch-v0", agent, replace(TINY, engine="readable"), replay, "random play", ("LEFT", "NOOP", "RIGHT"))


@pytest.fixture
def make_session(source, tmp_path):
    made = []

    def make(**settings):
        recorder = Recorder(tmp_path / f"recordings{len(made)}", (24, 24, 3))
        made.append(Session(source, recorder, **settings))
        return made[-1]

    yield make
    for session in made:
        session.close()
