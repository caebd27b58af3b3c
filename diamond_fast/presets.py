"""Named sets of defaults. Each is a full :class:`RunConfig`; explicit flags override it."""

from dataclasses import replace
from typing import Literal

from diamond_fast.config import (
    ActorCriticConfig,
    CollectionConfig,
    DenoiserConfig,
    EvaluationConfig,
    InnerModelConfig,
    RewardEndConfig,
    RunConfig,
    UpdateConfig,
    WorldModelConfig,
)

PresetName = Literal["atari100k", "quick", "catch"]

_PAPER = RunConfig()

_SMALL_NETWORKS = replace(
    _PAPER,
    denoiser=DenoiserConfig(
        InnerModelConfig(cond_channels=64, depths=(1, 1, 1), channels=(16, 32, 32), attn_depths=(0, 0, 0))
    ),
    reward_end=RewardEndConfig(
        lstm_dim=64, cond_channels=32, depths=(1, 1, 1, 1), channels=(16, 16, 32, 32), attn_depths=(0, 0, 0, 0)
    ),
    actor_critic=ActorCriticConfig(lstm_dim=64, channels=(16, 16, 32, 32), down=(1, 1, 1, 1)),
)

_FEW_UPDATES = UpdateConfig(steps_first_epoch=60, steps_per_epoch=20, batch_size=8, lr=1e-3, lr_warmup_steps=10)

_QUICK = replace(
    _SMALL_NETWORKS,
    num_final_epochs=1,
    denoiser_update=_FEW_UPDATES,
    reward_end_update=replace(_FEW_UPDATES, steps_first_epoch=40, max_grad_norm=100.0),
    actor_critic_update=replace(
        _FEW_UPDATES, steps_first_epoch=12, steps_per_epoch=6, weight_decay=0.0, max_grad_norm=100.0
    ),
    world_model=WorldModelConfig(num_batches_to_preload=4),
    collection=CollectionConfig(
        num_steps_total=1_600, first_epoch_min=1_000, first_epoch_max=1_200, steps_per_epoch=200
    ),
    evaluation=EvaluationConfig(every=2, num_episodes=2, num_final_episodes=4),
)

_CATCH_UPDATE = UpdateConfig(steps_first_epoch=500, steps_per_epoch=100, lr=3e-4)

_CATCH = replace(
    _SMALL_NETWORKS,
    env_id="diamond_fast/Catch-v0",
    frame_size=24,
    num_final_epochs=5,
    reward_end=replace(_SMALL_NETWORKS.reward_end, depths=(1, 1, 1), channels=(16, 32, 32), attn_depths=(0, 0, 0)),
    actor_critic=replace(_SMALL_NETWORKS.actor_critic, channels=(16, 32, 32), down=(1, 1, 1)),
    denoiser_update=_CATCH_UPDATE,
    reward_end_update=replace(_CATCH_UPDATE, max_grad_norm=100.0),
    actor_critic_update=replace(_CATCH_UPDATE, weight_decay=0.0, max_grad_norm=100.0),
    world_model=WorldModelConfig(num_batches_to_preload=16),
    collection=CollectionConfig(
        num_steps_total=4_000, first_epoch_min=1_000, first_epoch_max=2_000, steps_per_epoch=100
    ),
    evaluation=EvaluationConfig(every=5, num_episodes=20),
)

PRESETS: dict[PresetName, RunConfig] = {
    "atari100k": _PAPER,  # the paper's: Atari with 100 000 steps of real experience
    "quick": _QUICK,  # the whole pipeline in minutes on a CPU; far too short to learn
    "catch": _CATCH,  # a game small enough to be learned on a CPU
}
