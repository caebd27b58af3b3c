"""``evaluate --table8``: the row is what the functions behind it give; what cannot be measured is refused at once."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from refusals import one_line_refusal
from small_world import SMALL_WORLD, make_replay

from diamond_fast import evaluate
from diamond_fast.evaluation.frechet import frechet_distance
from diamond_fast.evaluation.table8 import PUBLISHED, told
from diamond_fast.evaluation.videos import colours
from diamond_fast.replay.formats import write_npz
from diamond_fast.runs import checkpoint
from diamond_fast.runs.folder import RunFolder
from diamond_fast.world_model import Agent


def make_run(path, cfg, num_actions):
    torch.manual_seed(1)
    agent = Agent(cfg, num_actions)
    torch.nn.init.normal_(agent.denoiser.inner_model.conv_out.weight, std=0.3)
    folder = RunFolder.create(path, cfg)
    checkpoint.save(folder.checkpoints, 7, {name: m.state_dict() for name, m in agent.named_children()}, {})
    return agent


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    agent = make_run(tmp_path / "run", SMALL_WORLD, 4)
    make_run(tmp_path / "game", replace(SMALL_WORLD, env_id="diamond_fast/Catch-v0", frame_size=24), 3)
    write_npz(make_replay([60, 60]), tmp_path / "held_out.npz")
    return agent


def test_a_row_is_measured_and_told(run, tmp_path, capsys, monkeypatch):
    kept = {}
    monkeypatch.setattr("diamond_fast.evaluation.measure.measure_row", keeping(kept))
    flags = "--table8 --videos 66 --horizon 3 --denoising-steps 1 --batch-size 33 --engine readable --device cpu"
    evaluate.main(f"--run run --held-out held_out.npz {flags} --out x".split())
    row = json.loads((tmp_path / "x" / "evaluation.json").read_text())["world_model"]["table8"]["1"]
    predictions = kept["predictions"]
    assert predictions.real.shape == predictions.imagined.shape == (66, 3, 8, 8, 3)
    assert (row["videos"], row["frames"], row["fid"], row["fvd"], row["lpips"]) == (66, 3, None, None, None)
    assert row["parameters"] == sum(p.numel() for p in run.denoiser.parameters())
    real, imagined = (colours(torch.from_numpy(np.ascontiguousarray(x))) for x in predictions[1:])
    assert row["colour_frechet"] == pytest.approx(frechet_distance(real, imagined), rel=1e-6)
    assert row["frames_per_second"] > 0
    out = capsys.readouterr().out
    assert "Fréchet distances that are neither FVD nor FID, 1 step: random 3-D network" in out
    assert "published: DIAMOND, frame-s" in out


def keeping(kept):
    from diamond_fast.evaluation.table8 import measure_row

    def measure(agent, replay, cfg, path, predictions, *rest):
        kept["predictions"] = predictions
        return measure_row(agent, replay, cfg, path, predictions, *rest)

    return measure


def test_the_published_rows_are_the_papers():
    assert PUBLISHED["DIAMOND, frame-stack"] == (9.6, 34.8, 0.107, 7.4, 122)
    assert PUBLISHED["DIAMOND, cross-attention"] == (11.6, 81.4, 0.125, 2.5, 184)
    row = {"videos": 9, "frames": 16, "fid": 1.25, "fvd": None, "lpips": 0.5, "frames_per_second": 3.0}
    row |= {"parameters": 4_400_000, "random_network_frechet": 2.0, "colour_frechet": 1.0}
    lines = told({"20": row}, "CPU")
    assert lines[1].split() == ["this", "one,", "20", "steps", "1.2", "-", "0.500", "3.0", "4.4"]
    assert len({len(line) for line in lines[: 2 + len(PUBLISHED)]}) == 1


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ("--run game --table8", "--table8: needs a recording that the model was not trained on"),
        ("--run run --held-out held_out.npz --table8 --videos 64", "--videos: must be above 64"),
        ("--run run --held-out held_out.npz --table8", "--videos: --held-out has room for 80 of 20 frames and more"),
        ("--run run --held-out held_out.npz --fvd-weights x.pt", "--fvd-weights: has no use without --table8"),
        ("--run run --held-out held_out.npz --table8 --fvd-weights x.pt", "x.pt"),
    ],
)
def test_one_line_says_what_is_wrong(run, capsys, args, line):
    assert line in one_line_refusal(capsys, evaluate.main, [*args.split(), "--device", "cpu"])
