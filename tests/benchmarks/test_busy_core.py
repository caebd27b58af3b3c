"""The benchmark of a busy core runs, and leaves no process behind. What it measures is for a quiet machine."""

import signal
import subprocess
import sys

import busy_core


def test_a_tiny_network(monkeypatch, capsys):
    arguments = ["--tiny", "--batch-sizes", "1", "3", "--seconds", "0", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["busy_core.py", *arguments])
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *args: started.append(popen(*args)) or started[-1])
    busy_core.main()
    rows = [line.strip("|").split("|") for line in capsys.readouterr().out.splitlines()[2:]]
    assert {int(row[1]) for row in rows} == {1, 3}
    assert {row[0].strip() for row in rows} >= {"engine, threads: 1"}
    assert all(float(row[2]) > 0 and float(row[3]) > 0 for row in rows)
    assert [process.returncode for process in started] == [-signal.SIGKILL]
