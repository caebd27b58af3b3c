"""Studies of world models that are trained already: single steps against many, and what quality costs."""

import json
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from crashes.tiny_run import TINY
from test_drift import make_recording

from diamond_fast import study
from diamond_fast.presets import PRESETS
from diamond_fast.runs import checkpoint
from diamond_fast.runs.folder import RunFolder
from diamond_fast.runs.signals import StopSignals
from diamond_fast.studies import nfe, side_by_side, steps
from diamond_fast.world_model import Agent

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A recording and two world models of it, in the form of a study of drift."""
    folder = tmp_path_factory.mktemp("studies")
    data = make_recording(folder / "a.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", replace(TINY, precision="fp32"))
        for name in ("save_gif", "save_frame_grid", "save_learning_curves"):
            patch.setattr(f"diamond_fast.training.evaluator.{name}", lambda path, *args: path)
        for name in ("edm", "ddpm"):
            cfg = side_by_side.run_config("tiny", name, 0, 1, (data, data), "readable")
            (folder / "runs").mkdir(exist_ok=True)
            side_by_side.train(cfg, folder / "runs" / name, CPU, StopSignals())
    return folder


@pytest.fixture(autouse=True)
def _there(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(
        "diamond_fast.evaluation.sampling_rate.timed", lambda call, seconds, at_least: [call_once(call)]
    )


def call_once(call):
    call()
    return type("Timing", (), {"wall": 0.5})


def test_what_quality_costs(tmp_path, capsys):
    out = tmp_path / "nfe"
    flags = f"nfe --data a.npz --runs . --denoising-steps 1 2 --horizon 3 --trajectories 2 --device cpu --out {out}"
    study.main(flags.split())
    assert "measurement 6/6" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    found = [(m["run"], m["sampler"], m["denoising_steps"], m["evaluations"]) for m in results["measured"]]
    assert found == [
        ("ddpm", "ddpm", 1, 1),
        ("ddpm", "ddpm", 2, 2),
        ("edm", "edm, Euler", 1, 1),
        ("edm", "edm, Heun", 1, 1),
        ("edm", "edm, Euler", 2, 2),
        ("edm", "edm, Heun", 2, 3),
    ]
    assert all(m["seconds_per_frame"] == 0.25 for m in results["measured"])  # a batch of 2 took half a second
    assert 'src="data:image/png;base64,' in (out / "index.html").read_text()
    (out / "measured" / "edm-edm-Heun-2steps.json").unlink()
    before = results["points"]
    study.main(flags.split())
    assert "measurement 1/1" in capsys.readouterr().out
    assert json.loads((out / "results.json").read_text())["points"] == before


def test_the_front_is_what_nothing_beats():
    def measured(sampler, n, evaluations, *errors):
        base = {"sampler": sampler, "denoising_steps": n, "evaluations": evaluations, "seconds_per_frame": 0.1 * n}
        return [{**base, "error": error} for error in errors]

    points = nfe.summary(
        [
            *measured("a", 1, 1, 9.0, 11.0),
            *measured("a", 2, 2, 8.0, 8.0),
            *measured("b", 1, 1, 12.0, 12.0),
            *measured("b", 2, 3, 8.0, 8.0),  # as good as a with 2, but dearer
            *measured("b", 4, 7, 2.0, 4.0),
        ]
    )
    assert [(p["sampler"], p["denoising_steps"], p["error"], p["on_front"]) for p in points] == [
        ("a", 1, 10.0, True),
        ("a", 2, 8.0, True),
        ("b", 1, 12.0, False),
        ("b", 2, 8.0, False),
        ("b", 4, 3.0, True),
    ]
    assert points[0]["ci95_over_runs"] == pytest.approx(12.7062 * statistics.stdev([9, 11]) / 2**0.5)


def test_single_steps_against_many(tmp_path, capsys):
    out = tmp_path / "steps"
    flags = f"steps --data a.npz --runs runs/edm runs/ddpm --denoising-steps 1 2 --samples 5 --batch-size 2 --out {out}"
    study.main([*flags.split(), "--at", "0", "5", "3", "4", "--region", "2", "0", "6", "12", "--device", "cpu"])
    assert "world model 2/2: ddpm" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert results["moments"] == [[0, 5], [3, 4]]
    assert [(m["run"], m["denoising_steps"], m["region"], m["pixels"]) for m in results["models"]] == [
        (run, n, region, pixels)
        for run in ("edm", "ddpm")
        for n in (1, 2)
        for region, pixels in (("unsure", 2 * 4 * 12), ("sure", 2 * 8 * 12))
    ]
    with np.load(out / "measured" / "ddpm.npz") as arrays:
        drawn = arrays["drawn"]
    assert drawn.shape == (2, 2, 5, 12, 12, 3)
    assert len({frame.tobytes() for frame in drawn[0, 0]}) == 5
    of_ddpm = next(m for m in results["models"] if (m["run"], m["denoising_steps"]) == ("ddpm", 2))
    spread = drawn[1, :, :, 2:6].astype(float).std(axis=1, ddof=1).mean()
    assert of_ddpm["spread"] == pytest.approx(spread)
    page = (out / "index.html").read_text()
    assert page.count("data:image/png") == 2


def test_figures_of_samples_against_plain_numbers():
    """Two worlds of one pixel: many steps take sides, 0 or 100; one step draws their mean."""
    many = np.array([0, 0, 100, 100], np.uint8).reshape(1, 1, 4, 1, 1, 1)
    one = np.full_like(many, 50)
    both = np.concatenate([np.concatenate([one, many], 0), np.full((2, 1, 4, 1, 1, 1), 7, np.uint8)], axis=4)
    real, unsure = np.array([[[[100], [7]]]], np.uint8), np.array([[[True, False]]])
    found = steps.summary(both, real, unsure, (1, 10))
    assert [(f["denoising_steps"], f["region"], f["pixels"]) for f in found] == [
        (1, "unsure", 1),
        (1, "sure", 1),
        (10, "unsure", 1),
        (10, "sure", 1),
    ]
    blurred, certain, sided, also_certain = found
    assert (blurred["spread"], blurred["to_mean"], blurred["to_real"], blurred["mean_to_real"]) == (0, 0, 50, 50)
    assert sided["spread"] == pytest.approx(statistics.stdev([0, 0, 100, 100]))
    assert (sided["to_mean"], sided["to_real"], sided["mean_to_real"]) == (50, 50, 50)
    for figures in (certain, also_certain):
        assert [figures[key] for key in ("spread", "to_mean", "to_real", "mean_to_real")] == [0, 0, 0, 0]
    assert steps.summary(both, real, unsure | True, (1, 10))[1]["spread"] is None


def test_a_world_model_with_a_memory_is_refused(folder, tmp_path, capsys):
    cfg = replace(TINY, memory="gru", memory_model=replace(TINY.memory_model, channels=(4,), down=(1,), width=6))
    agent = Agent(cfg, 3)
    tensors = {name: model.state_dict() for name, model in agent.named_children()}
    action = {"action": agent.spec.action.to_json()}
    checkpoint.save(RunFolder.create(tmp_path / "remembers", cfg).checkpoints, 0, tensors, action)
    with pytest.raises(SystemExit) as stop:
        study.main(f"nfe --data a.npz --runs {tmp_path / 'remembers'}".split())
    assert stop.value.code == 2
    assert "--runs: remembers has a memory (--memory), which no study carries along" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("nfe --data a.npz", "--runs: is needed: folders of runs, or of a study of drift"),
        ("nfe --data a.npz --runs nowhere", "nowhere: no such folder"),
        ("nfe --data a.npz --runs runs/edm runs/edm", "--runs: two of them have the same name"),
        ("nfe --data a.npz --runs . --horizon 50", "with 4 of context: at most 7"),
        ("nfe --data a.npz --runs . --denoising-steps 1001", "--denoising-steps: must be at most 1000"),
        ("steps --data a.npz --runs . --at 1", "--at: needs pairs of episode and step, got 1 numbers"),
        ("steps --data a.npz --runs . --at 9 5", "--at: 9: there are 5 episodes, from 0"),
        ("steps --data a.npz --runs . --at 0 3", "--at: 0 3: the step must be from 4 to 11"),
        ("steps --data a.npz --runs . --region 5 0 5 9", "--region: needs top, left, bottom and right"),
        ("steps --data a.npz --runs . --region 0 0 13 9", "--region: must lie within frames of 12 x 12 pixels"),
        ("steps --data a.npz --runs . --samples 1", "--samples: must be at least 2, got 1"),
    ],
)
def test_bad_input_is_one_line(capsys, flags, line):
    with pytest.raises(SystemExit) as stop:
        study.main(flags.split())
    err = capsys.readouterr().err
    assert (stop.value.code, err.count("\n")) == (2, 1)
    assert line in err
