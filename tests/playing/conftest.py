"""A tiny untrained agent for Catch, and real experience of random play."""

import asyncio
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from training.test_two_stage_training import CONFIG as TWO_STAGES
from training.test_two_stage_training import recording

from diamond_fast.config import (
    ActorCriticConfig,
    DenoiserConfig,
    InnerModelConfig,
    RewardEndConfig,
    RunConfig,
    SamplerConfig,
    WorldModelConfig,
)
from diamond_fast.config_checks import checked
from diamond_fast.domains.environments import make_real_env
from diamond_fast.playing.hands import panel_of
from diamond_fast.playing.recorder import Recorder
from diamond_fast.playing.session import Session
from diamond_fast.playing.source import Source
from diamond_fast.replay import Replay, load_recording
from diamond_fast.spec import Box, MultiBinary
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


def untrained(cfg, action, frames=60):
    """A source of a tiny agent with random weights, which acts as given, and of noise to start from."""
    torch.manual_seed(0)
    agent = Agent(cfg, action).eval().requires_grad_(False)
    for weight in agent.parameters():
        if weight.abs().max() == 0:  # fresh blocks begin with zeros, and know no actions
            torch.nn.init.normal_(weight, std=0.2)
    rng, replay = np.random.default_rng(0), Replay(cfg.frame_shape, capacity=frames, action=action)
    for t in range(frames):
        seen = rng.integers(256, size=(2, 1, *cfg.frame_shape), dtype=np.uint8)
        ends = np.array([t % 20 == 19])
        replay.append(seen[0], action.sample(rng.random, (1,)), np.zeros(1, np.float32), ends & False, ends, seen[1])
    replay.commit()
    cfg = replace(cfg, engine="readable")
    return Source(cfg.title, agent, cfg, replay, "noise", (), panel_of(cfg, action, replay, ()))


@pytest.fixture
def untrained_world():
    """untrained_world(action): of frames that nobody trained for."""
    cfg = replace(TINY, env_id=None, static_dataset="noise", world_model_only=True)
    return partial(untrained, cfg)


@pytest.fixture(scope="session")
def roll():
    """Roll, a game of one number."""
    return untrained(replace(TINY, env_id="diamond_fast/Roll-v0"), Box(1))


@pytest.fixture(scope="session")
def drives():
    """A world of driving, learned from a recording alone: no game, no rewards and no policy."""
    cfg = replace(TINY, env_id=None, domain="driving", static_dataset="noise", world_model_only=True)
    return untrained(cfg, Box(2))


@pytest.fixture(scope="session")
def strike():
    """A world with the controls of Counter-Strike, and no policy."""
    cfg = replace(TINY, env_id=None, domain="csgo", static_dataset="noise", world_model_only=True, frame_size=(15, 28))
    return untrained(cfg, MultiBinary(51))


@pytest.fixture
def two_stages(tmp_path):
    """A world in two resolutions, of five buttons."""
    cfg = checked(replace(TWO_STAGES, static_dataset=recording(tmp_path / "a", 0), engine="readable"))
    torch.manual_seed(0)
    agent = Agent(cfg, MultiBinary(5)).eval().requires_grad_(False)
    for weight in agent.parameters():  # fresh blocks begin with zeros, and know no actions
        torch.nn.init.normal_(weight, std=0.3)
    replay = load_recording(tmp_path / "a")
    return Source("moving column", agent, cfg, replay, "a recording", (), panel_of(cfg, MultiBinary(5), replay, ()))


@pytest.fixture
def make_session(source, tmp_path):
    made = []

    def make(of=source, **settings):
        recorder = Recorder(tmp_path / f"recordings{len(made)}", of.frame_shape, action=of.recorded_action)
        made.append(Session(of, recorder, **settings))
        return made[-1]

    yield make
    for session in made:
        session.close()


@pytest.fixture
def browse(make_session, tmp_path):
    """browse(scenario, **settings): an async scenario with a page that shows a session, and the session."""
    from aiohttp.test_utils import TestServer
    from chromium import Chromium, text

    from diamond_fast.playing.loop import GameLoop
    from diamond_fast.playing.server import PlayServer
    from diamond_fast.playing.wire import describe

    def browse(scenario, **settings):
        async def main():
            session = make_session(**settings)
            page = PlayServer(GameLoop(session), session.recorder, describe(session, 12.5), "127.0.0.1")
            async with TestServer(page.app()) as server, Chromium(tmp_path / "profile") as browser:
                await browser.resize(1280, 900)
                await browser.open(str(server.make_url(f"/{page.token}/")))
                await browser.until("document.querySelectorAll('.action').length > 0 && document.body.dataset.world")
                await browser.until(f"{text('where')} !== ''")
                await scenario(browser, session)
                assert browser.problems == []

        asyncio.run(main())

    return browse
