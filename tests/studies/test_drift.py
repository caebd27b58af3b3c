"""The study of drift: its numbers, its data, that it goes on where it was stopped, and what it refuses."""

import json
import math
import shutil
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from crashes.tiny_run import TINY

from diamond_fast import study
from diamond_fast.evaluation.intervals import t_quantile_975
from diamond_fast.frames import to_float, to_uint8
from diamond_fast.presets import PRESETS
from diamond_fast.replay import Replay, load_recording
from diamond_fast.replay.formats import write_npz
from diamond_fast.runs.agents import load_agent
from diamond_fast.studies.data import split
from diamond_fast.studies.drift_figures import summary
from diamond_fast.studies.trajectories import Trajectories
from diamond_fast.world_model import DiffusionSampler

FLAGS = (
    "drift --preset tiny --formulations edm ddpm --updates 3 --train-seeds 2 --denoising-steps 1 2 --horizon 3 "
    "--trajectories 2 --device cpu"
)


def make_recording(path, lengths=(12, 9, 12, 11, 12), size=12):
    """Random frames, in episodes of these lengths."""
    replay, rng = Replay((size, size, 3), capacity=100), np.random.default_rng(0)
    for length in lengths:
        for t in range(length):
            frames, end = rng.integers(0, 256, (2, 1, size, size, 3), np.uint8), np.array([t == length - 1])
            replay.append(frames[0], rng.integers(0, 3, 1), np.zeros(1, np.float32), end, ~end & False, frames[1])
    replay.commit()
    write_npz(replay, path)
    return path


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRESETS, "tiny", replace(TINY, precision="fp32"))
    monkeypatch.setattr("diamond_fast.training.evaluator.save_gif", lambda path, segments: path)
    monkeypatch.setattr("diamond_fast.training.evaluator.save_frame_grid", lambda path, segments, times: path)
    monkeypatch.setattr("diamond_fast.training.evaluator.save_learning_curves", lambda path, lines: path)
    return make_recording(tmp_path / "a.npz")


