"""Doom: a deathmatch against scripted bots, as a Gymnasium environment. Needs the extra ``doom``."""

from dataclasses import replace

from diamond_fast.config import RunConfig
from diamond_fast.domains import gym

ENV_ID = "diamond_fast/Doom-v0"


def _checked(cfg: RunConfig) -> RunConfig:
    if cfg.env_id not in (None, ENV_ID):
        raise ValueError(f"--env-id: --domain doom is {ENV_ID}, got {cfg.env_id}")
    return gym.DOMAIN.checked(replace(cfg, env_id=ENV_ID))


DOMAIN = replace(gym.DOMAIN, name="doom", owns=lambda cfg: cfg.env_id == ENV_ID, checked=_checked)
