"""Networks of a few thousand weights for 8x8 frames, and random episodes of them."""

import numpy as np
import torch

from diamond_fast.config import (
    ActorCriticConfig,
    DenoiserConfig,
    InnerModelConfig,
    RewardEndConfig,
    RunConfig,
    SamplerConfig,
    UpdateConfig,
    WorldModelConfig,
)
from diamond_fast.replay import Replay
from diamond_fast.world_model import Agent

SMALL_WORLD = RunConfig(
    frame_size=8,
    denoiser=DenoiserConfig(InnerModelConfig(cond_channels=16, depths=(1,), channels=(8,), attn_depths=(0,))),
    denoiser_update=UpdateConfig(batch_size=3),
    reward_end=RewardEndConfig(lstm_dim=8, cond_channels=8, depths=(1,), channels=(8,), attn_depths=(0,)),
    reward_end_update=UpdateConfig(batch_size=3),
    actor_critic=ActorCriticConfig(lstm_dim=8, channels=(8,), down=(1,)),
    world_model=WorldModelConfig(SamplerConfig(num_steps=1), horizon=5),
)


def make_agent() -> Agent:
    """Its denoiser's last layer, zero at the start, is random: frames depend on the noise."""
    torch.manual_seed(0)
    agent = Agent(SMALL_WORLD, num_actions=4)
    torch.nn.init.normal_(agent.denoiser.inner_model.conv_out.weight, std=0.3)
    return agent


def make_replay(lengths: list[int]) -> Replay:
    """Episodes of these lengths, each ended, with a reward of 1 a step."""
    rng = np.random.default_rng(0)
    replay = Replay((8, 8, 3), capacity=200)
    for length in lengths:
        for t in range(length):
            frames = rng.integers(256, size=(2, 1, 8, 8, 3), dtype=np.uint8)
            end = np.array([t == length - 1])
            replay.append(frames[0], rng.integers(4, size=1), np.ones(1, np.float32), end, ~end & False, frames[1])
    replay.commit()
    return replay
