"""The updates of a run, from its settings: denoiser, reward/end model and policy, each on its own data."""

from functools import partial

import torch

from diamond_fast.config import RunConfig, UpdateConfig
from diamond_fast.engine.imagination import ImaginedEnv, InitialStates
from diamond_fast.engine.recompute import usual_capacity
from diamond_fast.engine.rollout import BatchedEnv
from diamond_fast.models.agent import Agent
from diamond_fast.replay import Replay, Segments
from diamond_fast.training.capture import CudaGraphs
from diamond_fast.training.crew import Crew
from diamond_fast.training.objectives import ActorCriticObjective, DenoiserObjective, RewardEndObjective
from diamond_fast.training.precision import autocast
from diamond_fast.training.update import Update


def make_updates(
    cfg: RunConfig,
    agent: Agent,
    replay: Replay,
    device: torch.device,
    segments_seed: int,
    real_env: BatchedEnv | None = None,
    cuda_graphs: bool = True,
    crew: Crew | None = None,
) -> dict[str, Update]:
    """The updates in the order they are done in each epoch.

    Args:
        segments_seed: of the batches drawn from the replay.
        real_env: trains the policy there, and no world model; None: in imagination.
        cuda_graphs: on a GPU, captures each update as one graph.
        crew: shares every batch with other processes; their exchange of gradients is in no graph.
    """
    captures = cuda_graphs and device.type == "cuda" and crew is None
    make_update = partial(
        Update,
        autocast=partial(autocast, device, cfg.precision),
        on_nonfinite=cfg.on_nonfinite,
        graphs=CudaGraphs(device) if captures else None,
        crew=crew,
    )

    def segments(stream: int, update: UpdateConfig, seq_length: int, beyond_end: bool = False) -> Segments:
        # In a recording the order of episodes says nothing about age: drawn by length, as published.
        weights = cfg.collection.sample_weights if cfg.static_dataset is None else None
        segments = replay.segments(update.batch_size, seq_length, weights, beyond_end, segments_seed, stream)
        if crew is not None:
            segments.part = crew.share(update.batch_size)
        return segments

    updates = {}
    rl_env = real_env
    if real_env is None:
        denoiser = DenoiserObjective(
            agent.denoiser, segments(0, cfg.denoiser_update, cfg.denoiser_seq_length), cfg.sigma_distribution
        )
        reward_end = RewardEndObjective(
            agent.rew_end_model, segments(1, cfg.reward_end_update, cfg.reward_end_seq_length, beyond_end=True)
        )
        updates["denoiser"] = make_update("denoiser", agent.denoiser, denoiser, cfg.denoiser_update)
        updates["reward_end"] = make_update("reward_end", agent.rew_end_model, reward_end, cfg.reward_end_update)
        contexts = segments(2, cfg.actor_critic_update, cfg.denoiser.inner_model.num_steps_conditioning)
        starts = InitialStates(contexts, agent.rew_end_model, cfg.world_model.num_batches_to_preload)
        num_envs = cfg.actor_critic_update.batch_size // (1 if crew is None else crew.size)
        rl_env = ImaginedEnv(agent.denoiser, agent.rew_end_model, cfg.world_model, starts, num_envs)
    burnin_capacity = None
    if device.type == "cuda":
        steps, horizon = cfg.actor_critic_loss.backup_every, cfg.world_model.horizon
        burnin_capacity = usual_capacity(rl_env.num_envs, steps, horizon)
    objective = ActorCriticObjective(agent.actor_critic, rl_env, cfg.actor_critic_loss, burnin_capacity)
    updates["actor_critic"] = make_update("actor_critic", agent.actor_critic, objective, cfg.actor_critic_update)
    return updates
