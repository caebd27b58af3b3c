"""The profile of a small run: what it measures, and what it leaves behind."""

import gzip
import json
import math
import time
from dataclasses import replace

import pytest
import torch
from test_trainer import TINY

from diamond_fast.config import CollectionConfig
from diamond_fast.config_checks import checked
from diamond_fast.presets import PRESETS
from diamond_fast.runs.folder import RunFolder
from diamond_fast.train import main
from diamond_fast.training import profiling
from diamond_fast.training.profiling import Phase, as_table, profile_run, with_room
from diamond_fast.training.trainer import Trainer

NAMES = ["collect", "denoiser", "reward_end", "actor_critic", "evaluate", "save"]


def test_every_phase_is_measured_and_recorded(tmp_path, monkeypatch):
    """With half a second added to what prepares the policy's batch, and to nothing else."""
    monkeypatch.setattr(profiling, "MOST_TURNS", 1)
    monkeypatch.setattr(profiling, "ENOUGH_SECONDS", math.inf)
    monkeypatch.setattr(profiling, "STEPS_FIRST", 200)
    cfg = with_room(checked(TINY))
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
    assert not any(p.cut_short for p in phases)
    assert count == {"collect": 1, "denoiser": 2, "reward_end": 2, "actor_critic": 2, "evaluate": 0, "save": 1}
    assert sum(e.get("name") == "aten::linear" for e in events) > 20


def test_table():
    phases = [
        Phase("collect", "50 steps", 0.5, None, 2.0, None),
        Phase("actor_critic", "update", 0.03, 0.75, 100, 3 * 2**30),
    ]
    lines = as_table(phases).splitlines()
    assert lines[1].split() == ["collect", "500.0", "ms", "50", "steps", "25.0%"]
    assert lines[2].split() == ["actor_critic", "30.0", "ms", "update", "75%", "75.0%", "3.00", "GiB"]
    assert lines[3].startswith("An epoch after the first: 4.00 s.")


class Clock:
    """Time passes by being told so."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.mark.parametrize(("seconds", "turns"), [(600.0, 1), (4.0, 1 + 2), (0.01, 1 + profiling.MOST_TURNS)])
def test_what_takes_long_is_not_repeated(monkeypatch, seconds, turns):
    clock, taken = Clock(), []
    monkeypatch.setattr(profiling, "time", clock)

    def turn():
        taken.append(seconds)
        clock.now += seconds

    num_turns, total, _ = profiling._measure(turn, 1, torch.device("cpu"), None)
    assert len(taken) == turns
    assert total / num_turns == pytest.approx(seconds)


def test_a_long_game_is_left_before_its_end(tmp_path, monkeypatch):
    cfg = checked(TINY)
    trainer = Trainer(cfg, RunFolder.create(tmp_path / "run", cfg), torch.device("cpu"))
    try:
        whole = profiling._measure_game(trainer)
        monkeypatch.setattr(profiling, "ENOUGH_SECONDS", 1e-6)
        part = profiling._measure_game(trainer)
    finally:
        trainer.close()
    assert (whole.unit, whole.cut_short) == ("game", False)
    assert part.cut_short
    assert as_table([whole, part]).splitlines()[-1] == (
        f"Evaluate takes longer: a game was left after {part.unit}, before its end."
    )


@pytest.mark.parametrize("num_envs", [1, 7])
def test_the_replay_takes_all_that_is_collected(num_envs):
    cfg = replace(TINY, collection=replace(TINY.collection, num_steps_total=10, num_envs=num_envs))
    stretches = [profiling.STEPS_FIRST, *[profiling.STEPS_PER_TURN] * (profiling.MOST_TURNS + 1)]  # one is traced
    collected = sum(math.ceil(steps / num_envs) * num_envs for steps in stretches)
    assert with_room(cfg).collection.num_steps_total >= collected
    assert with_room(replace(cfg, collection=CollectionConfig())).collection == CollectionConfig()


def test_a_profile_is_no_run_and_the_profiler_is_quiet(tmp_path, monkeypatch, capfd):
    """At a length of run that is shorter than what is collected to measure."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(profiling, "ENOUGH_SECONDS", 1e-6)
    cfg = replace(TINY, collection=replace(TINY.collection, num_steps_total=TINY.collection.first_epoch_max))
    monkeypatch.setitem(PRESETS, "catch", cfg)
    main(["--preset", "catch", "--device", "cpu", "--profile"])
    out, err = capfd.readouterr()
    assert err == ""
    [folder] = (tmp_path / "profiles").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["phases.txt", "trace.json.gz"]
    assert (folder / "phases.txt").read_text() in out
    assert not (tmp_path / "runs").exists()


def test_a_resumed_run_is_not_profiled(tmp_path, capsys):
    cfg = checked(TINY)
    RunFolder.create(tmp_path / "run", cfg)
    with pytest.raises(SystemExit) as stop:
        main(["--resume", str(tmp_path / "run"), "--device", "cpu", "--profile"])
    assert stop.value.code == 2
    assert "--profile: measures a new run" in capsys.readouterr().err
