"""The engine for one machine: what it gives whom, and that nothing is lost."""

import os
import signal
import subprocess
import sys
import time

import pytest

from diamond_fast.runs.metrics import read_metrics
from diamond_fast.sweeps import local
from diamond_fast.sweeps.attempts import standings
from diamond_fast.sweeps.local import Slot, drive, slots
from diamond_fast.sweeps.plan import Share


@pytest.mark.parametrize(
    ("share", "gpus", "expected"),
    [
        (Share(None, 0, 2), "", [Slot(None, (0, 1)), Slot(None, (2, 3))]),
        (Share(3, 0, 2), "", [Slot(None, (0, 1)), Slot(None, (2, 3)), Slot(None, (0, 1))]),
        (Share(1, 0, 4), "01", [Slot(None, (0, 1, 2, 3))]),
        (Share(None, 1, 2), "57", [Slot("5", (0, 1)), Slot("7", (2, 3))]),
        (Share(None, 0.5, 1), "57", [Slot("5", (0,)), Slot("7", (1,)), Slot("5", (2,)), Slot("7", (3,))]),
    ],
)
def test_what_runs_are_given(share, gpus, expected):
    assert slots(share, gpus, range(4)) == expected


@pytest.mark.parametrize(
    ("share", "gpus", "message"),
    [
        (Share(None, 2, 1), "01", "--gpus-per-run: at most 1 with --engine local, got 2"),
        (Share(None, 1, 1), "", "--gpus-per-run: this machine has no GPU"),
        (Share(None, 0, 5), "", "--cores-per-run: this process may use 4 cores, got 5"),
    ],
)
def test_what_is_not_there(share, gpus, message):
    with pytest.raises(ValueError, match=message):
        slots(share, gpus, range(4))


@pytest.fixture
def places():
    return [Slot(None, tuple(sorted(os.sched_getaffinity(0))[:1])) for _ in range(3)]


def test_every_fate_ends_as_it_should(make_sweep, stub, places, monkeypatch):
    monkeypatch.setattr(local, "LOOK_EVERY", 0.05)
    sweep = make_sweep(
        whole="--seed 3",
        killed="--seed 3 --fate 2 -9",
        failed="--fate always 1",
        hopeless="--fate begin -9",
    )
    ticks = []
    drive(sweep, places, lambda: ticks.append(1))
    states = {s.name: s.state for s in standings(sweep)}
    assert states == {"whole": "finished", "killed": "finished", "failed": "failed", "hopeless": "failed"}
    assert read_metrics(sweep.run("whole").metrics_file) == read_metrics(sweep.run("killed").metrics_file)
    assert len(ticks) > 3
    assert sweep.attempts_file("failed").read_text().count("start") == 1


def test_a_worker_that_cannot_begin_is_given_up(make_sweep, places, monkeypatch):
    monkeypatch.setattr(local, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(local, "WORKER", (sys.executable, "-S", "-c", "raise SystemExit(3)"))
    sweep = make_sweep(a="")
    drive(sweep, places, lambda: None)
    (s,) = standings(sweep)
    assert s.state == "failed"
    assert s.line.endswith("its worker ended with 3")


def test_left_early_it_stops_every_run(make_sweep, stub, places):
    sweep = make_sweep(a="--seconds 30", b="--seconds 30")

    def tick():
        if all(sweep.run(name).lock_file.exists() for name in "ab"):
            time.sleep(0.3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive(sweep, places, tick)
    assert {s.state for s in standings(sweep)} == {"stopped"}


def test_runs_stop_with_a_driver_that_is_killed_and_the_next_one_goes_on(make_sweep, stub, places):
    sweep = make_sweep(a="--epochs 4 --seconds 0.4", b="--epochs 4")
    program = (
        "from diamond_fast.sweeps import local; from diamond_fast.sweeps.folder import SweepFolder; "
        "from pathlib import Path; import sys; local.WORKER = tuple(sys.argv[3:]); "
        "local.drive(SweepFolder.open(Path(sys.argv[1])), [local.Slot(None, (int(sys.argv[2]),))], lambda: None)"
    )
    core = str(places[0].cores[0])
    driver = subprocess.Popen([sys.executable, "-c", program, str(sweep.path), core, *local.WORKER])
    while not sweep.run("a").metrics_file.exists():
        assert driver.poll() is None
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    drive(sweep, places, lambda: None)
    assert {s.state for s in standings(sweep)} == {"finished"}
    assert [line["epoch"] for line in read_metrics(sweep.run("a").metrics_file)] == [1, 2, 3, 4]
