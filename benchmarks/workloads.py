"""What is measured: networks of the paper's and other sizes, batches, and the published way to compare with."""

import copy
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from diamond_fast.config import (
    ActorCriticConfig,
    DenoiserConfig,
    InnerModelConfig,
    RewardEndConfig,
    RunConfig,
    UpdateConfig,
    WorldModelConfig,
)
from diamond_fast.engine.choose import choose_path
from diamond_fast.engine.graphs import Captured
from diamond_fast.engine.imagination import ImaginedEnv, InitialStates
from diamond_fast.engine.recompute import Play
from diamond_fast.engine.rollout import BatchedEnv
from diamond_fast.engine.world import imagination, make_play
from diamond_fast.replay import Replay
from diamond_fast.spec import Discrete, Frame, Spec
from diamond_fast.speed import count_flops, denoiser_forward
from diamond_fast.timing import timed, wait_for
from diamond_fast.training.objectives import ActorCriticObjective, DenoiserObjective, RewardEndObjective
from diamond_fast.training.update import Update
from diamond_fast.world_model import Agent, Denoiser, DiffusionSampler

NUM_ACTIONS = 18
SPEC = Spec(Frame(64, 64), Discrete(NUM_ACTIONS))

PAPER = replace(
    RunConfig(),
    precision="bf16",
    world_model=WorldModelConfig(num_batches_to_preload=1),  # as many starts as a rollout uses up, not 256 times that
)
TINY = replace(
    PAPER,
    frame_size=16,
    world_model=replace(PAPER.world_model, horizon=3),
    denoiser=DenoiserConfig(InnerModelConfig(cond_channels=16, depths=(1, 1), channels=(32, 32), attn_depths=(0, 0))),
    reward_end=RewardEndConfig(lstm_dim=8, cond_channels=8, depths=(1, 1), channels=(32, 32), attn_depths=(0, 0)),
    actor_critic=ActorCriticConfig(lstm_dim=8, channels=(32, 32), down=(1, 1)),
    actor_critic_loss=replace(PAPER.actor_critic_loss, backup_every=3),
)
WIDE = InnerModelConfig(
    cond_channels=2048, depths=(2, 2, 2, 2), channels=(128, 256, 512, 1024), attn_depths=(0, 0, 1, 1)
)
"""Widths as for a first-person shooter, where 330 million parameters draw frames of 30x56."""


class Frames(NamedTuple):
    """Contexts to go on from."""

    obs: Tensor  # [N,4,3,H,W]
    act: Tensor  # [N,4]


def contexts(n: int, height: int, width: int, device: torch.device) -> Frames:
    obs = torch.rand(n, 4, 3, height, width, device=device) * 2 - 1
    return Frames(obs, torch.randint(NUM_ACTIONS, (n, 4), device=device))


def make_denoiser(cfg: DenoiserConfig, device: torch.device, spec: Spec = SPEC) -> Denoiser:
    """With random weights everywhere: zeros, as some layers start with, would be no fair load."""
    with torch.device("meta"):
        denoiser = Denoiser(cfg, spec)
    denoiser.to_empty(device=device)
    with torch.no_grad():
        for x in (*denoiser.parameters(), *denoiser.buffers()):
            x.normal_(std=0.02)
    return denoiser


@torch.no_grad()
def seconds_of_an_evaluation(device: torch.device) -> float:
    """Of the paper's network for one sample, as published: what other work is estimated from."""
    batch = 2
    denoiser = make_denoiser(PAPER.denoiser, device)

    def call() -> None:
        denoiser_forward(denoiser, batch)
        wait_for(device)

    return min(t.wall for t in timed(call, seconds=0.5, at_least=3)) / batch


def denoiser_flops(cfg: DenoiserConfig, height: int, width: int) -> int:
    """Floating-point operations of one evaluation of the network for one sample."""
    with torch.device("meta"):
        context = cfg.inner_model.num_steps_conditioning
        denoiser = Denoiser(cfg, Spec(Frame(height, width), Discrete(NUM_ACTIONS), context))
    return count_flops(lambda: denoiser_forward(denoiser, 1))


class InBfloat16(nn.Module):
    """A copy of a denoiser's network in bfloat16 and channels-last, which is what others' compilers do best with."""

    def __init__(self, network: nn.Module):
        super().__init__()
        device = next(network.parameters()).device
        self.takes = nn.Parameter(torch.empty(0, device=device))  # tells the denoiser its tensors: float32, there
        self.network = copy.deepcopy(network).to(torch.bfloat16, memory_format=torch.channels_last)

    def forward(self, x: Tensor, c_noise: Tensor, obs: Tensor, act: Tensor) -> Tensor:
        x, obs = (y.to(torch.bfloat16, memory_format=torch.channels_last) for y in (x, obs))
        return self.network(x, c_noise.bfloat16(), obs, act).float()


