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
    num_final_epochs=20,
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

_UPDATES = config.UpdateConfig(steps_per_epoch=20, batch_size=8, lr=1e-3)

_POLICY = config.RunConfig(
    env_id="diamond_fast/Driving-v0",
    num_final_epochs=21,
    denoiser=config.DenoiserConfig(
        config.InnerModelConfig(cond_channels=64, depths=(1, 1, 1), channels=(16, 32, 32), attn_depths=(0, 0, 0))
    ),
    sigma_distribution=config.SigmaDistributionConfig(loc=0.4),  # for frames drawn in one step, as Roll's are
    denoiser_update=replace(_UPDATES, steps_first_epoch=800),
    reward_end=config.RewardEndConfig(
        lstm_dim=128,
        cond_channels=32,
        depths=(1, 1, 1, 1),
        channels=(16, 16, 16, 16),
        attn_depths=(0, 0, 0, 0),
        reward_head="symlog-bins",
    ),
    reward_end_update=replace(_UPDATES, steps_first_epoch=400, steps_per_epoch=10, max_grad_norm=100.0),
    actor_critic=config.ActorCriticConfig(lstm_dim=128, channels=(16, 16, 16, 32), down=(1, 1, 1, 1)),
    actor_critic_update=replace(
        _UPDATES,
        start_after_epochs=1,
        steps_per_epoch=25,
        batch_size=16,
        weight_decay=0.0,
        max_grad_norm=100.0,
    ),
    actor_critic_loss=config.ActorCriticLossConfig(
        backup_every=10, gamma=0.95, weight_entropy_loss=0.03, normalise_advantages=True
    ),
    world_model=config.WorldModelConfig(config.SamplerConfig(num_steps=1), horizon=10, num_batches_to_preload=16),
    evaluation=config.EvaluationConfig(every=4, num_episodes=4, num_final_episodes=20, num_envs=4, max_steps=300),
)
"""A policy for CarRacing, learned in imagination from the recording of a driver, who need not drive well."""


def _controls(cfg: config.RunConfig) -> "Controls":
    from diamond_fast.controls import default_controls
    from diamond_fast.spec import Box

    return default_controls(Box(2), ("steering", "acceleration"))


DOMAIN = replace(
    recordings.DOMAIN, name="driving", controls=_controls, presets={"driving": _PRESET, "car-racing": _POLICY}
)
