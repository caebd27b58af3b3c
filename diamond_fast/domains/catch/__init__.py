"""Catch, a game small enough to be learned on a CPU. It is a Gymnasium environment like any other."""

from diamond_fast import config
from diamond_fast.domains import gym
from diamond_fast.networks.recurrent.config import MemoryConfig

ENV_ID = "diamond_fast/Catch-v0"

_PRESET = config.RunConfig(
    env_id=ENV_ID,
    frame_size=24,
    num_final_epochs=1,
    denoiser=config.DenoiserConfig(
        config.InnerModelConfig(cond_channels=64, depths=(1, 1, 1), channels=(16, 16, 16), attn_depths=(0, 0, 0))
    ),
    denoiser_update=config.UpdateConfig(steps_first_epoch=600, steps_per_epoch=40, lr=1e-3),
    student_update=config.UpdateConfig(steps_first_epoch=300, steps_per_epoch=15, lr=1e-3),
    reward_end=config.RewardEndConfig(
        lstm_dim=64, cond_channels=32, depths=(1, 1, 1), channels=(16, 16, 32), attn_depths=(0, 0, 0)
    ),
    reward_end_update=config.UpdateConfig(
        steps_first_epoch=600, steps_per_epoch=30, batch_size=16, lr=1e-3, max_grad_norm=100.0
    ),
    actor_critic=config.ActorCriticConfig(lstm_dim=64, channels=(8, 16, 32), down=(1, 1, 1)),
    actor_critic_update=config.UpdateConfig(
        start_after_epochs=1,  # rewards imagined before the model knows them would lead the policy astray
        steps_first_epoch=0,
        steps_per_epoch=30,
        lr=2e-3,
        weight_decay=0.0,
        max_grad_norm=100.0,
    ),
    # A ball falls for 10 steps only.
    actor_critic_loss=config.ActorCriticLossConfig(gamma=0.9, weight_entropy_loss=0.01),
    memory_model=MemoryConfig(channels=(16, 16, 32), down=(1, 1, 1), action_width=16, width=64, layers=2),
    world_model=config.WorldModelConfig(num_batches_to_preload=16),
    collection=config.CollectionConfig(
        num_steps_total=3_500, first_epoch_min=2_000, first_epoch_max=2_000, steps_per_epoch=100
    ),
    evaluation=config.EvaluationConfig(every=3, num_episodes=20),
)

DOMAIN = gym.game("catch", ENV_ID, _PRESET)
