"""The measured speed: by the clock on a quiet machine, by the processors' time on a busy one."""

from dataclasses import replace

import pytest
import torch
from faulty_paths import FailingPath

from diamond_fast import speed
from diamond_fast.engine.choose import candidates, choose_path
from diamond_fast.engine.graphs import WARM_UP_CALLS
from diamond_fast.engine.path import Path
from diamond_fast.presets import PRESETS
from diamond_fast.speed import Speed
from diamond_fast.timing import Timing
from diamond_fast.world_model import Agent

CPU = torch.device("cpu")


def test_a_quiet_machine_is_measured_by_the_clock():
    times = [[Timing(0.1, 0.2), Timing(0.3, 0.2)], [Timing(1.0, 2.0), Timing(1.0, 2.0)]]
    measured = speed._speed(times, [10**9, 10**9], load="", threads=2)
    assert measured.best == Speed(pytest.approx(10e9), pytest.approx(1e9))
    assert measured.now == Speed(pytest.approx(5e9), pytest.approx(1e9))


def test_a_busy_machine_is_measured_by_the_time_it_had_a_processor():
    """One thread computes for 0.2 s in 0.8 s: two of them would do twice as much, if they were alone."""
    times = [[Timing(1.9, 0.3), Timing(0.8, 0.2)], [Timing(4.0, 1.0)]]
    measured = speed._speed(times, [10 * 10**9, 60 * 10**9], "load 7.0 on 2 cores", threads=2)
    assert measured.best == Speed(pytest.approx(100e9), pytest.approx(120e9))
    assert measured.now == Speed(pytest.approx(25e9), pytest.approx(30e9))
    assert (measured.load, measured.threads) == ("load 7.0 on 2 cores", 2)


@pytest.mark.parametrize(("load", "said"), [(0.4, ""), (6.25, "load 6.2 on 4 cores")])
def test_what_else_the_machine_has_to_do(monkeypatch, load, said):
    monkeypatch.setattr(speed.os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(speed.os, "cpu_count", lambda: 4)
    assert speed._load() == said


@pytest.mark.parametrize("load", [0.0, 1000.0])
def test_a_measured_speed_is_one_and_threads_stay_as_they_were(monkeypatch, load):
    monkeypatch.setattr(speed.os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(speed, "MEASURE_FOR", 0.05)
    before = torch.get_num_threads()
    measured = speed.measure_speed(PRESETS["catch"], 3, torch.device("cpu"))
    assert (torch.get_num_threads(), measured.threads) == (before, before)
    assert bool(measured.load) == bool(load)
    for now, best in ((measured.now.forward, measured.best.forward), (measured.now.training, measured.best.training)):
        assert 1e6 < now <= best < 1e15


@pytest.mark.parametrize("engine", dict.fromkeys(path.engine for path in candidates(CPU, "fp32")))
def test_the_engine_of_the_run_is_measured(monkeypatch, engine):
    """Frames are drawn, and updates done, on the path that a trainer takes with the same settings."""
    paths = []

    def noted(function):
        return lambda *args: (paths.append(next(x for x in args if isinstance(x, Path))), function(*args))[1]

    for name in ("next_frame_sampler", "trained"):
        monkeypatch.setattr(speed, name, noted(getattr(speed, name)))
    monkeypatch.setattr(speed, "MEASURE_FOR", 0.0)
    config = replace(PRESETS["catch"], engine=engine, precision="fp32")
    measured = speed.measure_speed(config, 3, CPU)
    assert paths == [choose_path(CPU, "fp32", engine)] * 2
    assert measured.engine == paths[0].what


def test_a_captured_update_is_measured_once_it_is_captured(monkeypatch):
    """With a stand-in for graphs: what a GPU would replay is timed, not the calls that come before."""
    calls = []

    class Captures:
        def __init__(self, name, function, **how):
            assert (name, how) == ("denoiser", {"changes_state": True, "must": True})
            self.function = function

        def __call__(self, *inputs):
            calls.append("captured" if len(calls) >= WARM_UP_CALLS else "warm-up")
            return self.function(*inputs)

    monkeypatch.setattr(speed, "Captured", Captures)
    path = replace(choose_path(CPU, "fp32", "readable"), graphs=True)
    model = Agent(PRESETS["catch"], 3).denoiser
    (_, _), (train, flops) = speed._forward_and_training(PRESETS["catch"], model, path, batch_size=2)
    assert calls == ["warm-up"] * WARM_UP_CALLS
    before = [p.clone() for p in model.parameters()]
    train()
    assert calls[-1] == "captured"
    assert any((p != q).any() for p, q in zip(model.parameters(), before, strict=True))  # the optimiser steps, too
    assert flops > 0


def test_a_path_that_fails_is_left_out_and_a_slower_one_measured(monkeypatch, capsys):
    path = FailingPath(torch.device("cpu"), torch.float32, "fused", False, "test")
    monkeypatch.setattr(speed, "choose_path", lambda *_, **__: path)
    monkeypatch.setattr(speed, "MEASURE_FOR", 0.05)
    measured = speed.measure_speed(PRESETS["catch"], 3, torch.device("cpu"))
    assert measured.now.training > 0
    assert capsys.readouterr().err.startswith(
        "Left out: fused kernels (at 7:4: sizes do not match in a kernel). Going on with torch's own operations"
    )
