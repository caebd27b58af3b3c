import sys
import threading
import time
from pathlib import Path

import pytest

from diamond_fast.reporting import statistics
from diamond_fast.sweeps import local, worker
from diamond_fast.sweeps.folder import Planned, SweepFolder

STUB = (sys.executable, "-S", str(Path(__file__).with_name("stub_trainer.py")))
"""A trainer that starts in milliseconds."""


@pytest.fixture
def stub(monkeypatch):
    """Every attempt trains with the stub, in this process and in workers that the local engine starts."""
    monkeypatch.setattr(worker, "TRAIN", STUB)
    start = f"from diamond_fast.sweeps import worker; worker.TRAIN = {STUB!r}; worker.main()"
    monkeypatch.setattr(local, "WORKER", (sys.executable, "-c", start))


@pytest.fixture
def make_sweep(tmp_path):
    """``make_sweep(a="--epochs 2", b="")``: a sweep with these runs and their flags."""

    def make(**flags) -> SweepFolder:
        runs = [Planned(name, "", tuple(text.split())) for name, text in flags.items()]
        return SweepFolder.create(tmp_path / "sweep", "python -m diamond_fast.sweep ...", runs)

    return make


@pytest.fixture
def once_at_work():
    """``once_at_work(sweep, "ab", act)``: a thread calls ``act`` once these runs' stubs would save and leave."""

    def wait_and_act(sweep, names, act):
        logs, deadline = [sweep.log_file(name) for name in names], time.monotonic() + 60
        while not all(log.exists() and "threads" in log.read_text() for log in logs):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        act()

    def start(*arguments):
        threading.Thread(target=wait_and_act, args=arguments, daemon=True).start()

    return start


@pytest.fixture
def few_samples(monkeypatch):
    """A report's bootstrap takes moments."""
    monkeypatch.setattr(statistics, "MOST_SAMPLES", 40)
    monkeypatch.setattr(statistics, "FEWEST_SAMPLES", 40)
