"""Named sets of defaults. Each is a full :class:`RunConfig`; explicit flags override it."""

from dataclasses import replace
from typing import Literal

from diamond_fast.config import (
    ActorCriticConfig,
    ActorCriticLossConfig,
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

_CATCH = replace(
    _PAPER,
    env_id="diamond_fast/Catch-v0",
    frame_size=24,
    num_final_epochs=1,
    denoiser=DenoiserConfig(
        InnerModelConfig(cond_channels=64, depths=(1, 1, 1), channels=(16, 16, 16), attn_depths=(0, 0, 0))
    ),
    denoiser_update=UpdateConfig(steps_first_epoch=600, steps_per_epoch=40, lr=1e-3),
    reward_end=RewardEndConfig(
        lstm_dim=64, cond_channels=32, depths=(1, 1, 1), channels=(16, 16, 32), attn_depths=(0, 0, 0)
    ),
    reward_end_update=UpdateConfig(
        steps_first_epoch=600, steps_per_epoch=30, batch_size=16, lr=1e-3, max_grad_norm=100.0
    ),
    actor_critic=ActorCriticConfig(lstm_dim=64, channels=(8, 16, 32), down=(1, 1, 1)),
    actor_critic_update=UpdateConfig(
        start_after_epochs=1,  # rewards imagined before the model knows them would lead the policy astray
        steps_first_epoch=0,
        steps_per_epoch=30,
        lr=2e-3,
        weight_decay=0.0,
        max_grad_norm=100.0,
    ),
    actor_critic_loss=ActorCriticLossConfig(gamma=0.9, weight_entropy_loss=0.01),  # a ball falls for 10 steps only
    world_model=WorldModelConfig(num_batches_to_preload=16),
    collection=CollectionConfig(
        num_steps_total=3_500, first_epoch_min=2_000, first_epoch_max=2_000, steps_per_epoch=100
    ),
    evaluation=EvaluationConfig(every=3, num_episodes=20),
)

PRESETS: dict[PresetName, RunConfig] = {
    "atari100k": _PAPER,  # the paper's: Atari with 100 000 steps of real experience
    "quick": _QUICK,  # the whole pipeline in minutes on a CPU; far too short to learn
    "catch": _CATCH,  # a game small enough to be learned on a CPU
}
