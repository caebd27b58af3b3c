"""One attempt, with a trainer that meets every fate."""

import os
import signal
import time

import pytest

from diamond_fast.runs.metrics import read_metrics
from diamond_fast.sweeps import worker
from diamond_fast.sweeps.attempts import note, standing
from diamond_fast.sweeps.worker import Attempt, memory_kills


@pytest.fixture(autouse=True)
def quick_looks(stub, monkeypatch):
    monkeypatch.setattr(worker, "WATCH_EVERY", 0.02)
    monkeypatch.setattr(worker, "SIGN_EVERY", 0.1)


def test_a_run_from_beginning_to_end(make_sweep):
    sweep = make_sweep(a="--epochs 3 --seed 5")
    s = Attempt(sweep, "a").run()
    total = 5
    for epoch in (1, 2, 3):
        total = (31 * total + epoch) % 1009
    assert (s.state, s.epochs, s.score) == ("finished", 3, total)
    assert "epoch 3/3" in sweep.log_file("a").read_text()
    again = Attempt(sweep, "a").run()
    assert again == s
    assert sweep.attempts_file("a").read_text().count("start") == 1


def test_one_that_is_killed_goes_on_where_it_was(make_sweep):
    sweep = make_sweep(a="--epochs 3 --seed 5", b="--epochs 3 --seed 5 --fate 2 -9")
    Attempt(sweep, "a").run()
    s = Attempt(sweep, "b").run()
    assert (s.state, s.epochs, s.line) == ("lost", 2, "ended by SIGKILL")
    assert Attempt(sweep, "b").run().state == "finished"
    metrics = [read_metrics(sweep.run(name).metrics_file) for name in "ab"]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize("code", [1, 2])
def test_a_trainer_that_gives_up_has_failed_and_is_not_begun_again(make_sweep, code):
    sweep = make_sweep(a=f"--fate always {code}")
    s = Attempt(sweep, "a").run()
    assert (s.state, s.line) == ("failed", "out of memory on cpu: lower the batch")
    assert Attempt(sweep, "a").run() == s
    note(sweep, "a", "retry")
    assert Attempt(sweep, "a").run().epochs == 2


def test_the_kernel_ends_it_for_lack_of_memory(make_sweep, monkeypatch):
    kills = iter([3, 4])
    monkeypatch.setattr(worker, "memory_kills", lambda: next(kills))
    s = Attempt(make_sweep(a="--fate 1 -9"), "a").run()
    assert s.state == "failed"
    assert s.line.startswith("out of memory")


def test_told_to_stop_it_saves_and_says_so(make_sweep, once_at_work):
    sweep = make_sweep(a="--seconds 30")
    attempt = Attempt(sweep, "a")
    once_at_work(sweep, "a", lambda: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    s = attempt.run()
    assert (s.state, s.line) == ("stopped", "Stopped.")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_cancelled_sweep_stops_and_begins_nothing(make_sweep, once_at_work):
    sweep = make_sweep(a="--seconds 30", b="")
    once_at_work(sweep, "a", sweep.cancelled_file.touch)
    assert Attempt(sweep, "a").run().state == "stopped"
    assert Attempt(sweep, "b").run().state == "waiting"


def test_of_two_at_one_run_the_second_leaves(make_sweep):
    sweep = make_sweep(a="")
    with sweep.only_attempt("a"):
        assert Attempt(sweep, "a").run().state == "waiting"
    assert not sweep.run("a").path.exists()


def test_a_trainer_that_is_still_at_work_is_waited_for(make_sweep, monkeypatch):
    sweep = make_sweep(a="")
    run = sweep.run("a")
    run.path.mkdir(parents=True)
    monkeypatch.setattr(worker, "PATIENCE", 0.1)
    with run.lock():
        s = Attempt(sweep, "a").run()
    assert (s.state, s.line) == ("lost", "a trainer of an earlier attempt is still at work")


def test_what_a_resumed_run_is_told_again(make_sweep):
    sweep = make_sweep(a="--device cpu --env-id mod:X --lr 1")
    attempt = Attempt(sweep, "a")
    assert attempt._command()[3:] == [*sweep.runs[0].argv, "--out", str(sweep.run("a").path)]
    sweep.run("a").path.mkdir()
    sweep.run("a").config_file.touch()
    resumed = ["--resume", str(sweep.run("a").path), "--device", "cpu", "--env-id", "mod:X"]
    assert attempt._command()[3:] == resumed


def test_the_trainer_stops_if_its_worker_is_killed(make_sweep, stub):
    import subprocess

    from diamond_fast.sweeps import local

    sweep = make_sweep(a="--seconds 30")
    process = subprocess.Popen([*local.WORKER, str(sweep.path), "a"])
    lock = sweep.run("a").lock_file
    while not lock.exists():
        time.sleep(0.05)
    time.sleep(0.3)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while "Stopped." not in sweep.log_file("a").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert standing(sweep, "a").state == "running"  # until it has been silent for long, or its engine says so


@pytest.mark.parametrize(
    ("group", "file", "text"),
    [
        ("0::/jobs/7", "sys/fs/cgroup/jobs/7/memory.events", "low 0\noom 5\noom_kill 3\n"),
        ("4:memory:/jobs/7", "sys/fs/cgroup/memory/jobs/7/memory.oom_control", "under_oom 0\noom_kill 3\n"),
    ],
)
def test_how_often_the_kernel_ended_something(tmp_path, group, file, text):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"5:cpu:/other\n{group}\n")
    assert memory_kills(tmp_path) == 0
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    assert memory_kills(tmp_path) == 3
