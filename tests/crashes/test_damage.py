"""Damage between two sittings: the run goes on from what is whole, says so in one line, and ends as it would have."""

import signal
import subprocess
import sys
import time

import pytest
from crashed_runs import final_state, kill

from diamond_fast.runs.checkpoint import load_latest


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)


def newest(folder, pattern):
    return sorted((folder / "checkpoints").glob(pattern))[-1]


DAMAGE = {
    "manifest": lambda run: flip(newest(run, "epoch_*.json"), 300),
    "manifest cut short": lambda run: newest(run, "epoch_*.json").write_bytes(b'{"sha256"'),
    "weights": lambda run: flip(newest(run, "epoch_*/denoiser.safetensors"), -5),
    "weights gone": lambda run: newest(run, "epoch_*/actor_critic.safetensors").unlink(),
    "state": lambda run: flip(newest(run, "epoch_*/state.safetensors"), 2000),
    "experience": lambda run: flip(run / "replay" / "journal", load_latest(run / "checkpoints").state["replay"] - 100),
}


@pytest.fixture
def stopped(runs, tmp_path):
    """A run killed with at least three generations behind it."""
    run = tmp_path / "run"
    pid = runs.start(run)
    while not (run / "checkpoints" / "epoch_000002.json").exists():
        time.sleep(0.001)
    kill(pid)
    assert runs.wait() == -9
    return run


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_generation_before_is_taken(runs, whole, stopped, kind):
    DAMAGE[kind](stopped)
    assert runs.finish(stopped) == 0, runs.said()
    said = runs.said().splitlines()
    told = [line for line in said if line.startswith("checkpoint ")]
    assert len(told) == 1
    assert told[0].endswith("; taking the one before")
    assert final_state(stopped) == whole[0]


def test_nothing_whole_is_left(runs, stopped):
    for manifest in (stopped / "checkpoints").glob("epoch_*.json"):
        flip(manifest, 300)
    assert runs.finish(stopped) == 2
    assert "all checkpoints are damaged" in runs.said().splitlines()[-1]
    assert "TRACEBACK" not in runs.said()


def test_damaged_settings(runs, stopped):
    flip(stopped / "config.json", 50)
    assert runs.finish(stopped) == 2
    [line] = runs.said().splitlines()
    assert line.endswith("config.json: differs from its checksum in config.json.sha256")


def test_a_second_process_is_refused_while_the_first_trains(runs, whole, tmp_path):
    run = tmp_path / "run"
    pid = runs.start(run)
    while runs.phase in ("not begun", "set up"):
        time.sleep(0.001)
    kill(pid, signal.SIGSTOP)  # stands still, so that it cannot end first
    command = [sys.executable, "-m", "diamond_fast.train", "--resume", str(run), "--device", "cpu"]
    second = subprocess.run(command, capture_output=True, text=True, timeout=120)
    kill(pid, signal.SIGCONT)
    assert second.returncode == 2
    assert second.stderr == f"{run}: in use by process {pid}; wait for it or stop it first\n"
    assert runs.wait() == 0
    assert final_state(run) == whole[0]
