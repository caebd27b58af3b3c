"""Work in a process of its own, which may die of it: a request over a pipe, answers in lines of JSON."""

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator
from typing import Any


class ChildFailedError(Exception):
    """A child ended with an error, by a signal, or was given up. As a string, how."""


def ask(module: str, request: object, patience: float) -> Generator[Any, None, None]:
    """Has a module's ``main`` do what is requested in a process of its own. Gives its answers as they come.

    The child does not outlive the generator: close it if it is not followed to its end.

    Args:
        module: whose ``main`` calls ``answer``.
        request: anything that can be pickled.
        patience: seconds that the child may take in all.

    Raises:
        ChildFailedError: behind the last answer.
    """
    # -u: what a library printed must not come behind the error that ends it
    command = [sys.executable, "-u", "-P", "-c", f"from {module} import main; main()"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said)
        assert child.stdin is not None
        assert child.stdout is not None
        timer = threading.Timer(patience, child.kill)
        timer.start()
        try:
            try:
                with child.stdin:
                    child.stdin.write(pickle.dumps(request))
            except BrokenPipeError:
                pass  # it is gone; what it said tells why
            for line in child.stdout:
                yield json.loads(line)
            code = child.wait()
            hangs = not timer.is_alive()
        finally:
            timer.cancel()
            child.kill()
            child.stdout.close()
            child.wait()
        said.seek(0)
        last = said.read().decode(errors="replace").strip().rpartition("\n")[2][:200]
    if code and hangs:
        raise ChildFailedError(f"no answer within {patience:g} s")
    if code:
        ended = f"the process was ended by {signal.Signals(-code).name}" if code < 0 else last or f"exit code {code}"
        raise ChildFailedError(ended)


def answer(work: Callable[[Any, Callable[[object], None]], None]) -> None:
    """In the child: does the work that is requested, given the request and what sends an answer."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # whatever libraries print is no answer
        work(pickle.load(sys.stdin.buffer), lambda value: print(json.dumps(value), file=answers, flush=True))
