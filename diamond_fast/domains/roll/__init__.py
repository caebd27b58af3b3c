"""Roll, a game of one continuous action, learned on a CPU in minutes. A Gymnasium environment like any other."""

from dataclasses import replace

from diamond_fast import config
from diamond_fast.domains import catch, gym

ENV_ID = "diamond_fast/Roll-v0"

_CATCH = catch.DOMAIN.presets["catch"]
_PRESET = replace(
    _CATCH,
    env_id=ENV_ID,
    reward_end_update=replace(_CATCH.reward_end_update, steps_first_epoch=900),
    collection=config.CollectionConfig(
        num_steps_total=4_500, first_epoch_min=3_000, first_epoch_max=3_000, steps_per_epoch=100
    ),
)


def _checked(cfg: config.RunConfig) -> config.RunConfig:
    if cfg.env_id not in (None, ENV_ID):
        raise ValueError(f"--env-id: --domain roll is {ENV_ID}, got {cfg.env_id}")
    return gym.DOMAIN.checked(replace(cfg, env_id=ENV_ID))


DOMAIN = replace(
    gym.DOMAIN,
    name="roll",
    owns=lambda cfg: cfg.env_id == ENV_ID,
    checked=_checked,
    presets={"roll": _PRESET},
)
