"""A contest in a process of its own, for devices that one bad kernel or capture makes useless to the whole process.

The child is given the work over a pipe and answers in lines of JSON. A path at which it dies or hangs is left out, and
another child goes on with the others.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict

import torch

from diamond_fast.engine.contest import Begins, Row, Work, contest
from diamond_fast.engine.path import Path

PATIENCE = 180.0  # seconds for a child, in which kernels may have to be compiled


class ChildFailedError(Exception):
    """A child ended without an answer."""

    def __init__(self, at: str | None, how: str):
        super().__init__(f"the process that measures ended: {how}")
        self.at, self.how = at, how


def contest_in_child(work: Work, paths: Sequence[Path], begins: Begins) -> list[Row]:
    """As ``contest``, but a path that ends its process, or hangs, does not end this one.

    Raises:
        ChildFailedError: before any path has begun, or at the readable networks.
    """
    fallen: dict[str, Row] = {}
    while True:
        try:
            rows = _ask(work, [path for path in paths if path.name not in fallen], begins)
        except ChildFailedError as failed:
            if failed.at in (None, "readable"):
                raise
            fallen[failed.at] = Row(failed.at, why_not=f"it ends its process: {failed.how}")
        else:
            found = {row.name: row for row in rows} | fallen
            return [found[path.name] for path in paths]


def _ask(work: Work, paths: Sequence[Path], begins: Begins) -> list[Row]:
    allow_tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    request = pickle.dumps((work.light(), list(paths), allow_tf32))
    command = [sys.executable, "-P", "-c", f"from {__name__} import main; main()"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    at: str | None = None
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said)
        assert child.stdin is not None
        assert child.stdout is not None
        patience = threading.Timer(PATIENCE, child.kill)
        patience.start()
        try:
            with child.stdin:
                child.stdin.write(request)
            for line in child.stdout:
                answer = json.loads(line)
                if isinstance(answer, list):
                    return [Row(**row) for row in answer]
                begins(at := answer)
        except BrokenPipeError:
            pass  # it is gone; what it said tells why
        finally:
            hangs = not patience.is_alive()
            patience.cancel()
            child.kill()
            child.stdout.close()
            code = child.wait()
        said.seek(0)
        last = said.read().decode(errors="replace").strip().rpartition("\n")[2][:200]
    if hangs:
        raise ChildFailedError(at, f"no answer within {PATIENCE:g} s")
    raise ChildFailedError(at, signal.Signals(-code).name if code < 0 else last or f"exit code {code}")


def main() -> None:
    """The child: reads the work, and answers with the path that begins, again and again, and in the end with rows."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # whatever libraries print is no answer
        work, paths, allow_tf32 = pickle.load(sys.stdin.buffer)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allow_tf32
        if work.device.type == "cuda" and work.device.index is not None:
            torch.cuda.set_device(work.device)

        def answer(value: object) -> None:
            print(json.dumps(value), file=answers, flush=True)

        answer([asdict(row) for row in contest(work, paths, answer)])
