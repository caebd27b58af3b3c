"""A denoiser alone: no rewards, no ends, no policy. It trains, is resumed, evaluated, exported and played."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from crashes.tiny_run import TINY
from interrupted_runs import go_on
from replay_model import random_actions

from diamond_fast import evaluate, train
from diamond_fast.config_checks import checked
from diamond_fast.envs.world_model import WorldModelEnv
from diamond_fast.estimate import estimate
from diamond_fast.playing.frame_rate import measure_frame_rate
from diamond_fast.playing.recorder import Recorder
from diamond_fast.playing.session import Session
from diamond_fast.playing.source import load_source
from diamond_fast.playing.wire import describe, encode_view
from diamond_fast.replay import Replay
from diamond_fast.replay.__main__ import main as import_main
from diamond_fast.replay.formats import write_npz
from diamond_fast.runs import checkpoint
from diamond_fast.runs.agents import load_agent
from diamond_fast.runs.folder import RunFolder
from diamond_fast.runs.metrics import read_metrics
from diamond_fast.runs.nested import flatten
from diamond_fast.spec import Action, Box, Discrete, Mixed, MultiBinary
from diamond_fast.training import profiling
from diamond_fast.training.trainer import Trainer

CPU = torch.device("cpu")
ALONE = replace(TINY, world_model_only=True, precision="fp32", evaluation=replace(TINY.evaluation, every=2))


@pytest.fixture(autouse=True)
def _tiny_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(train.PRESETS, "quick", replace(ALONE, env_id=None, world_model_only=False))
    monkeypatch.setattr("diamond_fast.training.evaluator.save_gif", lambda path, segments: path)
    monkeypatch.setattr("diamond_fast.training.evaluator.save_learning_curves", lambda path, lines: path)
    monkeypatch.setattr("diamond_fast.evaluation.results.draw", lambda folder, results, compounding: ([], []))


def recording(path, action: Action | None = None, seed: int = 0, steps: int = 90):
    """Frames that follow from nothing, in episodes of 30 steps."""
    replay, rng = Replay((12, 12, 3), capacity=steps, action=action), np.random.default_rng(seed)
    for t in range(steps):
        frames = rng.integers(0, 256, (2, 1, 12, 12, 3), np.uint8)
        act = rng.integers(0, 3, 1) if action is None else random_actions(action, rng, 1)
        end = np.array([t % 30 == 29])
        replay.append(frames[0], act, np.zeros(1, np.float32), end, ~end & False, frames[1])
    replay.commit()
    write_npz(replay, path)
    return path


def everything(path) -> dict[str, str]:
    saved = checkpoint.load_latest(path / "checkpoints")
    tensors, tree = flatten({"tensors": saved.tensors, "state": saved.state})
    sums = {name: hashlib.sha256(t.numpy().tobytes()).hexdigest() for name, t in tensors.items()}
    return sums | {"tree": json.dumps(tree, sort_keys=True)}


@pytest.mark.parametrize("action", [None, MultiBinary(51), Box(3)], ids=str)
def test_a_run_on_a_recording_is_killed_and_goes_on_bit_for_bit(tmp_path, action):
    data, held_out = (str(recording(tmp_path / f"{i}.npz", action, seed=i)) for i in range(2))
    cfg = checked(replace(ALONE, env_id=None, num_final_epochs=3, static_dataset=data, held_out=held_out))
    whole, trainer = go_on(cfg, tmp_path / "whole")
    assert trainer.agent.spec.action == (action or Discrete(3))
    assert list(trainer.updates) == [name for name, _ in trainer.agent.named_children()] == ["denoiser"]
    for stop_after in (0, 1, 2) if action is None else (1,):
        path = tmp_path / f"stopped{stop_after}"
        assert go_on(cfg, path, stop_after)[0] is None
        again, _ = go_on(cfg, path)
        assert again == whole
        assert everything(path) == everything(tmp_path / "whole")
    lines = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == [1, 2, 3, 3]
    assert lines[1]["denoiser/held_out_loss"] > 0
    assert lines[3]["final_denoiser/held_out_loss"] == whole
    assert not any(name.startswith(("test/", "reward_end/", "actor_critic/")) for line in lines for name in line)
    assert go_on(cfg, tmp_path / "whole")[0] == whole  # a finished run's result is on record
    assert len(read_metrics(tmp_path / "whole" / "metrics.jsonl")) == 4


def test_from_the_disk_as_from_memory(tmp_path):
    """An imported recording with actions of several parts gives the same weights, bit for bit."""
    mixed = Mixed(parts=(("keys", MultiBinary(3)), ("mouse", Discrete(4))))
    in_memory = recording(tmp_path / "a.npz", mixed)
    assert import_main(["import", str(in_memory), "--out", str(tmp_path / "on_disk")]) == 0
    weights = []
    for path in (in_memory, tmp_path / "on_disk" / "train"):
        cfg = checked(replace(ALONE, env_id=None, num_final_epochs=1, static_dataset=str(path), held_out=str(path)))
        result, trainer = go_on(cfg, tmp_path / f"run{len(weights)}")
        assert trainer.agent.spec.action == mixed
        weights.append((result, trainer.agent.denoiser.state_dict()))
    assert weights[0][0] == weights[1][0]
    for name, tensor in weights[0][1].items():
        torch.testing.assert_close(tensor, weights[1][1][name], rtol=0, atol=0)


def test_a_game_is_played_at_random(tmp_path):
    result, trainer = go_on(checked(ALONE), tmp_path / "run")
    assert result > 0
    counts = np.bincount(np.concatenate([trainer.replay.episode(i).act for i in range(trainer.replay.num_episodes)]))
    assert counts.min() > 120 / 3 / 2  # 120 steps, 3 actions
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert all("collect/seconds" in line for line in lines[:3])
    assert any(line.get("denoiser/held_out_loss", 0) > 0 for line in lines)
    assert not any(name.startswith(("test/", "final_test/")) for line in lines for name in line)


def said(capsys, main, *flags):
    """The exit code, and all that was said on stdout and on stderr."""
    code = 0
    try:
        main([str(flag) for flag in flags])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def test_from_the_command_line_to_play(capsys, tmp_path):
    data, held_out = recording(tmp_path / "a.npz"), recording(tmp_path / "b.npz", seed=1)
    flags = ("--preset", "quick", "--world-model-only", "--static-dataset", data, "--held-out", held_out)
    code, out, err = said(capsys, train.main, *flags, "--dry-run")
    assert (code, err) == (0, "")
    assert "denoiser " in out
    assert "actor_critic " not in out
    code, out, err = said(capsys, train.main, *flags, "--out", "run")
    assert (code, err) == (0, "")
    assert "Held-out loss of the denoiser: " in out
    run = tmp_path / "run"
    trained = load_agent(run)
    assert (trained.agent.rew_end_model, trained.agent.actor_critic) == (None, None)

    code, _, err = said(capsys, evaluate.main, "--run", run, "--episodes", 3)
    assert (code, err.count("\n")) == (2, 1)
    assert "learned without a policy to play it; give a recording with --held-out" in err
    code, out, err = said(capsys, evaluate.main, "--run", run, "--held-out", held_out, "--segments", 2)
    assert (code, err) == (0, "")
    assert "denoiser loss: " in out
    assert "pixel error after" in out
    assert "recall" not in out

    source = load_source(trained, CPU)
    assert measure_frame_rate(source, 1) > 0
    session = Session(source, Recorder(tmp_path / "recordings", (12, 12, 3)), horizon=4)
    try:
        assert describe(session, 1.0)["policy"] is False
        for _ in range(4):
            session.step()
            view = session.view()
            assert (view.value, view.probabilities, view.reward) == (None, (), 0.0)
            assert len(view.trajectory) == 2
            assert b'"value": null' in encode_view(view, 1.0)
        assert session.view().over == "cut"  # at the horizon, and not before
        session.step()
        session.switch_world("replay")
        session.step()
        session.dream_from_here()
        session.step()
        with pytest.raises(ValueError, match="controller: this world model was trained without a policy"):
            session.set_controller("agent")
    finally:
        session.close()
    with pytest.raises(ValueError, match="controller: this world model was trained without a policy"):
        Session(source, Recorder(tmp_path / "recordings", (12, 12, 3)), controller="agent")


def test_as_an_environment_it_gives_no_reward_and_ends_at_the_horizon(tmp_path):
    go_on(checked(replace(ALONE, env_id=None, static_dataset=str(recording(tmp_path / "a.npz")))), tmp_path / "run")
    source = load_source(load_agent(tmp_path / "run"), CPU)
    env = WorldModelEnv(source.agent, source.replay, 3, replace(ALONE.world_model, horizon=4))
    env.reset(seed=0)
    for t in range(1, 9):
        obs, rew, end, trunc, _ = env.step(np.array([0, 1, 2]))
        assert obs.shape == (3, 12, 12, 3)
        assert rew.tolist() == [0, 0, 0]
        assert not end.any()
        assert trunc.tolist() == [t % 4 == 0] * 3


def test_what_fits_together(tmp_path):
    data = str(recording(tmp_path / "a.npz"))
    for changed, message in (
        ({"model_free": True}, "--world-model-only: has no use with --model-free"),
        ({"world_model_only": False, "model_free": True, "held_out": data}, "--held-out: has no use with --model-free"),
        ({"held_out": "nowhere"}, "--held-out: there is nothing at nowhere"),
    ):
        with pytest.raises(ValueError, match=message):
            checked(replace(ALONE, **changed))
    held_out = str(recording(tmp_path / "b.npz", MultiBinary(4)))
    cfg = checked(replace(ALONE, env_id=None, static_dataset=data, held_out=held_out))
    with pytest.raises(ValueError, match=r"--held-out .*b.npz: its actions are MultiBinary\(n=4\), the networks'"):
        Trainer(cfg, RunFolder.create(tmp_path / "run", cfg), CPU)


def test_without_held_out_episodes_there_is_no_result(tmp_path):
    cfg = checked(replace(ALONE, env_id=None, static_dataset=str(recording(tmp_path / "a.npz"))))
    assert go_on(cfg, tmp_path / "run")[0] is None


def test_a_policy_is_judged_on_a_held_out_recording_too(tmp_path):
    """With the reward/end model, and beside its test games."""
    held_out = str(recording(tmp_path / "b.npz"))
    evaluation = replace(TINY.evaluation, every=5, num_episodes=1)
    go_on(checked(replace(TINY, held_out=held_out, evaluation=evaluation)), tmp_path / "run")
    line = next(line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "test/returns" in line)
    assert line["denoiser/held_out_loss"] > 0
    assert line["reward_end/held_out_loss"] > 0


def test_profile_and_estimate(tmp_path, monkeypatch):
    monkeypatch.setattr(profiling, "MOST_TURNS", 1)
    cfg = checked(replace(ALONE, env_id=None, static_dataset=str(recording(tmp_path / "a.npz", Box(3)))))
    assert list(estimate(cfg, Box(3)).costs) == ["denoiser"]
    trainer = Trainer(cfg, RunFolder.create(tmp_path / "run", cfg), CPU)
    try:
        phases = profiling.profile_run(trainer, tmp_path / "trace.json.gz", say=lambda line: None)
    finally:
        trainer.close()
    assert [phase.name for phase in phases] == ["denoiser", "save"]
