"""Driving, with steering and acceleration as actions (paper, appendix M): from recordings, of CarRacing or of cars."""

from dataclasses import replace
from typing import TYPE_CHECKING

from diamond_fast import config
from diamond_fast.domains import recordings

if TYPE_CHECKING:
    from diamond_fast.controls import Controls

_PRESET = config.RunConfig(
    domain="driving",
    world_model_only=True,
    num_final_epochs=18,
    denoiser=config.DenoiserConfig(
        config.InnerModelConfig(
            num_steps_conditioning=6,
            cond_channels=96,
            depths=(1, 1, 1, 1),
            channels=(16, 32, 64, 64),
            attn_depths=(0, 0, 0, 0),
        )
    ),
    denoiser_update=config.UpdateConfig(steps_first_epoch=200, steps_per_epoch=200, batch_size=8, lr=5e-4),
    world_model=config.WorldModelConfig(horizon=20),
    evaluation=config.EvaluationConfig(every=5),
)

_UPDATES = config.UpdateConfig(steps_per_epoch=20, batch_size=16, lr=1e-3)

_POLICY = config.RunConfig(
    env_id="diamond_fast/Driving-v0",
    frame_size=32,
    num_final_epochs=55,
    # In the dream of one with half the channels, steering towards the road earned no more than going straight.
    denoiser=config.DenoiserConfig(
        config.InnerModelConfig(cond_channels=64, depths=(1, 1, 1), channels=(32, 64, 64), attn_depths=(0, 0, 0))
    ),
    sigma_distribution=config.SigmaDistributionConfig(loc=0.4),  # for frames drawn in one step, as Roll's are
    denoiser_update=replace(_UPDATES, steps_first_epoch=1_600),
    reward_end=config.RewardEndConfig(
        lstm_dim=128,
        cond_channels=32,
        depths=(1, 1, 1, 1),
        channels=(16, 16, 16, 16),
        attn_depths=(0, 0, 0, 0),
        reward_head="symlog-bins",
    ),
    reward_end_update=replace(_UPDATES, steps_first_epoch=1_000, max_grad_norm=100.0),
    actor_critic=config.ActorCriticConfig(lstm_dim=128, channels=(16, 16, 16, 32), down=(1, 1, 1, 1)),
    actor_critic_update=replace(
        _UPDATES,
        start_after_epochs=1,
        steps_per_epoch=50,
        batch_size=24,
        weight_decay=0.0,
        max_grad_norm=100.0,
    ),
    # Values are of many rewards, some of 6: what the policy sees with is not to be theirs alone.
    actor_critic_loss=config.ActorCriticLossConfig(
        backup_every=15, gamma=0.9, weight_value_loss=0.2, weight_entropy_loss=0.02, normalise_advantages=True
    ),
    world_model=config.WorldModelConfig(config.SamplerConfig(num_steps=1), horizon=15, num_batches_to_preload=16),
    evaluation=config.EvaluationConfig(every=5, num_episodes=4, num_final_episodes=20, num_envs=4, max_steps=300),
)
"""A policy for CarRacing, learned in imagination from the recording of a driver, who need not drive well."""


def _controls(cfg: config.RunConfig) -> "Controls":
    from diamond_fast.controls import default_controls
    from diamond_fast.spec import Box

    return default_controls(Box(2), ("steering", "acceleration"))


DOMAIN = replace(
    recordings.DOMAIN, name="driving", controls=_controls, presets={"driving": _PRESET, "car-racing": _POLICY}
)
