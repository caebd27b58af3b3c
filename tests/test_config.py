"""Settings: what is out of bounds is found at once and named by its flag; JSON and back loses nothing."""

import json
from dataclasses import replace
from typing import get_args

import pytest
import torch

import diamond_fast
from diamond_fast.config import RunConfig, UpdateConfig, of_kind
from diamond_fast.config_checks import checked
from diamond_fast.presets import PRESETS
from diamond_fast.settings import Limits, differences, flag, from_json, leaves, to_json
from diamond_fast.world_model import Agent

BOXING = RunConfig(game="Boxing")


def with_setting(config, path, value):
    """``config`` with the setting at a dotted path replaced."""
    name, _, rest = path.partition(".")
    return replace(config, **{name: with_setting(getattr(config, name), rest, value) if rest else value})


def test_every_public_name_is_there():
    for name in diamond_fast.__all__:
        assert getattr(diamond_fast, name).__class__ is not None
    assert set(diamond_fast.__all__) <= set(dir(diamond_fast))
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = diamond_fast.Nonsense


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_sound(name, tmp_path):
    config = PRESETS[name]
    if config.upsampling > 1:
        with pytest.raises(ValueError, match="--upsampling: must be 1 while a game is played"):
            checked(replace(config, domain=None, game="Boxing"))
    if config.upsampling > 1 or config.domain == "csgo":
        checked(replace(config, static_dataset=str(tmp_path)))
        return
    if config.domain is not None:
        checked(replace(config, static_dataset=str(tmp_path)))
        return
    checked(config if config.env_id else replace(config, game="Boxing"))


@pytest.mark.parametrize("name", [name for name, config in PRESETS.items() if config.network == "unet"])
def test_presets_can_be_given_a_memory(name, tmp_path):
    """Frames are large enough for its encoder's halvings."""
    config = replace(PRESETS[name], memory="gru", upsampling=1)
    checked(config if config.env_id else replace(config, static_dataset=str(tmp_path)))


def test_the_papers_preset_is_the_defaults():
    assert PRESETS["atari100k"] == RunConfig()


def metadata(hint):
    yield from getattr(hint, "__metadata__", ())
    for inner in get_args(hint):
        yield from metadata(inner)


def test_every_number_has_limits():
    orders = ("world_model.sampler.order", "world_model.upsampling.order")
    for path, hint, value in leaves(RunConfig()):
        numbers = value if isinstance(value, tuple) else (value,)
        if all(type(number) in (int, float) for number in numbers) and path not in orders:
            assert any(isinstance(extra, Limits) for extra in metadata(hint)), path


def test_flags():
    assert flag("denoiser_update.lr") == "--denoiser-update.lr"
    assert flag("actor_critic_loss.lambda_") == "--actor-critic-loss.lambda"


def test_json_and_back_is_lossless():
    for config in PRESETS.values():
        text = json.dumps(to_json(config), allow_nan=False)
        assert from_json(of_kind(RunConfig(), config.formulation, config.network), json.loads(text)) == config


def test_differences_are_named():
    changed = with_setting(with_setting(BOXING, "seed", 1), "denoiser_update.lr", 1e-3)
    assert differences(BOXING, changed) == [("seed", 0, 1), ("denoiser_update.lr", 1e-4, 1e-3)]
    assert differences(BOXING, RunConfig(game="Boxing")) == []