def test_a_study_is_gone_on_with_and_right(data, tmp_path, capsys):
    flags = [*FLAGS.split(), "--data", str(data)]
    study.main([*flags, "--out", "whole", "--train-seeds", "1"])
    results = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert (results["train_seeds"], len(results["models"][0]["over_horizon"]["by_train_seed"])) == (1, 1)
    capsys.readouterr()
    study.main([*flags, "--out", "whole"])  # more seeds than before
    said = capsys.readouterr().out
    assert "seed 0" not in said
    assert said.index("world model 3 of 4: edm, seed 1") < said.index("measurement 2/2: edm, seed 1, 2 steps")
    assert said.index("edm, seed 1, 2 steps") < said.index("world model 4 of 4: ddpm, seed 1")
    assert "measurement 2/2: ddpm, seed 1, 2 steps" in said
    assert len(list((tmp_path / "whole" / "runs" / "edm-seed0" / "checkpoints").glob("*.json"))) == 1

    shutil.copytree("whole", "stopped")  # as if one world model were not there yet, and one measurement of another
    shutil.rmtree("stopped/runs/ddpm-seed1")
    for name in ("ddpm-seed1-1steps", "ddpm-seed1-2steps", "edm-seed0-2steps"):
        (tmp_path / "stopped" / "measured" / f"{name}.npz").unlink()
    (tmp_path / "stopped" / "results.json").unlink()
    study.main([*flags, "--out", "stopped"])
    said = capsys.readouterr().out
    assert "world model 4 of 4: ddpm, seed 1" in said
    assert "ddpm, seed 0" not in said
    assert "measurement 1/1: edm, seed 0, 2 steps" in said
    assert "measurement 2/2: ddpm, seed 1, 2 steps" in said
    results = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert json.loads((tmp_path / "stopped" / "results.json").read_text()) == results
    assert [(m["formulation"], m["denoising_steps"]) for m in results["models"]] == [
        *(("edm", 1), ("edm", 2), ("ddpm", 1), ("ddpm", 2))
    ]
    page = (tmp_path / "whole" / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert 'src="http' not in page

    # one number, from its beginning
    held_out = load_recording(tmp_path / "whole" / "data" / "held_out.journal")
    episode = held_out.episode(0)
    trained = load_agent(tmp_path / "whole" / "runs" / "ddpm-seed1")
    seed = int(np.random.SeedSequence((0, 2)).generate_state(1)[0])
    generator = torch.Generator().manual_seed(seed)
    sampler = DiffusionSampler(trained.agent.denoiser, trained.config.world_model.with_denoising_steps(2).sampler)
    starts = [(12 - 7) * (2 * k + 1) // 4 for k in range(2)]
    frames = torch.stack([torch.from_numpy(episode.obs[s : s + 7].copy()) for s in starts])
    act = torch.stack([torch.from_numpy(episode.act[s : s + 7].copy()) for s in starts])
    seen, errors = to_float(frames[:, :4]), []
    for k in range(3):
        drawn, _ = sampler.sample(
            seen[:, k:], act[:, k : k + 4], lambda *s, device=None: torch.randn(*s, generator=generator)
        )
        seen = torch.cat((seen, drawn[:, None]), 1)
        errors.append((to_uint8(drawn).float() - frames[:, 4 + k].float()).abs().mean().item())
    measured = Trajectories.load(tmp_path / "whole" / "measured" / "ddpm-seed1-2steps.npz")
    assert measured.errors.mean(0).tolist() == pytest.approx(errors, rel=1e-3)
    assert results["models"][3]["over_horizon"]["by_train_seed"][1] == pytest.approx(statistics.fmean(errors), rel=1e-3)
    np.testing.assert_array_equal(load_agent(tmp_path / "whole" / "runs" / "edm-seed0").config.seed, 0)


def test_means_and_intervals_against_plain_python():
    rng = np.random.default_rng(0)
    errors = {(name, n): [rng.random((4, 5)) for _ in range(3)] for name in ("edm", "ddpm") for n in (1, 10)}
    result = summary(errors, np.ones((4, 5)))
    model = result["models"][3]
    assert (model["formulation"], model["denoising_steps"]) == ("ddpm", 10)
    of_seeds = errors["ddpm", 10]

    def half(values):
        return t_quantile_975(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))

    for k in range(5):
        at = [[float(e[s, k]) for s in range(4)] for e in of_seeds]
        assert model["mean"][k] == pytest.approx(statistics.fmean(map(statistics.fmean, at)))
        by_trajectory = [statistics.fmean(seed[s] for seed in at) for s in range(4)]
        assert model["ci95_over_trajectories"][k] == pytest.approx(half(by_trajectory))
        assert model["ci95_over_train_seeds"][k] == pytest.approx(half([statistics.fmean(seed) for seed in at]))
    (comparison,) = result["comparisons"]
    assert (comparison["less"], comparison["more"]) == (["edm", 1], ["ddpm", 10])
    differences = [float(a.mean() - b.mean()) for a, b in zip(errors["edm", 1], of_seeds, strict=True)]
    assert comparison["difference"] == pytest.approx(statistics.fmean(differences))
    assert comparison["ci95_over_train_seeds"] == pytest.approx(half(differences))
    assert result["unchanged"].tolist() == [1] * 5


@pytest.mark.parametrize(
    ("shift", "said"), [(0.0, "undecided"), (0.9, "ddpm with 10 is nearer"), (-0.9, "edm with 1 is nearer")]
)
def test_a_verdict_needs_the_interval(shift, said):
    rng = np.random.default_rng(1)
    errors = {(name, n): [5 + rng.random((4, 5)) for _ in range(3)] for name, n in (("edm", 1), ("ddpm", 10))}
    errors = {**errors, ("edm", 10): errors["edm", 1], ("ddpm", 1): errors["ddpm", 10]}
    errors["edm", 1] = [e + shift for e in errors["edm", 1]]
    assert said in summary(errors, np.ones((4, 5)))["remarks"][0]
    one_seed = {key: value[:1] for key, value in errors.items()}
    assert "one training seed: no interval" in summary(one_seed, np.ones((4, 5)))["remarks"][0]


def test_every_fifth_episode_is_held_out(tmp_path):
    lengths = (5, 6, 7, 8, 9, 10, 11)
    recording = load_recording(make_recording(tmp_path / "b.npz", lengths))
    training, held_out = split(tmp_path / "b.npz", None, tmp_path / "data")
    assert load_recording(training).lengths.tolist() == [5, 6, 7, 8, 10, 11]
    assert load_recording(held_out).lengths.tolist() == [9]
    np.testing.assert_array_equal(load_recording(held_out).episode(0).obs, recording.episode(4).obs)
    assert load_recording(held_out).action == load_recording(training).action
    given = tmp_path / "b.npz", make_recording(tmp_path / "a.npz")
    assert split(*given, tmp_path / "none") == given


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("", "--data: is needed: a recording, or the folder of a run"),
        ("--data nowhere.npz", "--data: there is nothing at nowhere.npz"),
        ("--data a.npz --formulations edm dppm", "--formulations dppm: unknown; did you mean ddpm?"),
        ("--data a.npz --formulations edm edm", "--formulations edm edm: one is named twice"),
        ("--data a.npz --preset quik", "--preset quik: unknown; did you mean quick?"),
        ("--data a.npz --denoising-steps 0", "--denoising-steps: must be at least 1, got 0"),
        (
            "--data a.npz --denoising-steps 1 1001",
            "--denoising-steps: must be at most 1000 with this formulation, got 1001",
        ),
        (
            "--data a.npz --horizon 1000",
            "--horizon 1000: the longest held-out episode has 12 steps, with 4 of context: at most 7",
        ),
    ],
)
def test_bad_input_is_one_line(data, capsys, flags, line):
    with pytest.raises(SystemExit) as stop:
        study.main(["drift", "--preset", "tiny", *flags.split()])
    assert (stop.value.code, capsys.readouterr().err) == (2, line + "\n")
    assert not (data.parent / "studies" / "drift").exists()


