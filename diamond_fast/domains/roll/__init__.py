"""Roll, a game of one continuous action, learned on a CPU in minutes. A Gymnasium environment like any other."""

from dataclasses import replace

from diamond_fast import config
from diamond_fast.domains import catch, gym

ENV_ID = "diamond_fast/Roll-v0"

_CATCH = catch.DOMAIN.presets["catch"]
_PRESET = replace(
    _CATCH,
    env_id=ENV_ID,
    # One denoising step draws a frame that its past determines, from noise that hides the ball. Only at such levels is
    # there something to learn of how it moves, so more of the training is there.
    sigma_distribution=config.SigmaDistributionConfig(loc=0.4),
    world_model=replace(_CATCH.world_model, horizon=10, sampler=config.SamplerConfig(num_steps=1)),
    denoiser_update=replace(_CATCH.denoiser_update, steps_first_epoch=1_000, lr_warmup_steps=20),
    # Few inputs and a wide memory: with many, what all of them do together to learn how rare ends are drives the
    # memory's gates so far, in the first updates, that no gradient comes back.
    reward_end=config.RewardEndConfig(
        lstm_dim=128, cond_channels=32, depths=(1, 1, 1, 1), channels=(16, 16, 16, 16), attn_depths=(0, 0, 0, 0)
    ),
    # A game pays once. With 16 games an update, too few of them pay +1 to leave the guess that none does.
    reward_end_update=replace(_CATCH.reward_end_update, batch_size=32, steps_first_epoch=500, lr_warmup_steps=20),
    actor_critic_update=replace(_CATCH.actor_critic_update, lr_warmup_steps=20, steps_per_epoch=25),
    collection=config.CollectionConfig(
        num_steps_total=6_000, first_epoch_min=3_000, first_epoch_max=3_000, steps_per_epoch=300
    ),
)

DOMAIN = gym.game("roll", ENV_ID, _PRESET)
