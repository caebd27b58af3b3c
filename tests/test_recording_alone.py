"""Trained from a recording, without any game: what cannot be had is said, and everything else works."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from crashes.tiny_run import TINY

from diamond_fast import evaluate, train
from diamond_fast.domains.environments import make_real_env
from diamond_fast.estimate import estimate
from diamond_fast.playing.source import load_source
from diamond_fast.replay import Replay
from diamond_fast.replay.buffer import Episode
from diamond_fast.replay.formats import write_npz
from diamond_fast.reporting.own_runs import read_run
from diamond_fast.runs.agents import load_agent
from diamond_fast.runs.folder import RunFolder
from diamond_fast.runs.metrics import read_metrics
from diamond_fast.runs.progress import Progress
from diamond_fast.training import profiling
from diamond_fast.training.trainer import Trainer
from diamond_fast.world_model import Agent

CONFIG = replace(TINY, env_id=None, evaluation=replace(TINY.evaluation, every=1))


@pytest.fixture(autouse=True)
def _tiny_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(train.PRESETS, "quick", CONFIG)
    monkeypatch.setattr("diamond_fast.training.evaluator.save_gif", lambda path, segments: path)
    monkeypatch.setattr("diamond_fast.training.evaluator.save_learning_curves", lambda path, lines: path)
    monkeypatch.setattr("diamond_fast.evaluation.results.draw", lambda folder, results, compounding: ([], []))


@pytest.fixture
def recording(tmp_path):
    """Random play of Catch, in which nobody ever goes right: action 2 is not recorded."""
    env = make_real_env(None, "diamond_fast/Catch-v0", 1, 12, done_on_life_loss=True)
    replay, rng = Replay((12, 12, 3), capacity=200), np.random.default_rng(0)
    obs, _ = env.reset(seed=0)
    for _ in range(120):
        act = rng.integers(0, 2, 1)
        next_obs, rew, end, trunc, info = env.step(act)
        replay.append(obs, act, rew, end, trunc, info["final_obs"])
        obs = next_obs
    env.close()
    replay.commit()
    path = tmp_path / "falling" / "dataset" / "train.npz"
    path.parent.mkdir(parents=True)
    write_npz(replay, path)
    return path


def said(capsys, main, *flags):
    """The exit code, and all that was said on stdout and on stderr."""
    code = 0
    try:
        main([str(flag) for flag in flags])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def test_a_run_from_beginning_to_end(capsys, tmp_path, recording):
    code, out, err = said(capsys, train.main, "--preset", "quick", "--static-dataset", recording, "--num-actions", 3)
    assert (code, err) == (0, "")
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("falling-")
    assert "Return: none, since there is no game to play" in out
    lines = read_metrics(folder / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == [1, 2]
    assert all(line["denoiser/updates"] == 2 for line in lines)
    assert not any(name.startswith(("test/", "final_test/", "collect/")) for line in lines for name in line)
    assert sorted(file.name for file in (folder / "pictures").glob("*.png")) == ["epoch_000001.png", "epoch_000002.png"]

    code, out, err = said(capsys, train.main, "--resume", folder)
    assert (code, err) == (0, "")
    assert "Return: none" in out

    refused = "learned from a recording, without a game to play; give a recording with --held-out, and no --episodes"
    for flags in ((), ("--episodes", 3), ("--episodes", 3, "--held-out", recording)):
        code, _, err = said(capsys, evaluate.main, "--run", folder, *flags)
        assert (code, err.count("\n")) == (2, 1)
        assert refused in err
    code, out, err = said(capsys, evaluate.main, "--run", folder, "--held-out", recording, "--segments", 2)
    assert (code, err) == (0, "")
    assert "held-out: 120 steps" in out
    assert "return" not in out

    source = load_source(load_agent(folder), torch.device("cpu"))
    assert (source.title, source.action_names) == ("falling", ("0", "1", "2"))
    assert source.replay.num_steps == 120
    with pytest.raises(ValueError, match="falling: the run has a recording and no game to play"):
        source.make_real_env()

    assert (read_run(folder).game, read_run(folder).finished) == ("falling", False)


def test_frames_stay_as_they_are_recorded(tmp_path, recording):
    def size(*flags):
        return train.read_command_line([str(flag) for flag in flags]).config.frame_size

    alone = "--world-model-only", "--static-dataset"
    assert size("--preset", "atari100k", *alone, recording) == 12
    assert size("--preset", "atari100k", "--frame-size", 24, *alone, recording) == 24
    wide = Replay((12, 20, 3), capacity=8)
    frames = np.full((4, 12, 20, 3), 9, np.uint8)
    over = np.arange(4) == 3
    wide.append_episode(Episode(frames, over.astype(np.int64), over.astype(np.float32), over, over & False, frames[0]))
    write_npz(wide, tmp_path / "wide.npz")
    assert size("--preset", "atari100k", *alone, tmp_path / "wide.npz") == (12, 20)
    assert size("--preset", "doom", "--static-dataset", recording) == (15, 20)  # a second size hangs on the first one
    (tmp_path / "no.npz").write_bytes(b"none")
    assert size("--preset", "atari100k", *alone, tmp_path / "no.npz") == 64


def test_resuming_is_exact(tmp_path, recording):
    cfg = replace(CONFIG, static_dataset=str(recording))
    final = []
    for name, stops in (("a", False), ("b", True)):
        folder = RunFolder.create(tmp_path / name, cfg)
        for _ in range(1 + stops):
            trainer = Trainer(cfg, folder, torch.device("cpu"))
            assert trainer.agent.actor_critic.num_actions == 2  # those recorded
            if stops and trainer.epoch == 0:
                trainer._collect_initially()
                with Progress(1, {}) as trainer.progress:
                    trainer._run_epoch(1)
                trainer.epoch, trainer.figures = 1, {}
                trainer._save()
            else:
                assert trainer.run() is None
            trainer.close()
        final.append(trainer.agent.state_dict())
    assert all(torch.equal(a, final[1][name]) for name, a in final[0].items())


def test_networks_say_how_many_actions_there_are(tmp_path, recording):
    """Those a run starts from, those it goes on from: more than were recorded. Other numbers are refused."""
    cfg = replace(CONFIG, static_dataset=str(recording))
    folder = RunFolder.create(tmp_path / "run", cfg)
    trainer = Trainer(cfg, folder, torch.device("cpu"), Agent(cfg, 5))
    trainer._collect_initially()
    trainer.close()
    for _ in range(2):
        trainer = Trainer(cfg, folder, torch.device("cpu"))
        assert trainer.agent.actor_critic.num_actions == 5
        trainer.close()
    with pytest.raises(ValueError, match="agent: it knows 5 actions, falling has 4"):
        Trainer(replace(cfg, num_actions=4), folder, torch.device("cpu"))


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--num-actions", 1), "train.npz: its actions go from 0 to 1, expected 0 to 0"),
        (("--frame-size", 16), "frames are 12x12x3, the networks' 16x16x3; python -m diamond_fast.replay import"),
        (("--model-free",), "--static-dataset: has no use with --model-free"),
    ],
)
def test_one_line_says_what_is_wrong(capsys, tmp_path, recording, flags, line):
    code, _, err = said(capsys, train.main, "--preset", "quick", "--static-dataset", recording, "--out", "run", *flags)
    assert (code, err.count("\n")) == (2, 1)
    assert line in err
    assert not (tmp_path / "run").exists()


def test_recordings_that_cannot_be_learned_from(capsys, recording):
    with np.load(recording) as file:
        good = dict(file)
    few = {"episode_lengths": np.array([5]), "final_observations": good["final_observations"][:0]}
    few |= {name: good[name][:5] for name in ("observations", "actions", "rewards", "terminations", "truncations")}
    for name, arrays, line in (
        ("few", few, "holds 5 steps, at least 8 are needed"),
        ("many", good | {"actions": good["actions"] + 5_000}, "its actions go up to 5001; if a game has so many, say"),
        ("black", good | {"observations": good["observations"] // 128}, "no value of its frames is above 1 of 255"),
        ("negative", good | {"actions": good["actions"] - 1}, "episode 0: act: expected 0 or more, got -1"),
    ):
        path = recording.with_name(f"{name}.npz")
        np.savez(path, **arrays)
        code, _, err = said(capsys, train.main, "--preset", "quick", "--static-dataset", path)
        assert (code, err.count("\n")) == (2, 1)
        assert line in err


def test_profile_and_estimate_count_no_games(recording, tmp_path, monkeypatch):
    monkeypatch.setattr(profiling, "MOST_TURNS", 1)
    cfg = replace(CONFIG, static_dataset=str(recording), num_final_epochs=7)
    assert estimate(cfg, 3).epochs == 7
    trainer = Trainer(cfg, RunFolder.create(tmp_path / "run", cfg), torch.device("cpu"))
    try:
        phases = profiling.profile_run(trainer, tmp_path / "trace.json.gz", say=lambda line: None)
    finally:
        trainer.close()
    assert [phase.name for phase in phases] == ["denoiser", "reward_end", "actor_critic", "save"]