def test_the_longest_horizon_that_is_named_works(tmp_path):
    from diamond_fast.studies.data import starts_of

    replay = load_recording(make_recording(tmp_path / "b.npz"))
    assert starts_of(replay, 4, 7, 3)
    with pytest.raises(ValueError, match="at most 7"):
        starts_of(replay, 4, 8, 3)


def test_another_study_in_the_folder_is_named(data, capsys):
    flags = [*FLAGS.split(), "--data", "a.npz", "--out", "s", "--formulations", "edm", "--train-seeds", "1"]
    study.main(flags)
    with pytest.raises(SystemExit) as stop:
        study.main([*flags, "--updates", "4"])
    assert stop.value.code == 2
    assert "--out s: holds a study with --updates 3, not 4" in capsys.readouterr().err


def test_a_seed_that_is_done_has_a_page_while_others_are_trained(data, tmp_path, monkeypatch):
    from diamond_fast.studies import side_by_side

    train = side_by_side.train

    def breaks(cfg, *more):
        if cfg.seed == 1:
            raise OSError("the disk is full")
        train(cfg, *more)

    monkeypatch.setattr(side_by_side, "train", breaks)
    with pytest.raises(SystemExit):
        study.main([*FLAGS.split(), "--data", "a.npz", "--out", "s", "--formulations", "edm"])
    assert "Not finished: 1 of 2 training seeds so far." in (tmp_path / "s" / "index.html").read_text()


def test_what_goes_wrong_inside_is_one_line_and_nothing_is_lost(data, tmp_path, monkeypatch, capsys):
    from diamond_fast.studies import side_by_side

    flags = [*FLAGS.split(), "--data", "a.npz", "--out", "s", "--formulations", "edm", "--horizon", "2"]
    train, trained = side_by_side.train, []

    def breaks(cfg, path, *more):
        if trained:
            raise ValueError("a bug")
        trained.append(path)
        train(cfg, path, *more)

    monkeypatch.setattr(side_by_side, "train", breaks)
    with pytest.raises(SystemExit) as stop:
        study.main(flags)
    said = capsys.readouterr().err.splitlines()[-1]
    assert (stop.value.code, said.partition(";")[0]) == (1, "ValueError: a bug")
    assert 'raise ValueError("a bug")' in (tmp_path / "s" / "error.txt").read_text()

    monkeypatch.setattr(side_by_side, "train", train)
    (tmp_path / "s" / "measured" / "edm-seed0-1steps.npz").unlink()
    config = tmp_path / "s" / "runs" / "edm-seed0" / "config.json"
    good = config.read_bytes()
    config.write_text("{}")
    with pytest.raises(SystemExit) as stop:
        study.main(flags)
    assert stop.value.code == 2
    assert "edm-seed0" in capsys.readouterr().err.splitlines()[-1]

    config.write_bytes(good)
    study.main(flags)
    assert (tmp_path / "s" / "results.json").exists()


def test_studies_are_listed_and_an_unknown_one_is_named(capsys):
    study.main(["--help"])
    assert "drift" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        study.main(["dirft"])
    assert capsys.readouterr().err == "study dirft: unknown; did you mean drift?\n"
