"""Training runs to be crashed, and what must be the same of two runs in the end."""

import contextlib
import hashlib
import json
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diamond_fast.replay import Replay
from diamond_fast.runs import checkpoint
from diamond_fast.runs.metrics import read_metrics
from diamond_fast.runs.nested import flatten

HERE = Path(__file__).parent
FAIL_ONCE, FAIL_FROM_THEN_ON, KILL = 1, 2, 3
ONLY_COUNT = (10**9, KILL, 0)
PHASES = ("not begun", "set up", "collect", "denoiser", "reward_end", "actor_critic", "final evaluation")


class Runs:
    """Starts runs of ``tiny_run.TINY``, one at a time, in processes that may be killed."""

    def __init__(self, scratch: Path, disk_library: Path | None = None, wrapper: Sequence[str] = ()):
        self.output = scratch / "output"
        (scratch / "where").write_bytes(bytes(16))
        with open(scratch / "where", "r+b") as file:
            self._where = mmap.mmap(file.fileno(), 16)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        if disk_library is not None:
            environment["LD_PRELOAD"] = str(disk_library)
        self._server = subprocess.Popen(
            [*wrapper, sys.executable, HERE / "crash_server.py", scratch / "where"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._answer() == {"ready": True}

    @property
    def phase(self) -> str:
        """Where the run is, or was when it ended."""
        return "saving" if self._where[1] else PHASES[self._where[0]]

    @property
    def disk_calls(self) -> int:
        """That could have failed in the last run."""
        return int.from_bytes(self._where[8:], "little")

    def start(self, folder: Path, fault: tuple[int, int, int] | None = None) -> int:
        """Starts or resumes a run; its process id."""
        self._where[:] = bytes(16)
        request = {"folder": str(folder), "output": str(self.output), "fault": fault}
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return self._answer()["pid"]

    def wait(self) -> int:
        """Until it has ended: its exit code, or minus the number of the signal that killed it."""
        return self._answer()["exit_code"]

    def seen_here(self, path: Path) -> Path:
        """A path as the runs see it, whose disks may be others than this process's."""
        return Path(f"/proc/{self._server.pid}/root") / path.relative_to("/")

    def finish(self, folder: Path, fault: tuple[int, int, int] | None = None) -> int:
        self.start(folder, fault)
        return self.wait()

    def said(self) -> str:
        """By the last run."""
        return self.output.read_text()

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait(30)

    def _answer(self) -> dict:
        return json.loads(self._server.stdout.readline())


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def final_state(folder: Path) -> dict:
    """All that a run leaves, by checksum: weights, optimisers, random states, environments, experience, scores."""
    saved = checkpoint.load_latest(folder / "checkpoints", say=_no_damage)
    tensors, tree = flatten({"tensors": saved.tensors, "state": {**saved.state, "replay": None}})
    replay = Replay.load(folder / "replay" / "journal")
    episodes = [replay.episode(i) for i in range(replay.num_episodes)]
    lines = read_metrics(folder / "metrics.jsonl")
    timing = ("seconds", "per_second")
    return {
        **{name: _sha256(tensor.numpy()) for name, tensor in tensors.items()},
        "tree": json.dumps(tree, sort_keys=True),
        "episodes": [[_sha256(array) for array in episode if array is not None] for episode in episodes],
        "metrics": [{k: v for k, v in line.items() if not k.endswith(timing)} for line in lines],
    }


def _no_damage(line: str) -> None:
    raise AssertionError(line)


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