def test_a_games_name_is_made_usual():
    assert checked(RunConfig(game="ms_pacman")).game == "MsPacman"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("game", None, "--game, --env-id: exactly one of them is needed, got neither"),
        ("env_id", "CartPole-v1", "--game, --env-id: exactly one of them is needed, got both"),
        ("game", "Boxng", '--game: unknown game "Boxng"; did you mean Boxing'),
        ("seed", -1, "--seed: must be at least 0, got -1"),
        ("seed", 2**31, "--seed: must be at most 2147483647, got 2147483648"),
        ("denoiser_update.lr", 0.0, "--denoiser-update.lr: must be above 0, got 0.0"),
        ("denoiser_update.lr", float("nan"), "--denoiser-update.lr: must be a finite number, got nan"),
        ("denoiser_update.lr", float("inf"), "--denoiser-update.lr: must be a finite number, got inf"),
        ("denoiser_update.batch_size", 0, "--denoiser-update.batch-size: must be at least 1, got 0"),
        ("collection.epsilon", 1.1, "--collection.epsilon: must be at most 1, got 1.1"),
        ("collection.policy_temperature", 0.0, "--collection.policy-temperature: must be above 0, got 0.0"),
        ("collection.sample_weights", (0.0, -1.0), "--collection.sample-weights: must be at least 0, got -1.0"),
        (
            "collection.sample_weights",
            (0.0, 0.0),
            "--collection.sample-weights: need at least one above 0, got 0.0 0.0",
        ),
        ("collection.sample_weights", (), "--collection.sample-weights: need at least one above 0, got none"),
        (
            "collection.first_epoch_min",
            20_000,
            "--collection.first-epoch-min: must be at most --collection.first-epoch-max (10000), got 20000",
        ),
        (
            "collection.num_steps_total",
            9_000,
            "--collection.first-epoch-max: must be at most --collection.num-steps-total (9000), got 10000",
        ),
        (
            "collection.num_envs",
            8,
            "--collection.steps-per-epoch: must be a multiple of --collection.num-envs (8), got 100",
        ),
        (
            "world_model.sampler.sigma_min",
            6.0,
            "--world-model.sampler.sigma-min: must be below --world-model.sampler.sigma-max (5.0), got 6.0",
        ),
        (
            "sigma_distribution.sigma_max",
            1e-3,
            "--sigma-distribution.sigma-min: must be below --sigma-distribution.sigma-max (0.001), got 0.002",
        ),
        ("actor_critic_loss.lambda_", 2.0, "--actor-critic-loss.lambda: must be at most 1, got 2.0"),
        ("frame_size", 8, "--frame-size: must be at least 16 (--actor-critic.down halves it 4 times), got 8"),
        (
            "denoiser.inner_model.depths",
            (2, 2),
            "--denoiser.inner-model.depths: must have as many entries as --denoiser.inner-model.channels (4), got 2",
        ),
        ("denoiser.inner_model.channels", (), "--denoiser.inner-model.channels: need at least one level"),
        (
            "denoiser.inner_model.channels",
            (64, 64, 64, 100),
            "--denoiser.inner-model.channels: 100 channels do not split into 3 groups; multiples of 32 always do",
        ),
        (
            "denoiser.inner_model.channels",
            (56, 56, 56, 56),
            "--denoiser.inner-model.channels: 112 channels (a level and its skips together) do not split into 3 groups",
        ),
        (
            "reward_end.channels",
            (32, 32, 32, 31),
            "--reward-end.channels: 31 channels with attention do not split into 3 heads; multiples of 8 do",
        ),
        (
            "denoiser.inner_model.cond_channels",
            7,
            "--denoiser.inner-model.cond-channels: must be even, got 7",
        ),
        ("reward_end.img_channels", 1, "--reward-end.img-channels: must be at least 3, got 1"),
        ("reward_end.attn_depths", (0, 0, 0, 2), "--reward-end.attn-depths: must be at most 1, got 2"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(path, value, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared below)
        checked(with_setting(BOXING, path, value))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_frames_smaller_than_a_policy_could_see_are_allowed_without_one():
    alone = replace(BOXING, world_model_only=True, frame_size=(8, 10))
    assert checked(alone) == alone


def test_an_infinite_upper_noise_level_is_allowed():
    assert checked(with_setting(BOXING, "world_model.sampler.s_tmax", float("inf"))) == BOXING


@pytest.mark.parametrize("channels", [(16, 32, 32), (8, 24, 48), (40, 40, 40), (96, 64, 32), (1, 2, 3)])
@pytest.mark.parametrize("attn", [0, 1])
def test_channels_that_pass_the_check_make_networks_that_run(channels, attn):
    """The check must allow exactly what the networks can do."""
    config = BOXING
    for path in ("denoiser.inner_model", "reward_end"):
        config = with_setting(config, f"{path}.channels", channels)
        config = with_setting(config, f"{path}.depths", (1, 2, 1))
        config = with_setting(config, f"{path}.attn_depths", (attn,) * 3)
    config = with_setting(config, "actor_critic.channels", channels)
    config = with_setting(config, "actor_critic.down", (1, 0, 1))
    config = with_setting(config, "frame_size", 20)
    config = checked(config)
    with torch.device("meta"):
        agent = Agent(config, 3)
        obs, act = torch.zeros(2, 4, 3, 20, 20), torch.zeros(2, 4, dtype=torch.int64)
        frame = agent.denoiser.inner_model(obs[:, 0], torch.zeros(2), obs.flatten(1, 2), act)
        rew, *_ = agent.rew_end_model.predict(obs, act, obs)
        logits, *_ = agent.actor_critic.predict_act_value(obs[:, 0], (torch.zeros(2, 512), torch.zeros(2, 512)))
    assert (frame.shape, rew.shape, logits.shape) == ((2, 3, 20, 20), (2, 4, 3), (2, 3))


def test_the_derived_sequence_lengths():
    assert BOXING.reward_end_seq_length == 19
    assert BOXING.denoiser_seq_length == 6
    assert UpdateConfig() == BOXING.denoiser_update
