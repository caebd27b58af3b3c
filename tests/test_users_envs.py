"""Training in users' environments: whatever they do wrong, the run ends in one line or goes on with one."""

import json
from dataclasses import replace
from pathlib import Path

import faulty_env
import pytest
import torch
from crashes.tiny_run import TINY

from diamond_fast import evaluate, train
from diamond_fast.runs.folder import RunFolder
from diamond_fast.runs.metrics import read_metrics
from diamond_fast.training.evaluator import Evaluator

ENV_ID = "faulty_env:Faulty-v0"
CONFIG = replace(TINY, env_id=None, evaluation=replace(TINY.evaluation, every=2, num_episodes=2))


@pytest.fixture(autouse=True)
def _tiny_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(train.PRESETS, "quick", CONFIG)
    monkeypatch.setattr(Evaluator, "draw_learning_curves", lambda self: None)
    monkeypatch.setattr("diamond_fast.training.evaluator.save_gif", lambda path, segments: path)
    monkeypatch.setattr("diamond_fast.evaluation.results.draw", lambda folder, results, compounding: ([], []))


def run(capsys, *flags, main=train.main, **env_kwargs):
    """The exit code, and all that was said on stdout and on stderr."""
    flags = [*flags, *(("--env-kwargs", json.dumps(env_kwargs)) if env_kwargs else ())]
    code = 0
    try:
        main(flags)
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


NEW = ("--preset", "quick", "--env-id", ENV_ID, "--out", "run")


@pytest.mark.parametrize("fault", ["error in make", "error in reset", "fractions", "handlers in reset"])
def test_what_cannot_begin_is_refused_and_leaves_nothing(capsys, tmp_path, fault):
    code, _, err = run(capsys, *NEW, fault=fault)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"the environment {ENV_ID} ")
    assert not (tmp_path / "run").exists()  # the same command works once its cause is mended


def test_a_run_goes_on_once_the_environment_is_mended(capsys):
    faulty_env.mended.clear()
    code, _, err = run(capsys, *NEW, fault="error in step", at=70)
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(f"the environment {ENV_ID} failed in step: KeyError")
    go_on = err.partition("Go on from the last checkpoint with: python -m diamond_fast.train ")[2].split()
    assert go_on == ["--resume", "run", "--env-id", ENV_ID]
    faulty_env.mended.add("error in step")
    code, out, err = run(capsys, *go_on)
    assert (code, err) == (0, "")
    assert "Return: 9.0" in out


def test_where_an_environment_runs_is_no_setting_of_the_run(capsys):
    """One that turns out to want a main thread, or more time, is given it by the command that resumes the run."""
    faulty_env.mended.clear()
    code, _, err = run(capsys, *NEW, fault="handlers in step", at=70)
    assert (code, err.count("\n")) == (1, 1)
    assert "signal only works in main thread" in err
    assert "--env-runs-in process (or main) gives it a main thread. Go on" in err
    code, out, err = run(capsys, "--resume", "run", "--env-id", ENV_ID, "--env-runs-in", "main", "--env-timeout", "99")
    assert (code, err) == (0, "")
    assert f"--resume run --env-id {ENV_ID} --env-runs-in main --env-timeout 99.0\n" in out


def test_evaluate_has_these_flags_too(capsys):
    faulty_env.mended.clear()
    there = ("--env-runs-in", "process")
    assert run(capsys, *NEW, *there, fault="handlers in reset")[0] == 0
    code, _, err = run(capsys, "--run", "run", "--env-id", ENV_ID, "--episodes", "1", main=evaluate.main)
    assert (code, err) == (0, "")
    code, _, err = run(capsys, "--run", "run", "--env-id", ENV_ID, "--env-runs-in", "thread", main=evaluate.main)
    assert (code, err.count("\n")) == (1, 1)
    assert "signal only works in main thread" in err
    code, _, err = run(capsys, "--run", "run", "--env-id", ENV_ID, "--env-timeout", "0", main=evaluate.main)
    assert (code, err) == (2, "--env-timeout: must be above 0, got 0.0\n")


