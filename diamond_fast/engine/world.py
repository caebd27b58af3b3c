"""What imagines, is trained, plays and is judged, as a path has it: every command calls these functions."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from diamond_fast.config import RunConfig, WorldModelConfig
from diamond_fast.distillation import single_step
from diamond_fast.engine.choose import Path
from diamond_fast.engine.cpu_program import instruction_set
from diamond_fast.engine.cpu_training import Model, as_programs, with_modules
from diamond_fast.engine.fast_denoiser import FastDenoiser
from diamond_fast.engine.fast_encoders import FastMemory, FastPolicy, FastRewardEnd
from diamond_fast.engine.fast_imagination import FastImaginedEnv, ImaginedRollouts
from diamond_fast.engine.fused_training import fused
from diamond_fast.engine.imagination import ImaginedEnv, InitialStates, NoRewardEnd, Sampler
from diamond_fast.engine.path import PROGRAMS
from diamond_fast.engine.recompute import Play, play, usual_capacity
from diamond_fast.engine.rollout import BatchedEnv
from diamond_fast.formulations.config import StepsConfig
from diamond_fast.networks.actor_critic.model import ActorCritic
from diamond_fast.networks.recurrent.model import MemoryModel
from diamond_fast.replay import Segments
from diamond_fast.world_model import Agent, Denoiser, DiffusionSampler


def next_frame_sampler(denoiser: Denoiser, cfg: StepsConfig, path: Path) -> Sampler:
    """What draws next frames."""
    if path.engine == "readable":
        return DiffusionSampler(denoiser, cfg)
    return FastDenoiser(denoiser, cfg, engine=path)


def refresh(sampler: Sampler) -> None:
    """Has it draw with the denoiser's weights as they are now."""
    if isinstance(sampler, FastDenoiser):
        sampler.refresh()


def with_student(agent: Agent, cfg: WorldModelConfig) -> tuple[Agent, WorldModelConfig]:
    """The same agent, weights shared, with its student for its denoiser, and the single step that it draws in.

    Raises:
        ValueError: it has none.
    """
    if agent.student is None:
        raise ValueError("student: the agent has none; --world-model.student trains one")
    alone = with_modules(agent, denoiser=agent.student, student=None)
    return alone, replace(cfg, student=False, sampler=single_step(cfg.sampler))


def imagination(
    agent: Agent,
    cfg: WorldModelConfig,
    path: Path,
    contexts: Segments,
    num_envs: int,
    num_steps: int | None = None,
    num_batches: int = 1,
    generator: torch.Generator | None = None,
    captured: Callable[[str, Callable], Callable] | None = None,
) -> ImaginedEnv | FastImaginedEnv:
    """The world model as an environment. Without a reward/end model rewards are 0 and the horizon ends episodes.

    With ``cfg.student`` it is the agent's student that draws the frames.

    Args:
        contexts: real frames that episodes start from.
        num_steps: of a rollout, if it is stepped by ``make_play``; None: if by anyone else.
        num_batches: contexts are drawn in so many batches at a time, or in more.
        generator: source of noise, rewards and ends; None: the default one.
        captured: makes the burn-in of starts one CUDA graph, as ``Captured`` does; None: it is none.
    """
    if cfg.student:
        agent, cfg = with_student(agent, cfg)
    graphs = path.graphs and num_steps is None  # a captured rollout holds the sampler's kernels itself
    sampler = next_frame_sampler(agent.denoiser, cfg.sampler, replace(path, graphs=graphs))
    reward_end = agent.memory or agent.rew_end_model or NoRewardEnd(agent.denoiser.device)
    if not isinstance(sampler, FastDenoiser):
        starts = InitialStates(contexts, reward_end, num_batches)
        return ImaginedEnv(sampler, reward_end, cfg.horizon, starts, num_envs, generator)
    fast: NoRewardEnd | FastMemory | FastRewardEnd
    how = path.dtype, path.techniques, path.engine
    if isinstance(reward_end, NoRewardEnd):
        fast = reward_end
    elif isinstance(reward_end, MemoryModel):
        fast = FastMemory(reward_end, *how)
    else:
        fast = FastRewardEnd(reward_end, *how)
    starts = InitialStates(contexts, fast, num_batches, path.to_float, captured)
    return FastImaginedEnv(sampler, fast, cfg.horizon, starts, num_envs, num_steps, generator)


def make_play(
    env: BatchedEnv,
    agent: Agent,
    cfg: RunConfig,
    path: Path,
    captured: Callable[[str, Callable], Callable] | None = None,
) -> Play | None:
    """How rollouts are played: without gradients, which are computed afterwards. None: with them, step by step.

    Args:
        captured: see ``ImaginedRollouts``.
    """
    if path.engine == "readable" or (path.engine in PROGRAMS and not isinstance(env, FastImaginedEnv)):
        return None
    assert agent.actor_critic is not None
    steps = cfg.actor_critic_loss.backup_every
    capacity = usual_capacity(env.num_envs, steps, cfg.world_model.horizon)
    if isinstance(env, FastImaginedEnv):
        policy = FastPolicy(agent.actor_critic, path.dtype, path.techniques, path.engine)
        return ImaginedRollouts(env, policy, steps, capacity, captured)
    return partial(play, env, agent.actor_critic, num_steps=steps, capacity=capacity, asks=path.device.type == "cpu")


def trained(model: Model, path: Path) -> Model:
    """The model as its loss is computed: as compiled programs, on a GPU with fused kernels, else as it is written."""
    if path.engine == "fused":
        return fused(model, path.dtype, path.techniques)
    return as_programs(model, path.dtype) if path.engine in PROGRAMS else model


# Games and figures are computed in float32 on every path, so that they say the same of an agent everywhere. Programs in
# float32 do that as well as the networks as they are written, and are there beside those in bfloat16.


def _by_exact_programs(path: Path) -> bool:
    return path.engine in PROGRAMS and instruction_set(torch.float32) is not None


def at_play(policy: ActorCritic | None, path: Path) -> ActorCritic | FastPolicy | None:
    """The policy, with its weights as they are now, as it plays games."""
    if policy is None or not _by_exact_programs(path):
        return policy
    return FastPolicy(policy, torch.float32, path.techniques, "program")


def judged(agent: Agent, path: Path) -> Agent:
    """The agent as its losses on what it was not trained on are computed."""
    if not _by_exact_programs(path):
        return agent
    models: dict[str, Any] = dict(agent.named_children())
    return with_modules(agent, **{name: as_programs(model, torch.float32) for name, model in models.items()})
