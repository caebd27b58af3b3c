"""What would only fail hours into a run, found before it starts."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from diamond_fast.config import ActorCriticConfig, InnerModelConfig, RewardEndConfig, RunConfig
from diamond_fast.domains import domain_of
from diamond_fast.settings import check_limits, flag


def checked(config: RunConfig) -> RunConfig:
    """The settings, with the game's name as it is usually written.

    Raises:
        ValueError: a value is out of its limits or does not fit another one; the message names the flag.
    """
    config = _with_known_world(config)
    check_limits(config)
    _check_collection(config)
    _check_sigmas(config)
    _check_networks(config)
    return config


_OF_SOME_WORLDS = {
    "game": "is only for Atari",
    "env_id": "is only for Gymnasium environments",
    "env_kwargs": "has no use without --env-id",
    "num_actions": "is only for a --static-dataset without --game or --env-id",
}
"""Settings that not every world reads, and what to say if one is given all the same."""


def _with_known_world(config: RunConfig) -> RunConfig:
    """What there is to learn about, by its usual name: a game, an environment, a recording."""
    if config.game is not None and config.env_id is not None:
        raise ValueError("--game, --env-id: exactly one of them is needed, got both; for instance --game Boxing")
    domain = domain_of(config)
    for name, why_not in _OF_SOME_WORLDS.items():
        _require(getattr(config, name) is None or name in domain.settings, name, why_not)
    config = domain.checked(config)
    return (
        config
        if config.static_dataset is None
        else replace(config, static_dataset=_existing_recording(config, config.static_dataset))
    )


def _existing_recording(config: RunConfig, given: str) -> str:
    """Where the recording is, whatever folder the run is resumed from."""
    _require(not config.model_free, "static_dataset", "has no use with --model-free, which trains in the real game")
    path = Path(given)
    _require(path.exists(), "static_dataset", f"there is nothing at {path}")
    return str(path.resolve())


def _require(condition: bool, path: str, message: str) -> None:
    if not condition:
        raise ValueError(f"{flag(path)}: {message}")


def _check_collection(config: RunConfig) -> None:
    c = config.collection
    _require(
        c.first_epoch_min <= c.first_epoch_max,
        "collection.first_epoch_min",
        f"must be at most --collection.first-epoch-max ({c.first_epoch_max}), got {c.first_epoch_min}",
    )
    _require(
        c.first_epoch_max <= c.num_steps_total,
        "collection.first_epoch_max",
        f"must be at most --collection.num-steps-total ({c.num_steps_total}), got {c.first_epoch_max}",
    )
    for name in ("num_steps_total", "first_epoch_min", "first_epoch_max", "steps_per_epoch"):
        _require(
            getattr(c, name) % c.num_envs == 0,
            f"collection.{name}",
            f"must be a multiple of --collection.num-envs ({c.num_envs}), got {getattr(c, name)}",
        )
    _require(
        sum(c.sample_weights) > 0,
        "collection.sample_weights",
        f"need at least one above 0, got {' '.join(map(str, c.sample_weights)) or 'none'}",
    )


def _check_sigmas(config: RunConfig) -> None:
    for path, sigmas in (
        ("world_model.sampler", config.world_model.sampler),
        ("sigma_distribution", config.sigma_distribution),
    ):
        _require(
            sigmas.sigma_min < sigmas.sigma_max,
            f"{path}.sigma_min",
            f"must be below {flag(path + '.sigma_max')} ({sigmas.sigma_max}), got {sigmas.sigma_min}",
        )


def _check_networks(config: RunConfig) -> None:
    inner, reward_end, actor_critic = config.denoiser.inner_model, config.reward_end, config.actor_critic
    for path, network, per_level in (
        ("denoiser.inner_model", inner, ("depths", "attn_depths")),
        ("reward_end", reward_end, ("depths", "attn_depths")),
        ("actor_critic", actor_critic, ("down",)),
    ):
        _require(len(network.channels) > 0, f"{path}.channels", "need at least one level")
        for name in per_level:
            levels, given = len(network.channels), len(getattr(network, name))
            _require(
                given == levels,
                f"{path}.{name}",
                f"must have as many entries as {flag(path + '.channels')} ({levels}), got {given}",
            )
        _check_channels(path, network)

    steps = inner.num_steps_conditioning
    _require(
        inner.cond_channels % steps == 0 and inner.cond_channels % 2 == 0,
        "denoiser.inner_model.cond_channels",
        "must be even and a multiple of --denoiser.inner-model.num-steps-conditioning "
        f"({steps}), got {inner.cond_channels}",
    )
    halvings, shown = sum(actor_critic.down), " ".join(map(str, dict.fromkeys(config.frame_shape[:2])))
    _require(
        min(config.frame_shape[:2]) >> halvings >= 1,
        "frame_size",
        f"must be at least {2**halvings} (--actor-critic.down halves it {halvings} times), got {shown}",
    )


def _check_channels(path: str, network: InnerModelConfig | RewardEndConfig | ActorCriticConfig) -> None:
    """Channels must split evenly into normalisation groups and, if there is attention, into heads."""
    from diamond_fast.networks.blocks import HEAD_DIM, num_groups  # imports torch: only once everything else is right

    channels = network.channels
    widths = set(channels)
    if isinstance(network, InnerModelConfig):  # the way up normalises a level together with its skips
        widths |= {2 * c for c in channels} | {a + b for a, b in pairwise(channels)}
    for width in sorted(widths):
        groups = num_groups(width)
        together = "" if width in channels else " (a level and its skips together)"
        _require(
            width % groups == 0,
            f"{path}.channels",
            f"{width} channels{together} do not split into {groups} groups; multiples of 32 always do",
        )
    if isinstance(network, ActorCriticConfig):
        return
    attended = {c for c, attn in zip(channels, network.attn_depths, strict=True) if attn} | {channels[-1]}
    for c in sorted(attended):
        heads = max(1, c // HEAD_DIM)
        _require(
            c % heads == 0,
            f"{path}.channels",
            f"{c} channels with attention do not split into {heads} heads; multiples of {HEAD_DIM} do",
        )
