"""Maze, a game whose rooms have to be remembered. A Gymnasium environment like any other."""

from dataclasses import replace

from diamond_fast import config
from diamond_fast.domains import gym, recall

ENV_ID = "diamond_fast/Maze-v0"

_RECALL = recall.DOMAIN.presets["recall"]
_PRESET = replace(
    _RECALL,
    env_id=ENV_ID,
    denoiser_update=replace(_RECALL.denoiser_update, steps_first_epoch=800),
    collection=replace(_RECALL.collection, num_steps_total=3_100),
)


def _checked(cfg: config.RunConfig) -> config.RunConfig:
    if cfg.env_id not in (None, ENV_ID):
        raise ValueError(f"--env-id: --domain maze is {ENV_ID}, got {cfg.env_id}")
    return gym.DOMAIN.checked(replace(cfg, env_id=ENV_ID))


DOMAIN = replace(
    gym.DOMAIN,
    name="maze",
    owns=lambda cfg: cfg.env_id == ENV_ID,
    checked=_checked,
    presets={"maze": _PRESET},
)