def test_episodes_of_one_step(capsys):
    code, out, err = run(capsys, *NEW, length=1)
    assert (code, err) == (0, "")
    said = (
        "denoiser/held_out_loss is left out: the test games of faulty_env:Faulty-v0 have 2 steps together, a training"
    )
    assert out.count(said) == 1  # of two evaluations
    assert out.count(f"No pictures: a world model sees 4 frames, the longest episode of {ENV_ID} has 1.") == 1
    evaluated = [line for line in read_metrics(Path("run/metrics.jsonl")) if "test/returns" in line]
    assert [(line["test/returns"], line["denoiser/held_out_loss"]) for line in evaluated] == [([1.0, 1.0], None)] * 2
    assert "Return: 1.0" in out

    code, out, err = run(capsys, "--run", "run", "--env-id", ENV_ID, "--episodes", "2", main=evaluate.main)
    assert (code, err) == (0, "")
    assert "return: 1.00" in out
    assert "no held-out episode is as long as context, --watched and --horizon together" in out


def test_games_shorter_than_the_horizon_are_pictured_as_far_as_they_go(capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "diamond_fast.training.evaluator.save_frame_grid",
        lambda path, segments, times: drawn.append(([len(real) for real, _ in segments], times)),
    )
    code, out, err = run(capsys, *NEW, "--world-model.horizon", "6", length=8)  # 4 are seen, 3 imagined
    assert (code, err) == (0, "")
    assert "No pictures" not in out
    assert [times for _, times in drawn] == [[1, 3]] * 2
    assert all(set(lengths) == {3} for lengths, _ in drawn)


def test_test_games_that_never_end(capsys):
    code, out, err = run(capsys, *NEW, "--evaluation.max-steps", "7", length=10**9)
    assert (code, err) == (0, "")
    assert out.count(f"{ENV_ID}: 2 of 2 games had not ended after 7 steps and were cut short.") == 2
    assert out.count(f"{ENV_ID}: 1 of 1 games had not ended after 7 steps and were cut short.") == 1
    code, out, err = run(capsys, "--run", "run", "--env-id", ENV_ID, "--episodes", "3", main=evaluate.main)
    assert (code, err) == (0, "")
    assert f"{ENV_ID}: 3 of 3 games had not ended after 7 steps" in out


def test_evaluate_names_the_environment(capsys):
    faulty_env.mended.add("error in step")
    assert run(capsys, *NEW, fault="error in step", at=5)[0] == 0
    faulty_env.mended.clear()
    code, _, err = run(capsys, "--run", "run", "--env-id", ENV_ID, main=evaluate.main)
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(f"the environment {ENV_ID} failed in step: KeyError")
    assert "--episodes 0 --held-out PATH" in err


def test_arguments_of_an_environment_can_import_code_as_its_id_can(capsys, tmp_path):
    """Some registered environments take another one's id: in a stranger's folder that is refused, too."""
    kwargs = json.dumps({"inner": ["evil:Env-v0"]})
    RunFolder.create(tmp_path / "run", replace(CONFIG, env_id="diamond_fast/Catch-v0", env_kwargs=kwargs))
    code, _, err = run(capsys, "--resume", "run")
    assert (code, err.count("\n")) == (2, 1)
    assert "would import code" in err
    with pytest.raises(ValueError, match="would import code"):
        RunFolder(tmp_path / "run").read_config()
    assert RunFolder(tmp_path / "run").read_config("diamond_fast/Catch-v0").env_arguments == json.loads(kwargs)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--env-id", "ALE/Boxing-v5"), "ALE/Boxing-v5: Atari games are played as in the paper, with --game Boxing"),
        (("--env-id", "PongNoFrameskip-v4"), "with --game Pong"),
        (("--env-id", "Pong-v4"), "--env-id Pong-v4: Atari games are played as in the paper, with --game Pong"),
        (("--env-id", ENV_ID, "--env-kwargs", "[1]"), "--env-kwargs: must be a JSON object, for instance"),
        (("--env-id", ENV_ID, "--env-kwargs", "{"), "--env-kwargs: must be a JSON object, for instance"),
        (("--env-id", ENV_ID, "--env-kwargs", '{"fautl": 1}'), "unexpected keyword argument 'fautl'"),
        (("--game", "Boxing", "--env-kwargs", "{}"), "--env-kwargs: has no use without --env-id"),
        (("--game", "Boxing", "--num-actions", "4"), "--num-actions: is only for a --static-dataset without --game or"),
        (("--env-id", "diamond_fast/Catch-v0", "--env-timeout", "0"), "--env-timeout: must be above 0, got 0"),
    ],
)
def test_one_line_says_what_is_wrong(capsys, flags, line):
    code, _, err = run(capsys, "--preset", "quick", *flags)
    assert (code, err.count("\n")) == (2, 1)
    assert line in err
