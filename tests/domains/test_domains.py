"""What holds for every world, and that a new one is a folder and a line."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_world

from diamond_fast import train
from diamond_fast.config import RunConfig
from diamond_fast.config_checks import checked
from diamond_fast.domains import DOMAINS, domain_of, has_env
from diamond_fast.domains.environments import make_env
from diamond_fast.presets import PRESETS
from diamond_fast.replay import Replay, load_recording
from diamond_fast.settings import from_json, to_json
from diamond_fast.spec import Frame, MultiBinary
from diamond_fast.training.collect import Collector

LAMPS = toy_world.DOMAIN.presets["lamps"]


@pytest.fixture
def lamps(monkeypatch):
    """The line that makes it known."""
    monkeypatch.setitem(DOMAINS, "lamps", toy_world.DOMAIN)
    return LAMPS


@pytest.fixture
def env(lamps):
    env = make_env(lamps, 2, done_on_life_loss=True)
    yield env
    env.close()


@pytest.mark.parametrize(
    ("settings", "name", "plays"),
    [
        ({"game": "Boxing"}, "atari", True),
        ({"game": "Boxing", "static_dataset": "x"}, "atari", True),
        ({"env_id": "CarRacing-v3"}, "gym", True),
        ({"env_id": "diamond_fast/Catch-v0"}, "catch", True),
        ({"domain": "catch"}, "catch", True),
        ({"static_dataset": "x"}, "recordings", False),
    ],
)
def test_settings_say_which_world_is_meant(settings, name, plays):
    cfg = RunConfig(**settings)
    assert (domain_of(cfg).name, has_env(cfg)) == (name, plays)


def test_every_world_is_known_by_its_name():
    assert [domain.name for domain in DOMAINS.values()] == list(DOMAINS)
    assert all(PRESETS[name] == preset for domain in DOMAINS.values() for name, preset in domain.presets.items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"domain": "atri"}, "--domain atri: unknown; did you mean atari?"),
        (
            {"domain": "nothing like it"},
            "--domain nothing like it: unknown; known: atari, catch, roll, recall, maze, doom, g",
        ),
        ({"domain": "atari"}, "--game: --domain atari needs it"),
        ({"domain": "gym"}, "--env-id: --domain gym needs it"),
        (
            {"domain": "recordings"},
            "--static-dataset: worlds of --domain recordings are learned from a recording; name",
        ),
        ({"domain": "catch", "env_id": "CarRacing-v3"}, "--env-id: --domain catch is diamond_fast/Catch-v0, got CarR"),
        ({"domain": "catch", "game": "Pong"}, "--game: is only for Atari"),
        ({"domain": "recordings", "env_id": "CarRacing-v3"}, "--env-id: is only for Gymnasium environments"),
        ({"domain": "lamps", "game": "Pong"}, "--game: is only for Atari"),
        ({"domain": "lamps", "num_actions": 3}, "--num-actions: is only for a --static-dataset without"),
    ],
)
def test_what_does_not_fit_a_world_is_refused(lamps, settings, message):
    with pytest.raises(ValueError, match=r"^--") as caught:
        checked(RunConfig(**settings))
    assert str(caught.value).startswith(message)


def test_catch_by_its_name_is_catch_by_its_id():
    by_name = checked(replace(PRESETS["catch"], env_id=None, domain="catch"))
    assert by_name == replace(PRESETS["catch"], domain="catch")


# --- a world of one's own -------------------------------------------------------------------------------------------


def test_a_new_world_is_a_run_like_any_other(lamps):
    cfg = checked(lamps)
    assert from_json(RunConfig(), json.loads(json.dumps(to_json(cfg)))) == cfg
    assert (cfg.title, cfg.frame_shape, domain_of(cfg)) == ("lamps", (24, 40, 3), toy_world.DOMAIN)


@pytest.mark.filterwarnings("error::UserWarning")  # tyro's; not what other tests leave to the garbage collector
def test_its_preset_is_one_of_the_command_lines(lamps, capsys):
    """A world that is registered while the program runs: its name alone takes its preset, a choice like any."""
    for flags in (["--domain", "lamps"], ["--preset", "lamps"]):
        args = train.read_command_line([*flags, "--device", "cpu"])
        assert (args.preset, args.config) == ("lamps", LAMPS)
    with pytest.raises(SystemExit):
        train.main(["--domain", "lamps", "--help"])
    assert re.search(r"--preset \{auto,.*lamps.*\(default: lamps\)", capsys.readouterr().out, re.DOTALL)


def test_it_says_what_it_looks_like(env):
    assert (env.frame, env.action) == (Frame(24, 40), MultiBinary(3))
    assert env.single_observation_space.shape == (24, 40, 3)
    assert (env.action_space.shape, env.single_action_space.n) == ((2, 3), 3)


def test_it_is_stepped_with_its_own_kind_of_actions(env):
    env.reset(seed=0)
    obs, rew, *_ = env.step(np.array([[1, 0, 1], [0, 0, 0]]))
    assert rew.tolist() == [2.0, 0.0]
    assert obs[0, 3, [5, 17, 29]].max(axis=1).tolist() == [255, 0, 255]
    assert env.step(env.action_space.sample())[0].shape == (2, 24, 40, 3)
    for actions, error, message in (
        ([0, 1], ValueError, r"^actions: expected shape \(2, 3\), got \(2,\)"),
        (np.full((2, 3), 2), ValueError, r"^actions: expected 0 and 1, got 2"),
        (np.full((2, 3), -1), ValueError, r"^actions: expected 0 and 1, got 255"),
        (np.zeros((2, 3)), TypeError, r"^actions: expected integers, got float64"),
    ):
        with pytest.raises(error, match=message):
            env.step(actions)


@pytest.mark.parametrize("runs_in", ["thread", "process"])
def test_it_goes_on_bit_for_bit_after_loading_a_state(lamps, runs_in):
    envs = [make_env(replace(lamps, env_runs_in=runs_in), 2, done_on_life_loss=True) for _ in range(2)]
    actions = np.random.default_rng(0).integers(0, 2, (20, 2, 3))
    envs[0].reset(seed=4)
    for act in actions[:9]:
        envs[0].step(act)
    envs[1].load_state_dict(envs[0].state_dict())
    for act in actions[9:]:
        for one, other in zip(envs[0].step(act)[:4], envs[1].step(act)[:4], strict=True):
            np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match=r"^state: actions: .*; it belongs to another game$"):
        envs[1].load_state_dict(envs[0].state_dict() | {"actions": np.zeros(sum(envs[0].state_dict()["lengths"]), int)})
    for env in envs:
        env.close()


def test_random_experience_is_recorded_and_read_back(env, tmp_path):
    path = tmp_path / "journal"
    replay = Replay.open(path, env.frame.shape, env.num_envs, action=env.action)
    collected = Collector(env, seed=1).collect(None, replay, 240)
    replay.close()
    assert (collected.num_steps, collected.lengths) == (240, [6] * 40)
    read = load_recording(path)
    assert (read.action, read.frame_shape, read.num_episodes) == (MultiBinary(3), (24, 40, 3), 40)
    acts = np.concatenate([read.episode(i).act for i in range(40)])
    assert (acts.shape, acts.dtype) == ((240, 3), np.uint8)
    assert 0.4 < acts.mean() < 0.6
    for i in range(40):  # what was recorded is what was played
        episode = read.episode(i)
        after = [*episode.obs[1:], episode.final_obs]
        assert [frame[3, [5, 17, 29], 0].tolist() for frame in after] == (255 * episode.act.astype(int)).tolist()
        assert episode.rew.tolist() == episode.act.sum(axis=1).tolist()


def test_it_reads_recordings_in_a_format_of_its_own(monkeypatch, tmp_path):
    def load(path):
        replay = Replay((24, 40, 3), capacity=8, action=MultiBinary(3))
        for held in np.load(path)["held"]:
            frame = np.full((1, 24, 40, 3), 7, np.uint8)
            replay.append(frame, held[None], np.zeros(1), np.zeros(1, bool), np.zeros(1, bool), frame)
        replay.close_episodes()
        return replay

    monkeypatch.setitem(DOMAINS, "lamps", replace(toy_world.DOMAIN, make_slot=None, load_recording=load))
    held = np.random.default_rng(0).integers(0, 2, (8, 3), np.uint8)
    np.savez(tmp_path / "held.npz", held=held)
    cfg = checked(replace(LAMPS, static_dataset=str(tmp_path / "held.npz")))
    assert not has_env(cfg)
    replay = domain_of(cfg).load_recording(Path(cfg.static_dataset))
    np.testing.assert_array_equal(replay.episode(0).act, held)
    with pytest.raises(ValueError, match=r"^lamps: the run has a recording and no game to play"):
        make_env(cfg, 1, done_on_life_loss=True)


def test_a_policy_plays_it(env):
    """It lights the outer lamps, always."""

    class Policy:
        lstm_dim, device = 1, torch.device("cpu")

        def predict_act_value(self, obs, hx_cx):
            return torch.tensor([[99.0, -99.0, 99.0]] * len(obs)), torch.zeros(len(obs)), hx_cx

    replay = Replay(env.frame.shape, 2, 24, env.action)
    assert Collector(env, seed=0).collect(Policy(), replay, 24).returns == [12.0] * 4
    assert (replay.episode(0).act == [1, 0, 1]).all()
