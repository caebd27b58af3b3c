"""The updates of a run, from its settings: denoiser, reward/end model and policy, each on its own data."""

from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from diamond_fast.config import RunConfig, UpdateConfig
from diamond_fast.engine.choose import Path
from diamond_fast.engine.graphs import Captured, Pool
from diamond_fast.engine.rollout import BatchedEnv
from diamond_fast.engine.world import imagination, make_play, next_frame_sampler, trained
from diamond_fast.networks.reward_end.coding import coding_of
from diamond_fast.replay import Replay, Segments
from diamond_fast.training.augment import check_mirrored
from diamond_fast.training.objectives import (
    ActorCriticObjective,
    DenoiserObjective,
    MemoryObjective,
    RewardEndObjective,
    StudentObjective,
    UpsamplerObjective,
)
from diamond_fast.training.process_group import ProcessGroup
from diamond_fast.training.update import Objective, Update
from diamond_fast.world_model import Agent


def make_updates(
    cfg: RunConfig,
    agent: Agent,
    replay: Replay,
    path: Path,
    segments_seed: int,
    real_env: BatchedEnv | None = None,
    group: ProcessGroup | None = None,
) -> dict[str, Update]:
    """The updates in the order they are done in each epoch.

    Args:
        segments_seed: of the batches drawn from the replay.
        real_env: trains the policy there, and no world model; None: in imagination.
        group: shares every batch with other processes; ``path`` has no graphs then.
    """
    capture = partial(Captured, pool=Pool(path.device), must=True) if path.graphs else None
    captured = partial(capture, changes_state=True) if capture else None
    train = partial(trained, path=path)
    make_update = partial(Update, autocast=path.autocast, on_nonfinite=cfg.on_nonfinite, captured=captured, group=group)

    def segments(
        stream: int, update: UpdateConfig, seq_length: int, beyond_end: bool = False, **options: Any
    ) -> Segments:
        # In a recording the order of episodes says nothing about age: drawn by length, as published.
        weights = cfg.collection.sample_weights if cfg.static_dataset is None else None
        segments = replay.segments(update.batch_size, seq_length, weights, beyond_end, segments_seed, stream, **options)
        if group is not None:
            segments.part = group.shard(update.batch_size)
        return segments

    updates = {}
    env: BatchedEnv
    if real_env is None:
        check_mirrored(cfg.augmentation, agent.denoiser.spec.action)
        world: Objective
        model: nn.Module = agent.denoiser
        if agent.memory is None:
            sequences = segments(0, cfg.denoiser_update, cfg.denoiser_seq_length)
            how = cfg.sigma_distribution, path.to_float, cfg.augmentation
            world = DenoiserObjective(train(agent.denoiser), sequences, *how)
        else:
            model = nn.ModuleDict({"denoiser": agent.denoiser, "memory": agent.memory})
            sequences = segments(0, cfg.denoiser_update, cfg.reward_end_seq_length)
            how = cfg.sigma_distribution, path.to_float, cfg.augmentation
            predicted = 1 + cfg.num_autoregressive_steps
            world = MemoryObjective(train(agent.denoiser), train(agent.memory), sequences, predicted, *how)
        updates["denoiser"] = make_update("denoiser", model, world, cfg.denoiser_update)
        if agent.student is not None:
            drawn_in = cfg.world_model.sampler
            student = StudentObjective(
                train(agent.student),
                agent.denoiser,
                next_frame_sampler(agent.denoiser, drawn_in, replace(path, graphs=False)),  # the update is one itself
                drawn_in,
                segments(4, cfg.student_update, cfg.denoiser_seq_length),
                path.to_float,
                cfg.augmentation,
            )
            updates["student"] = make_update("student", agent.student, student, cfg.student_update)
        if agent.upsampler is not None:
            both_sizes = segments(3, cfg.upsampler_update, cfg.upsampler_seq_length, full=True)
            upsampler = UpsamplerObjective(train(agent.upsampler), both_sizes, cfg.sigma_distribution, path.to_float)
            updates["upsampler"] = make_update("upsampler", agent.upsampler, upsampler, cfg.upsampler_update)
        if agent.actor_critic is None:
            return updates
        if agent.rew_end_model is not None:
            reward_end = RewardEndObjective(
                train(agent.rew_end_model),
                segments(
                    1,
                    cfg.reward_end_update,
                    cfg.reward_end_seq_length,
                    beyond_end=True,
                    event_share=cfg.reward_end_event_share,
                ),
                path.to_float,
            )
            updates["reward_end"] = make_update("reward_end", agent.rew_end_model, reward_end, cfg.reward_end_update)
        context, share = cfg.denoiser.inner_model.num_steps_conditioning, cfg.world_model.first_frame_share
        contexts = segments(2, cfg.actor_critic_update, context, first_share=share)
        num_envs = cfg.actor_critic_update.batch_size // (1 if group is None else group.size)
        steps, num_batches = cfg.actor_critic_loss.backup_every, cfg.world_model.num_batches_to_preload
        env = imagination(agent, cfg.world_model, path, contexts, num_envs, steps, num_batches, captured=capture)
    else:
        env = real_env
    play = make_play(env, agent, cfg, path, captured)
    assert agent.actor_critic is not None  # only a world model alone has none
    policy = train(agent.actor_critic) if play is not None else agent.actor_critic
    objective = ActorCriticObjective(
        policy, env, cfg.actor_critic_loss, play, coding_of(cfg.reward_end.reward_head).signs
    )
    updates["actor_critic"] = make_update("actor_critic", agent.actor_critic, objective, cfg.actor_critic_update)
    return updates
