"""Folders that older versions left are read: resumed, played in, evaluated and reported.

``fixtures/run_1883d4c`` was made by that commit: 5 epochs of Catch on tiny networks, stopped by SIGTERM in the third,
after its denoiser updates. Its older generations and its pictures were taken out.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diamond_fast import train
from diamond_fast.engine.choose import choose_path
from diamond_fast.playing.source import load_source
from diamond_fast.reporting.own_runs import read_run
from diamond_fast.runs import checkpoint
from diamond_fast.runs.agents import load_agent
from diamond_fast.runs.metrics import read_metrics
from diamond_fast.training.conditions import conditions

STORED = Path(__file__).parent / "fixtures" / "run_1883d4c"


@pytest.fixture
def run(tmp_path):
    return Path(shutil.copytree(STORED, tmp_path / "run"))


def files_below(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "lock"}


def test_it_is_resumed_to_its_end(run, capsys, monkeypatch):
    """Its pictures/ is missing, too, and is made anew."""
    for draw in ("save_learning_curves", "save_gif"):  # slow
        monkeypatch.setattr(f"diamond_fast.training.evaluator.{draw}", lambda path, _: path.touch())
    before, episodes = read_metrics(run / "metrics.jsonl"), load_source(load_agent(run), torch.device("cpu"))
    train.main(["--resume", str(run), "--device", "cpu"])
    said = capsys.readouterr().out
    assert "epoch 5/5" in said
    assert "bit for bit" not in said  # that commit did not record what it ran on
    lines = read_metrics(run / "metrics.jsonl")
    assert lines[: len(before)] == before
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3, 4, 5, 5]
    saved = checkpoint.load_latest(run / "checkpoints", say=pytest.fail)
    assert (saved.epoch, saved.state["env_steps"]) == (5, 120)
    assert saved.state["conditions"]["threads"] == torch.get_num_threads()
    after = load_source(load_agent(run), torch.device("cpu")).replay
    for i in range(episodes.replay.num_episodes - 1):  # the last one was still being played
        assert (after.episode(i).obs == episodes.replay.episode(i).obs).all()
    assert {path.name for path in (run / "pictures").iterdir()} == {
        "epoch_000004.png", "imagined.gif", "learning_curves.png", "index.html", "version.js"
    }  # fmt: skip


PROGRAM = """
import sys
import numpy as np
from diamond_fast import train
from diamond_fast.evaluation.returns import Evaluation
from diamond_fast.training.trainer import Trainer

def run(self, stop):
    for _ in range(100):
        print("epoch", flush=True)
    self._save()
    return Evaluation(np.ones(2), np.ones(2))

