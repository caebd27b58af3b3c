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
    # An imagined episode that begins with the ball in sight goes on until it is back.
    world_model=replace(_CATCH.world_model, horizon=22, sampler=config.SamplerConfig(num_steps=1)),
    # One denoising step draws a frame from noise that hides everything: there is most to be learned. After 700 updates
    # the ball does not come back, nor does the game end; after 2500 both do. From then on it stays as it is: in the
    # run that was looked at, one that was trained on told its policy wrong rewards.
    sigma_distribution=config.SigmaDistributionConfig(loc=0.4),
    denoiser_update=replace(_CATCH.denoiser_update, steps_first_epoch=2500, steps_per_epoch=0, lr=3e-3),
    # Few imagined episodes begin while the paddle moves.
    actor_critic_update=replace(_CATCH.actor_critic_update, steps_per_epoch=200),
    # Rewards come 20 steps after the choice. Returns lean on them, not on a value that would have to remember the ball.
    actor_critic_loss=replace(_CATCH.actor_critic_loss, gamma=0.99, lambda_=1.0, backup_every=22),
)


def _checked(cfg: config.RunConfig) -> config.RunConfig:
    if cfg.env_id not in (None, ENV_ID):
        raise ValueError(f"--env-id: --domain recall is {ENV_ID}, got {cfg.env_id}")
    return gym.DOMAIN.checked(replace(cfg, env_id=ENV_ID))


DOMAIN = replace(
    gym.DOMAIN,
    name="recall",
    owns=lambda cfg: cfg.env_id == ENV_ID,
    checked=_checked,
    presets={"recall": _PRESET},
)
