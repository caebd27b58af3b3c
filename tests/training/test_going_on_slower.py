"""A fault in the middle of a run, whole through the command line: the run goes on by itself, on a slower path."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diamond_fast.runs import checkpoint
from diamond_fast.runs.metrics import read_metrics

# The first process: its path fails behind the second update of the reward/end model. What it becomes is the program.
FAULTY = """
import sys
import torch
from diamond_fast import train
from diamond_fast.engine import path
from diamond_fast.training import trainer

class Faulty(path.Path):
    calls = 0

    def autocast(self):
        Faulty.calls += 1
        if Faulty.calls > 3 * 2 + 1 + 2 * 2:  # in an epoch's beginning, and twice in an update
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().autocast()

trainer.choose_path = lambda device, *_: Faulty(device, torch.float32, "torch", False, "a test")
train.main(sys.argv[1:])
"""
TINY = """--preset catch --frame-size 12 --num-final-epochs 1 --device cpu
--collection.num-steps-total 120 --collection.first-epoch-min 100 --collection.first-epoch-max 100
--collection.steps-per-epoch 20 --evaluation.every 1000 --evaluation.num-final-episodes 1 --evaluation.num-envs 1
--world-model.num-batches-to-preload 1 --world-model.horizon 3 --actor-critic-loss.backup-every 3"""
UPDATES = {"denoiser": 3, "reward-end": 4, "actor-critic": 2}  # which begins in the second epoch


@pytest.mark.slow
def test_the_run_goes_on_where_its_path_failed(tmp_path):
    flags = TINY.split()
    for name, number in UPDATES.items():
        flags += [f"--{name}-update.steps-first-epoch", str(number), f"--{name}-update.steps-per-epoch", "1"]
        flags += [f"--{name}-update.batch-size", "2"]
    result = subprocess.run(
        [sys.executable, "-c", FAULTY, *flags, "--out", "run"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert (
        "torch's operations, channels last failed (RuntimeError: CUDA error: an illegal memory access" in result.stderr
    )
    assert "what was done is saved. Going on with the networks as they are written" in result.stderr
    assert result.stdout.count("Path: ") == 2
    assert "Path: readable networks in float32 (asked for)" in result.stdout
    assert "Resume: python -m diamond_fast.train --resume run" in result.stdout
    run = tmp_path / "run"
    assert "illegal memory access" in (run / "faults.txt").read_text()
    saved = checkpoint.load_latest(Path(run) / "checkpoints")
    done = {name: update["num_updates"] for name, update in saved.state["updates"].items()}
    assert done == {"denoiser": 4, "reward_end": 5, "actor_critic": 1}  # none was done twice
    first = read_metrics(run / "metrics.jsonl")[1]
    assert (first["denoiser/updates"], first["reward_end/updates"]) == (3, 4)
