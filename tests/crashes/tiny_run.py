"""A whole run that takes a second: initial collection, 5 epochs, final evaluation."""

from diamond_fast.config import (
    ActorCriticConfig,
    ActorCriticLossConfig,
    CollectionConfig,
    DenoiserConfig,
    EvaluationConfig,
    InnerModelConfig,
    RewardEndConfig,
    RunConfig,
    SamplerConfig,
    UpdateConfig,
    WorldModelConfig,
)

_UPDATE = UpdateConfig(steps_first_epoch=2, steps_per_epoch=2, batch_size=2, lr_warmup_steps=2)
TINY = RunConfig(
    env_id="diamond_fast/Catch-v0",
    frame_size=12,
    num_final_epochs=2,
    denoiser=DenoiserConfig(InnerModelConfig(cond_channels=8, depths=(1,), channels=(4,), attn_depths=(0,))),
    denoiser_update=_UPDATE,
    reward_end=RewardEndConfig(lstm_dim=4, cond_channels=4, depths=(1,), channels=(4,), attn_depths=(0,)),
    reward_end_update=_UPDATE,
    actor_critic=ActorCriticConfig(lstm_dim=4, channels=(4, 4), down=(1, 1)),
    actor_critic_update=_UPDATE,
    actor_critic_loss=ActorCriticLossConfig(backup_every=4),
    world_model=WorldModelConfig(SamplerConfig(num_steps=1), horizon=4, num_batches_to_preload=2),
    collection=CollectionConfig(
        num_steps_total=120, first_epoch_min=60, first_epoch_max=60, first_epoch_threshold_rew=0, steps_per_epoch=20
    ),
    evaluation=EvaluationConfig(every=1_000, num_final_episodes=1, num_envs=1),
)
