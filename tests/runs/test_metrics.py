"""metrics.jsonl: one strict JSON object per line, nothing twice after a resume."""

import json
import math
import sys
from contextlib import closing

import numpy as np
import pytest
import torch

from diamond_fast.runs.metrics import Metrics, classification, open_dashboard, plain, read_metrics


def parse(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_lines_are_flat_strict_json_and_visible_at_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with closing(Metrics(path)) as metrics:
        values = {
            "denoiser": {"loss": torch.tensor(0.5), "grad_norm": float("inf")},
            "returns": np.array([1.0, np.nan]),
        }
        metrics.log(values, epoch=1, env_steps=100)
        [line] = parse(path)  # before the file is closed
    seconds = line.pop("seconds")
    assert 0 <= seconds < 10
    assert line == {
        "epoch": 1,
        "env_steps": 100,
        "denoiser/loss": 0.5,
        "denoiser/grad_norm": None,
        "returns": [1.0, None],
    }


def test_resuming_drops_later_epochs_and_a_line_cut_short(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with closing(Metrics(path)) as metrics:
        for epoch in (1, 2, 3):
            metrics.log({"try": 1}, epoch=epoch, env_steps=100 * epoch)
    kept_text = "".join(path.read_text().splitlines(keepends=True)[:2])
    with open(path, "a") as file:
        file.write('{"epoch": 4, "env_st')
    with closing(Metrics(path, keep_epochs=2)) as metrics:
        assert path.read_text() == kept_text
        metrics.log({"try": 2}, epoch=3, env_steps=300)
    lines = read_metrics(path)
    assert [(line["epoch"], line["try"]) for line in lines] == [(1, 1), (2, 1), (3, 2)]


@pytest.mark.parametrize(
    "damaged",
    ["{", '{"epoch": 2', "[]", "[" * 5000, '{"epoch": "2", "env_steps": 1, "seconds": 1}', "", "\x00" * 9]
    + [f'{{"epoch": {n}, "env_steps": 1, "seconds": 1}}' for n in ("1e999", "NaN", "1" + "0" * 5000, "null", "-1")],
)  # fmt: skip
def test_a_damaged_line_costs_that_line_alone(tmp_path, capsys, damaged):
    path = tmp_path / "metrics.jsonl"
    good = [f'{{"epoch": {epoch}, "env_steps": 5, "seconds": {epoch}.5}}' for epoch in (1, 2, 3)]
    path.write_text("\n".join([good[0], damaged, *good[1:]]) + "\n")
    assert [line["epoch"] for line in read_metrics(path)] == [1, 2, 3]
    with closing(Metrics(path, keep_epochs=2)) as metrics:
        assert path.read_text().splitlines() == good[:2]
        metrics.log({}, epoch=3, env_steps=6)
    assert read_metrics(path)[2]["seconds"] >= 2.5
    assert capsys.readouterr().out == f"{path}: left out what is damaged, line 2\n"


def test_a_figure_that_json_does_not_know_is_none(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1, "env_steps": 5, "seconds": 1.0, "loss": NaN, "returns": [1e999, 2]}\n')
    with closing(Metrics(path, keep_epochs=1)):
        [line] = parse(path)
    assert (line["loss"], line["returns"]) == (None, [None, 2])
    assert capsys.readouterr().out == ""


def test_seconds_go_on_where_the_run_stopped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1, "env_steps": 5, "seconds": 1000.0}\n')
    with closing(Metrics(path, keep_epochs=1)) as metrics:
        metrics.log({}, epoch=2, env_steps=6)
    assert 1000.0 <= read_metrics(path)[1]["seconds"] < 1010.0


def test_a_fresh_run_starts_from_nothing(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 0, "env_steps": 5, "seconds": 1.0}\n')
    Metrics(path).close()
    assert path.read_text() == ""


def test_whatever_is_nested_becomes_plain():
    nested = {"a": {"b": (np.float64("nan"), torch.ones(2)), "c": np.arange(3)}, "d": [math.inf, None, "x"]}
    assert plain(nested) == {"a": {"b": [None, [1.0, 1.0]], "c": [0, 1, 2]}, "d": [None, None, "x"]}


def test_classification_against_counting_by_hand():
    confusion = np.array([[5, 1, 0], [2, 3, 0], [0, 0, 0]])  # true x predicted
    scores = classification(confusion, ["negative", "zero", "positive"])
    assert scores["precision/negative"] == pytest.approx(5 / 7)
    assert scores["recall/negative"] == pytest.approx(5 / 6)
    assert scores["f1/negative"] == pytest.approx(2 * (5 / 7) * (5 / 6) / (5 / 7 + 5 / 6))
    assert scores["precision/zero"] == pytest.approx(3 / 4)
    assert scores["recall/zero"] == pytest.approx(3 / 5)
    assert [scores[f"{kind}/positive"] for kind in ("precision", "recall", "f1")] == [None] * 3


def test_a_class_that_occurs_but_is_never_predicted():
    scores = classification(np.array([[4, 0], [2, 0]]), ["on", "end"])
    assert (scores["precision/end"], scores["recall/end"], scores["f1/end"]) == (None, 0.0, 0.0)


@pytest.mark.parametrize("shape", [(2, 3), (3, 3), (4,)])
def test_a_matrix_that_does_not_fit_is_refused(shape):
    with pytest.raises(ValueError, match="does not fit 2 names"):
        classification(np.zeros(shape), ["a", "b"])


@pytest.mark.parametrize("logger", ["tensorboard", "wandb"])
def test_a_missing_dashboard_names_the_extra(tmp_path, monkeypatch, logger):
    monkeypatch.setattr("diamond_fast.runs.metrics.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"^--logger {logger}: {logger} is not installed; pip install") as caught:
        Metrics(tmp_path / "metrics.jsonl", logger=logger)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "metrics.jsonl").exists()


class FakeRun:
    def __init__(self, **settings):
        self.settings, self.logged, self.finished = settings, [], False

    def define_metric(self, name, step_metric):
        self.step_metric = step_metric

    def log(self, scalars):
        self.logged.append(scalars)

    def finish(self):
        self.finished = True


def test_wandb_gets_every_scalar_and_the_same_run_after_a_resume(tmp_path, monkeypatch):
    runs = []

    class FakeWandB:
        @staticmethod
        def init(**settings):
            runs.append(FakeRun(**settings))
            return runs[-1]

    monkeypatch.setitem(sys.modules, "wandb", FakeWandB)
    monkeypatch.setattr("diamond_fast.runs.metrics.find_spec", lambda name: True)
    path = tmp_path / "Boxing-seed0" / "metrics.jsonl"
    path.parent.mkdir()
    for keep in (-1, 1):
        with closing(Metrics(path, keep_epochs=keep, logger="wandb", settings={"seed": 0})) as metrics:
            metrics.log({"loss": 0.5, "note": "text", "nan": math.nan}, epoch=2, env_steps=7)
    assert [run.settings["id"] for run in runs] == ["Boxing-seed0"] * 2
    assert runs[0].settings["config"] == {"seed": 0}
    [scalars] = runs[1].logged
    assert scalars == {"epoch": 2, "env_steps": 7, "seconds": scalars["seconds"], "loss": 0.5}
    assert runs[1].finished
    assert runs[1].step_metric == "epoch"


def test_tensorboard_holds_the_figures(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with closing(Metrics(tmp_path / "metrics.jsonl", logger="tensorboard")) as metrics:
        metrics.log({"denoiser": {"loss": 0.25}}, epoch=3, env_steps=7)
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    [event] = events.Scalars("denoiser/loss")
    assert (event.step, event.value) == (3, 0.25)


def test_no_dashboard_by_default(tmp_path):
    assert open_dashboard("none", tmp_path, -1, {}) is None
