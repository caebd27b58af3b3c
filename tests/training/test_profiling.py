"""The profile of a small run: what it measures, and what it leaves behind."""

import gzip
import json
import time

import pytest
import torch
from test_trainer import TINY

from diamond_fast.config_checks import checked
from diamond_fast.runs.folder import RunFolder
from diamond_fast.train import main
from diamond_fast.training import profiling
from diamond_fast.training.profiling import Phase, as_table, profile_run
from diamond_fast.training.trainer import Trainer

NAMES = ["collect", "denoiser", "reward_end", "actor_critic", "evaluate", "save"]


def test_every_phase_is_measured_and_recorded(tmp_path, monkeypatch):
    """With half a second added to what prepares the policy's batch, and to nothing else."""
    monkeypatch.setattr(profiling, "ENOUGH_SECONDS", 0.0)
    monkeypatch.setattr(profiling, "STEPS_FIRST", 200)
    cfg = checked(TINY)
    trainer = Trainer(cfg, RunFolder.create(tmp_path / "run", cfg), torch.device("cpu"))
    objective = trainer.updates["actor_critic"].objective
    draw = objective.draw

    def slow_draw():
        time.sleep(0.5)
        return draw()

    objective.draw = slow_draw
    try:
        phases = profile_run(trainer, tmp_path / "out" / "trace.json.gz", say=lambda text: None)
    finally:
        trainer.close()
    assert [p.name for p in phases] == NAMES
    policy = phases[3]
    assert policy.seconds > 0.5
    assert 0.5 / policy.seconds < policy.preparing < 1
    assert [p.preparing is None for p in phases] == [True, False, False, False, True, True]
    assert [p.per_epoch for p in phases] == [1.0, 2, 2, 2, 1.0, 1.0]

    with gzip.open(tmp_path / "out" / "trace.json.gz") as f:
        events = json.load(f)["traceEvents"]
    count = {name: sum(e.get("name") == f"diamond: {name}" and e.get("ph") == "X" for e in events) for name in NAMES}
    assert count == {"collect": 1, "denoiser": 2, "reward_end": 2, "actor_critic": 2, "evaluate": 0, "save": 1}
    assert sum(e.get("name") == "aten::convolution" for e in events) > 20


def test_table():
    phases = [
        Phase("collect", "50 steps", 0.5, None, 2.0, None),
        Phase("actor_critic", "update", 0.03, 0.75, 100, 3 * 2**30),
    ]
    lines = as_table(phases).splitlines()
    assert lines[1].split() == ["collect", "500.0", "ms", "50", "steps", "25.0%"]
    assert lines[2].split() == ["actor_critic", "30.0", "ms", "update", "75%", "75.0%", "3.00", "GiB"]
    assert lines[3].startswith("An epoch after the first: 4.00 s.")


def test_a_resumed_run_is_not_profiled(tmp_path, capsys):
    cfg = checked(TINY)
    RunFolder.create(tmp_path / "run", cfg)
    with pytest.raises(SystemExit) as stop:
        main(["--resume", str(tmp_path / "run"), "--device", "cpu", "--profile"])
    assert stop.value.code == 2
    assert "--profile: measures a new run" in capsys.readouterr().err
