"""The study of students: what it trains and measures, and what it says of hand-made figures."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from crashes.tiny_run import TINY
from interrupted_runs import go_on
from test_drift import make_recording

from diamond_fast import study
from diamond_fast.config import SamplerConfig, of_kind
from diamond_fast.runs.agents import load_agent
from diamond_fast.studies import student_measures
from diamond_fast.studies.student import Student, set_up
from diamond_fast.studies.student_measures import figures_of, over_runs

HEUN = replace(TINY.world_model, sampler=SamplerConfig(order=2))


def test_a_run_is_distilled_and_held_beside_its_teacher(tmp_path, monkeypatch, capsys):
    for name in ("save_gif", "save_frame_grid", "save_learning_curves"):
        monkeypatch.setattr(f"diamond_fast.training.evaluator.{name}", lambda path, *args: path)
    monkeypatch.chdir(tmp_path)
    cfg = replace(
        TINY,
        precision="fp32",
        engine="readable",
        num_final_epochs=1,
        collection=replace(TINY.collection, num_steps_total=60),
        world_model=replace(TINY.world_model, sampler=SamplerConfig(num_steps=2)),
    )
    go_on(cfg, tmp_path / "run")
    before = load_agent(tmp_path / "run").agent.denoiser.state_dict()
    data = make_recording(tmp_path / "a.npz")
    flags = (
        f"student --data {data} --runs run --denoising-steps 1 2 --updates 2 --horizon 3 --trajectories 2 --samples 3"
    )
    flags = [
        *flags.split(),
        *["--moments", "2", "--device", "cpu", "--engine", "readable", "--reader", "run", "--out", "out"],
        *["--metrics", "pseudo-huber", "squared", "consistency"],
    ]
    study.main(flags)
    assert "measurement 5/5: run: student, consistency" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    ways = ["teacher, n = 1", "teacher, n = 2", "student, pseudo-huber", "student, squared"]
    ways.append("student, consistency")
    assert list(results["by_run"]["run"]) == ways
    figures = results["by_run"]["run"]
    assert figures["teacher, n = 2"]["to_teacher"] == 0
    assert all(figures[way]["to_teacher"] > 0 for way in ways if way != "teacher, n = 2")
    with np.load(tmp_path / "out" / "measured" / "run-student-squared.npz") as arrays:
        assert arrays["errors"].shape == (2, 3)
        assert arrays["samples"].shape == (2, 3, 12, 12, 3)
        assert arrays["rewards"].sum() == arrays["ends"].sum() == 2 * 3
    assert all(torch.equal(p, before[k]) for k, p in load_agent(tmp_path / "run").agent.denoiser.state_dict().items())
    (tmp_path / "out" / "measured" / "run-teacher-n1.npz").unlink()
    monkeypatch.setattr(student_measures, "distil", None)  # what is there is not trained again
    study.main(flags)
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results
    assert {"drift.png", "moments.png", "index.html"} <= {p.name for p in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--denoising-steps 1", "--denoising-steps: needs one above 1"),
        ("--metrics cubed", "--metrics cubed: unknown; known: pseudo-huber, squared, consistency"),
        ("--samples 1", "--samples: must be at least 2, got 1"),
        ("--at 0 5 1", "--at: needs pairs of episode and step, got 3 numbers"),
    ],
)
def test_what_cannot_be_is_refused(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        study.main(f"student --data a.npz --runs run {flags}".split())
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("config", [of_kind(TINY, "flow", "unet"), replace(TINY, world_model=HEUN)])
def test_consistency_needs_edms_steps_of_order_1(config, monkeypatch):
    monkeypatch.setattr(
        "diamond_fast.studies.trained.load_all", lambda args: ({"a": SimpleNamespace(config=config)}, None)
    )
    with pytest.raises(ValueError, match=r"^--metrics: consistency is for EDM's steps of order 1, and a has others"):
        set_up(Student(runs=(Path("a"),), metrics=("consistency",)), Path("out"))


def test_figures_by_hand():
    """One pixel is unsure: the teacher draws it black or white, one student its mean, another one takes sides."""
    real = np.zeros((1, 1, 2, 3), np.uint8)

    def samples(*values):
        drawn = np.full((1, len(values), 1, 2, 3), 50, np.uint8)
        drawn[0, :, 0, 0] = np.array(values)[:, None]
        return drawn

    errors, rewards = np.array([[1.0, 3.0], [2.0, 6.0]]), np.array([[2, 1, 0], [0, 5, 1], [1, 0, 3]])
    measured = {
        "teacher": {"samples": samples(0, 200, 0, 200), "errors": errors},
        "mean": {"samples": samples(100, 100, 100, 100), "errors": errors},
        "sides": {"samples": samples(0, 200, 200, 0), "errors": 2 * errors, "rewards": rewards, "ends": np.eye(2)},
    }
    found = figures_of(measured, real, "teacher")
    deviation = (4 * 100**2 / 3) ** 0.5
    assert [found[way]["spread"] for way in measured] == pytest.approx([deviation, 0.0, deviation])
    assert [found[way]["spread_sure"] for way in measured] == [0, 0, 0]
    assert [found[way]["to_teacher"] for way in measured] == [0, 50, 50]  # over both pixels
    assert [found[way]["first_error"] for way in measured] == [75, 75, 75]
    assert [(found[way]["error"], found[way]["last_error"]) for way in measured] == [(3, 4.5), (3, 4.5), (6, 9)]
    assert found["mean"]["reward_precision"] is None
    assert found["sides"]["reward_precision"] == 5 / 7  # said: 3 of -1, 4 of 1; right: 2 and 3
    assert found["sides"]["reward_recall"] == 5 / 7  # there: 3 of -1, 4 of 1
    assert (found["sides"]["end_precision"], found["sides"]["end_recall"]) == (1, 1)
    rows = over_runs({"a": found, "b": found}, list(measured))
    assert rows["sides"]["error"] == (6, 0)
    assert rows["mean"]["reward_recall"] is None