def in_bfloat16(denoiser: Denoiser) -> Denoiser:
    """The readable denoiser around such a copy."""
    other = copy.deepcopy(denoiser)
    other.inner_model = InBfloat16(denoiser.inner_model)
    return other


def make_agent(cfg: RunConfig, device: torch.device, memory_format=torch.contiguous_format) -> Agent:
    torch.manual_seed(0)
    return Agent(cfg, NUM_ACTIONS).to(device, memory_format=memory_format)


def noise_replay(cfg: RunConfig, num_steps: int, episode_steps: int = 200, room: int = 0) -> Replay:
    """What is in the frames does not matter to a measurement. Room for so many more steps."""
    replay, rng = Replay(cfg.frame_shape, capacity=num_steps + room), np.random.default_rng(0)
    frames = rng.integers(0, 256, (64, 1, *cfg.frame_shape), np.uint8)
    acts, rews = rng.integers(0, NUM_ACTIONS, (num_steps, 1)), rng.integers(-1, 2, (num_steps, 1)).astype(np.float32)
    flags = np.array([[False], [True]])
    for t in range(num_steps):
        end = flags[int((t + 1) % episode_steps == 0)]
        replay.append(frames[t % 64], acts[t], rews[t], end, flags[0], frames[(t + 1) % 64])
    return replay


def with_batches(cfg: RunConfig, batch_size: int, rollout_steps: int | None = None) -> RunConfig:
    """The same settings at another batch size, and with rollouts of another length."""
    names = ("denoiser_update", "reward_end_update", "actor_critic_update")
    cfg = replace(cfg, **{name: replace(getattr(cfg, name), batch_size=batch_size) for name in names})
    loss = replace(cfg.actor_critic_loss, backup_every=rollout_steps or cfg.actor_critic_loss.backup_every)
    return replace(cfg, actor_critic_loss=loss)


def published_env(cfg: RunConfig, agent: Agent, replay: Replay, num_envs: int, compiled: bool = False) -> ImaginedEnv:
    """Imagination as published; compiled, as the published trainer does: what predicts a frame, and what a reward."""
    contexts = replay.segments(num_envs, cfg.denoiser.inner_model.num_steps_conditioning)
    starts = InitialStates(contexts, agent.rew_end_model, cfg.world_model.num_batches_to_preload)
    sampler = DiffusionSampler(agent.denoiser, cfg.world_model.sampler)
    env = ImaginedEnv(sampler, agent.rew_end_model, cfg.world_model.horizon, starts, num_envs)
    if compiled:
        env.sampler.sample = torch.compile(env.sampler.sample, mode="reduce-overhead")
        env.reward_end = copy.copy(env.reward_end)  # the starts are burned in with the model as it is
        env.reward_end.predict = torch.compile(env.reward_end.predict, mode="reduce-overhead")
    return env


def fast_imagination(
    cfg: RunConfig, agent: Agent, replay: Replay, num_envs: int, device: torch.device
) -> tuple[BatchedEnv, Play | None]:
    """Imagination as runs have it, and what plays rollouts there."""
    contexts = replay.segments(num_envs, cfg.denoiser.inner_model.num_steps_conditioning)
    path, steps = choose_path(device, cfg.precision), cfg.actor_critic_loss.backup_every
    num_batches = cfg.world_model.num_batches_to_preload
    env = imagination(agent, cfg.world_model, path, contexts, num_envs, steps, num_batches)
    return env, make_play(env, agent, cfg, path, partial(Captured, changes_state=True))


def published_updates(
    cfg: RunConfig, agent: Agent, replay: Replay, device: torch.device, compiled: bool = False
) -> dict[str, Update]:
    """The three updates as published: float32 (TF32 on a GPU), operation by operation, gradients kept while playing."""

    def segments(update: UpdateConfig, length: int, beyond_end: bool = False):
        return replay.segments(update.batch_size, length, cfg.collection.sample_weights, beyond_end)

    env = published_env(cfg, agent, replay, cfg.actor_critic_update.batch_size, compiled)
    objectives = {
        "denoiser": DenoiserObjective(
            agent.denoiser, segments(cfg.denoiser_update, cfg.denoiser_seq_length), cfg.sigma_distribution
        ),
        "reward_end": RewardEndObjective(
            agent.rew_end_model, segments(cfg.reward_end_update, cfg.reward_end_seq_length, beyond_end=True)
        ),
        "actor_critic": ActorCriticObjective(agent.actor_critic, env, cfg.actor_critic_loss),
    }
    models = {"denoiser": agent.denoiser, "reward_end": agent.rew_end_model, "actor_critic": agent.actor_critic}
    autocast = choose_path(device, "tf32").autocast
    return {
        name: Update(name, models[name], objective, getattr(cfg, f"{name}_update"), autocast)
        for name, objective in objectives.items()
    }
