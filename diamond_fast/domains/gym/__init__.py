"""Any Gymnasium environment with image observations."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from diamond_fast.config import RunConfig
from diamond_fast.domains.atari.games import atari_game_of
from diamond_fast.domains.domain import Domain

if TYPE_CHECKING:
    from diamond_fast.controls import Controls


def _checked(cfg: RunConfig) -> RunConfig:
    if cfg.env_id is None:
        raise ValueError("--env-id: --domain gym needs it; for instance --env-id CarRacing-v3")
    if game := atari_game_of(cfg.env_id):
        raise ValueError(f"--env-id {cfg.env_id}: Atari games are played as in the paper, with --game {game}")
    if cfg.env_kwargs is None:
        return cfg
    same = json.dumps(cfg.env_arguments, sort_keys=True)  # the one way of writing it that compares equal
    return replace(cfg, env_kwargs=same)


def _make_slot(cfg: RunConfig):
    from diamond_fast.domains.gym.adapter import GymSlot

    assert cfg.env_id is not None
    return GymSlot(cfg.env_id, cfg.frame_size, cfg.env_arguments)


def _action_names(cfg: RunConfig) -> list[str]:
    from diamond_fast.domains.gym.adapter import make_gym_env

    assert cfg.env_id is not None
    env = make_gym_env(cfg.env_id, cfg.env_arguments)
    try:
        meanings = getattr(env.unwrapped, "get_action_meanings", list)
        return [str(name) for name in meanings()]
    finally:
        env.close()


def _controls(cfg: RunConfig) -> "Controls | None":
    """What every number is if nobody touches anything: 0, as the environment counts."""
    import numpy as np
    from gymnasium import spaces

    from diamond_fast.controls import default_controls
    from diamond_fast.domains.gym.actions import adapt_actions
    from diamond_fast.domains.gym.adapter import make_gym_env

    assert cfg.env_id is not None
    env = make_gym_env(cfg.env_id, cfg.env_arguments)
    try:
        space = env.action_space
        action, _ = adapt_actions(cfg.env_id, space)
    finally:
        env.close()
    names = _NAMES.get(cfg.env_id, ())
    if not isinstance(space, spaces.Box):
        return default_controls(action, names) if names else None
    low, high = space.low.ravel().astype(float), space.high.ravel().astype(float)
    rests = (-2 * low / np.where(high > low, high - low, 1) - 1).clip(-1, 1)  # of ours, which go from -1 to 1
    return default_controls(action, names, rests.tolist())


_NAMES = {
    "CarRacing-v3": ("steering", "gas", "brake"),
    "diamond_fast/Driving-v0": ("steering", "acceleration"),
    "diamond_fast/Doom-v0": ("fire", "up", "left", "down", "right", "mouse x", "mouse y"),
    "diamond_fast/Roll-v0": ("push",),
}
"""Of the numbers of environments that do not say."""

DOMAIN = Domain(
    "gym",
    owns=lambda cfg: cfg.env_id is not None,
    settings=("env_id", "env_kwargs"),
    checked=_checked,
    make_slot=_make_slot,
    action_names=_action_names,
    controls=_controls,
)


def game(name: str, env_id: str, preset: RunConfig) -> Domain:
    """A world that is one environment of this package, with a preset of its own name."""

    def checked(cfg: RunConfig) -> RunConfig:
        if cfg.env_id not in (None, env_id):
            raise ValueError(f"--env-id: --domain {name} is {env_id}, got {cfg.env_id}")
        return DOMAIN.checked(replace(cfg, env_id=env_id))

    return replace(DOMAIN, name=name, owns=lambda cfg: cfg.env_id == env_id, checked=checked, presets={name: preset})
