"""The paths a run takes: readable networks, or the fast ones if machine and precision allow them."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import nn

from diamond_fast.config import Precision, RunConfig
from diamond_fast.engine.amx_training import on_amx
from diamond_fast.engine.denoiser_networks import fast_sampler
from diamond_fast.engine.fast_encoders import FastPolicy, FastRewardEnd
from diamond_fast.engine.fast_imagination import FastImaginedEnv, ImaginedRollouts
from diamond_fast.engine.imagination import ImaginedEnv, InitialStates
from diamond_fast.engine.paths import runs_on_amx
from diamond_fast.engine.recompute import play, usual_capacity
from diamond_fast.engine.rollout import BatchedEnv
from diamond_fast.replay import Segments
from diamond_fast.training.objectives import Play
from diamond_fast.training.precision import network_dtype
from diamond_fast.world_model import Agent

Model = TypeVar("Model", bound=nn.Module)


def trained(model: Model, precision: Precision, device: torch.device) -> Model:
    """The model as its loss is computed: on AMX in bfloat16 if asked for and the processor has it."""
    return on_amx(model) if runs_on_amx(device, network_dtype(precision, device)) else model


def make_imagination(
    cfg: RunConfig,
    agent: Agent,
    contexts: Segments,
    num_envs: int,
    device: torch.device,
    captured: Callable[[str, Callable], Callable] | None = None,
) -> tuple[BatchedEnv, Play | None]:
    """The world model as an environment, and how rollouts in it are played; None: with gradients, step by step.

    The readable path is taken on a CPU in float32: the fast one gains nothing there.
    """
    dtype = network_dtype(cfg.precision, device)
    world, num_batches = cfg.world_model, cfg.world_model.num_batches_to_preload
    if device.type != "cuda" and dtype == torch.float32:
        starts = InitialStates(contexts, agent.rew_end_model, num_batches)
        return ImaginedEnv(agent.denoiser, agent.rew_end_model, world, starts, num_envs), None
    denoiser = agent.denoiser
    sampler = fast_sampler(denoiser.formulation, denoiser.inner_model, world.sampler, device, dtype)
    reward_end, policy = FastRewardEnd(agent.rew_end_model, dtype), FastPolicy(agent.actor_critic, dtype)
    steps = cfg.actor_critic_loss.backup_every
    starts = InitialStates(contexts, reward_end, num_batches)
    env = FastImaginedEnv(sampler, reward_end, world, starts, num_envs, steps)
    capacity = usual_capacity(num_envs, steps, world.horizon)
    return env, ImaginedRollouts(env, policy, steps, capacity, captured)


def play_in(env: BatchedEnv, agent: Agent, cfg: RunConfig, device: torch.device) -> Play | None:
    """How rollouts in a real environment are played: on a GPU without gradients, which are computed afterwards."""
    if device.type != "cuda":
        return None
    steps = cfg.actor_critic_loss.backup_every
    capacity = usual_capacity(env.num_envs, steps, cfg.world_model.horizon)
    return partial(play, env, agent.actor_critic, num_steps=steps, capacity=capacity)
