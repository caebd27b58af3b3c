"""What would only fail hours into a run, found before it starts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from diamond_fast.config import AugmentationConfig, RunConfig, of_kind
from diamond_fast.domains import domain_of
from diamond_fast.settings import check_limits, flag, require, require_there


def checked(config: RunConfig) -> RunConfig:
    """The settings, with the game's name as it is usually written.

    Raises:
        ValueError: a value is out of its limits or does not fit another one; the message names the flag.
    """
    config = _with_known_world(config)
    check_limits(config)
    _check_collection(config)
    _check_models(config)
    if config.augmentation != AugmentationConfig():
        alone = config.world_model_only and config.upsampling == 1
        require(
            alone,
            "augmentation",
            "changes what a world model of one frame size alone is trained on; add --world-model-only",
        )
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
        require(getattr(config, name) is None or name in domain.settings, name, why_not)
    config = domain.checked(config)
    for name in ("static_dataset", "held_out"):
        if (given := getattr(config, name)) is not None:
            found: dict[str, Any] = {name: _existing_recording(config, name, given)}
            config = replace(config, **found)
    require(not (config.world_model_only and config.model_free), "world_model_only", "has no use with --model-free")
    return config


def _existing_recording(config: RunConfig, name: str, given: str) -> str:
    """Where the recording is, whatever folder the run is resumed from."""
    require(not config.model_free, name, "has no use with --model-free, which trains in the real game")
    path = Path(given)
    require_there(path, name)
    return str(path.resolve())


def _check_collection(config: RunConfig) -> None:
    c = config.collection
    for name, bound in (("first_epoch_min", "first_epoch_max"), ("first_epoch_max", "num_steps_total")):
        value, most = getattr(c, name), getattr(c, bound)
        message = f"must be at most {flag(f'collection.{bound}')} ({most}), got {value}"
        require(value <= most, f"collection.{name}", message)
    for name in ("num_steps_total", "first_epoch_min", "first_epoch_max", "steps_per_epoch"):
        message = f"must be a multiple of --collection.num-envs ({c.num_envs}), got {getattr(c, name)}"
        require(getattr(c, name) % c.num_envs == 0, f"collection.{name}", message)
    weights = " ".join(map(str, c.sample_weights)) or "none"
    require(sum(c.sample_weights) > 0, "collection.sample_weights", f"need at least one above 0, got {weights}")


def _check_models(config: RunConfig) -> None:
    chosen = of_kind(config, config.formulation, config.network)
    steps = config.num_autoregressive_steps
    message = f"must be 0, since --formulation {config.formulation} is not trained on frames of its own, got {steps}"
    require(steps == chosen.num_autoregressive_steps, "num_autoregressive_steps", message)
    require(chosen == config, "formulation", f"{config.formulation} with {config.network} has other settings")
    config.world_model.sampler.check("world_model.sampler")
    told = config.denoiser.inner_model.context_noise
    for path, noisy in (
        ("denoiser.noise_context", config.denoiser.noise_context),
        ("world_model.sampler.s_cond", config.world_model.sampler.s_cond > 0),
    ):
        require(told or not noisy, path, "needs --denoiser.inner-model.context-noise: the network must be told of it")
    config.sigma_distribution.check("sigma_distribution")
    config.denoiser.inner_model.check("denoiser.inner_model")
    _check_memory(config)
    _check_student(config)
    _check_upsampler(config)
    config.reward_end.check("reward_end")
    config.actor_critic.check("actor_critic")
    halvings, shown = sum(config.actor_critic.down), " ".join(map(str, dict.fromkeys(config.frame_shape[:2])))
    message = f"must be at least {2**halvings} (--actor-critic.down halves it {halvings} times), got {shown}"
    enough = config.world_model_only or min(config.frame_shape[:2]) >> halvings >= 1
    require(enough, "frame_size", message)


def _check_student(config: RunConfig) -> None:
    steps, name = config.world_model.sampler, "world_model.student"
    if not config.world_model.student:
        return
    require(not config.model_free, name, "has no use with --model-free")
    require(config.upsampling == 1, name, "is for frames of one size; leave out --upsampling")
    more = steps.draws_more("world_model.sampler")
    message = f"learns what follows from the noise at the start, but steps draw more of it ({more}); leave one out"
    require(not more, name, message)
    message = f"needs at least 2 --world-model.sampler.num-steps to learn from, got {steps.num_steps}"
    require(steps.num_steps > 1, name, message)


def _check_memory(config: RunConfig) -> None:
    if config.memory == "none":
        return
    for fits, why in (
        (config.network == "unet", f"needs --network unet, got {config.network}"),
        (not config.model_free, "has no use with --model-free"),
        (config.upsampling == 1, f"needs --upsampling 1, got {config.upsampling}"),
        (not config.world_model.student, "cannot be told to a --world-model.student"),
    ):
        require(fits, "memory", f"{config.memory} {why}")
    message = f"is for the reward/end model, which --memory {config.memory} replaces; leave it at 0"
    require(config.reward_end_event_share == 0, "reward_end_event_share", message)
    config.memory_model.check("memory_model", config.memory)
    halvings, size = sum(config.memory_model.down), min(config.frame_shape[:2])
    message = f"must be at least {2**halvings} (--memory-model.down halves it {halvings} times), got {size}"
    require(size >> halvings >= 1, "frame_size", message)
    longest, least = config.reward_end_seq_length, config.denoiser_seq_length
    message = f"{config.memory} is trained on {longest} frames (context and horizon), the denoiser on {least} of them"
    require(longest >= least, "memory", message)


def _check_upsampler(config: RunConfig) -> None:
    if config.upsampling == 1:
        return
    why = "its frames have one size; give a recording with two (--static-dataset)"
    require(config.static_dataset is not None, "upsampling", f"must be 1 while a game is played: {why}")
    config.upsampler.inner_model.check("upsampler.inner_model")
    config.world_model.upsampling.check("world_model.upsampling")
    message = "must be False: noise is added to the past frames of --denoiser only"
    require(not config.upsampler.noise_context, "upsampler.noise_context", message)
    message = f"must be 0: it is for --world-model.sampler, got {config.world_model.upsampling.s_cond}"
    require(config.world_model.upsampling.s_cond == 0, "world_model.upsampling.s_cond", message)
