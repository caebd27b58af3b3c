"""Recall, a game that needs a memory of more frames than a denoiser sees. A Gymnasium environment like any other."""

from dataclasses import replace

from diamond_fast import config
from diamond_fast.domains import catch, gym

ENV_ID = "diamond_fast/Recall-v0"

_CATCH = catch.DOMAIN.presets["catch"]
_PRESET = replace(
    _CATCH,
    env_id=ENV_ID,
    memory="gru",
    # Most imagined episodes begin with the ball in sight, and go on to the end of the game.
    world_model=replace(
        _CATCH.world_model, horizon=24, sampler=config.SamplerConfig(num_steps=1), first_frame_share=0.75
    ),
    # One denoising step draws a frame from noise that hides everything: there is most to be learned. A sequence that
    # was read once serves for six frames. After the first epoch the world stays as it is: in the run that was looked
    # at, one that was trained on told its policy wrong rewards.
    sigma_distribution=config.SigmaDistributionConfig(loc=1.4, scale=0.8),
    num_autoregressive_steps=5,
    denoiser_update=replace(_CATCH.denoiser_update, steps_first_epoch=1500, steps_per_epoch=0, batch_size=16, lr=2e-3),
    actor_critic_update=replace(_CATCH.actor_critic_update, steps_per_epoch=40),
    # Rewards come 20 steps after the choice. Returns lean on them, not on a value that would have to remember the ball.
    actor_critic_loss=replace(_CATCH.actor_critic_loss, gamma=0.99, lambda_=1.0, backup_every=24),
)

DOMAIN = gym.game("recall", ENV_ID, _PRESET)
