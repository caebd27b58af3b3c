"""Torch's idle threads give their cores to others soon, if a command of the project started them."""

import os
import subprocess
import sys

import pytest

from diamond_fast.openmp import SPIN, share_cores

SPINNING = """
import sys
from dataclasses import dataclass
from time import process_time, sleep
from diamond_fast.cli import parse

@dataclass
class Nothing:
    pass

parse(Nothing, [])
assert "torch" not in sys.modules
import torch
torch.set_num_threads(2)
x = torch.ones(1 << 18)
x + x
before = process_time()
for _ in range(60):
    x + x
    sleep(0.02)
print(process_time() - before)
"""


@pytest.fixture
def silent(monkeypatch):
    """An environment that says nothing about waiting."""
    for name in ("OMP_WAIT_POLICY", *SPIN):
        monkeypatch.delenv(name, raising=False)


def test_what_is_asked_of_openmp(silent):
    share_cores()
    assert {name: os.environ[name] for name in SPIN} == SPIN


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", *SPIN])
def test_what_the_environment_says_stays(silent, monkeypatch, name):
    monkeypatch.setenv(name, "ACTIVE")
    share_cores()
    assert os.environ[name] == "ACTIVE"
    assert ("GOMP_SPINCOUNT" in os.environ) == (name != "OMP_WAIT_POLICY")


def test_an_idle_thread_sleeps(silent, monkeypatch):
    """60 operations of a tenth of a millisecond, 20 ms apart. Threads that spin between them take over 0.5 s."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    done = subprocess.run([sys.executable, "-c", SPINNING], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.2