Trainer.run = run
train.main(["--resume", sys.argv[1], "--device", "cpu"])
"""


def test_a_reader_that_leaves_does_not_end_it(run):
    read, write = os.pipe()
    os.close(read)
    program = [sys.executable, "-c", PROGRAM, str(run)]
    process = subprocess.Popen(program, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    said = process.communicate(timeout=300)[1]
    assert (said, process.returncode) == ("Standard output is closed; going on without it.\n", 0)
    assert (run / "checkpoints" / "epoch_000002").is_dir()  # saved once more, beside epoch_000002.2


@pytest.mark.parametrize("state", [None, [], {}, {"updates": 3}, {"updates": {"denoiser": None}}])
def test_a_state_that_is_not_that_of_a_run_is_one_line(run, capsys, state):
    path = run / "checkpoints" / "epoch_000002.json"
    path.write_bytes(checkpoint.sealed("manifest", {**checkpoint.unsealed("manifest", path), "state": state}))
    with pytest.raises(SystemExit) as stop:
        train.main(["--resume", str(run), "--device", "cpu"])
    assert stop.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "all checkpoints are damaged, the oldest: its state is not that of a run" in line


def test_it_is_played_evaluated_and_reported(run):
    trained = load_agent(run=run)
    assert (trained.epoch, trained.config.seed, trained.config.collection.num_steps_total) == (2, 7, 120)
    assert load_agent(file=run / "checkpoints" / "epoch_000002.json").epoch == 2
    source = load_source(load_agent(run), torch.device("cpu"))
    assert source.replay_name == "the run's experience"
    assert source.replay.num_steps == 120
    reported = read_run(run)
    assert (reported.epochs, reported.env_steps, reported.seed) == (2, 100, 7)
    assert len(reported.returns) == 1


def test_without_its_manifests_it_is_refused_and_left_as_it_is(run, capsys):
    (run / "checkpoints" / "epoch_000002.json").unlink()
    before = files_below(run)
    with pytest.raises(SystemExit) as stop:
        train.main(["--resume", str(run), "--device", "cpu"])
    assert stop.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{run}: the manifests of its checkpoints (checkpoints/epoch_*.json) are missing, but there")
    assert files_below(run) == before


def test_a_checkpoint_of_a_newer_version_is_refused_and_left_as_it_is(run, capsys):
    path = run / "checkpoints" / "epoch_000002.json"
    manifest = checkpoint.unsealed("manifest", path)
    path.write_bytes(checkpoint.sealed("manifest", {**manifest, "format": 2}))
    before = files_below(run)
    with pytest.raises(SystemExit) as stop:
        train.main(["--resume", str(run), "--device", "cpu"])
    assert stop.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path}: has format 2, this version reads 1")
    assert files_below(run) == before


def test_without_its_experience_it_is_refused(run, capsys):
    (run / "replay" / "journal").unlink()
    with pytest.raises(SystemExit) as stop:
        train.main(["--resume", str(run), "--device", "cpu"])
    assert stop.value.code == 2
    assert f"{run}/replay/journal is missing" in capsys.readouterr().err
    assert not (run / "replay" / "journal").exists()


def test_other_threads_and_another_path_are_told_in_one_line(run, capsys, monkeypatch):
    path = run / "checkpoints" / "epoch_000002.json"
    manifest = checkpoint.unsealed("manifest", path)
    now = {"device": "cpu", "path": "older", "torch": torch.__version__}
    manifest["state"]["conditions"] = {**now, "threads": torch.get_num_threads() + 3, "kernel": "other"}
    path.write_bytes(checkpoint.sealed("manifest", manifest))
    monkeypatch.setattr("diamond_fast.training.trainer.Trainer.run", lambda self, stop: pytest.skip("not needed"))
    with pytest.raises(pytest.skip.Exception):
        train.main(["--resume", str(run), "--device", "cpu"])
    [line] = [line for line in capsys.readouterr().out.splitlines() if "bit for bit" in line]
    threads = torch.get_num_threads()
    path_now = conditions(choose_path(torch.device("cpu")))["path"]
    changed = f"threads {threads + 3}, now {threads}; path older, now {path_now}"
    assert line == f"Saved with {changed}: the run goes on, but not bit for bit as it would have."


def test_the_fixture_is_small_and_has_no_format():
    assert sum(path.stat().st_size for path in STORED.rglob("*") if path.is_file()) < 300_000
    assert "format" not in json.loads((STORED / "config.json").read_text())


def as_the_first_version_saved_it(state):
    """Between epochs, with the keys that c698a18 wrote."""
    for key in ("figures", "conditions"):
        state.pop(key, None)
    for update in state["updates"].values():
        for key in ("done", "num_skipped", "totals"):
            del update[key]
        if "env" in update["objective"]:
            env = update["objective"]["env"]
            update["objective"]["env"] = {"state": env["state"], "contexts": env["initial_states"]["contexts"]}
    return state


def test_states_of_the_first_version_are_resumed(run, monkeypatch):
    path = run / "checkpoints" / "epoch_000002.json"
    manifest = checkpoint.unsealed("manifest", path)
    manifest["state"] = as_the_first_version_saved_it(manifest["state"])
    path.write_bytes(checkpoint.sealed("manifest", manifest))
    found = []

    def look(self, stop):
        found.extend((self.epoch, self.figures, *(update.done for update in self.updates.values())))
        pytest.skip("not needed")

    monkeypatch.setattr("diamond_fast.training.trainer.Trainer.run", look)
    with pytest.raises(pytest.skip.Exception):
        train.main(["--resume", str(run), "--device", "cpu"])
    assert found == [2, {}, 0, 0, 0]
