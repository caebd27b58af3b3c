"""A slot in a process of its own: with a main thread to itself, and nothing it does ends the program."""

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import Any

import numpy as np

from diamond_fast.envs.failure import EnvironmentFailedError
from diamond_fast.envs.slot import Slot, SlotStep
from diamond_fast.runs.output import lasting_output

SECONDS_TO_CLOSE = 5.0


class ProcessSlot:
    """Plays in a new Python process what ``make_slot`` makes there.

    The process begins with this one's ``sys.path`` and nothing else of it: an id that a script or a notebook has
    registered is unknown there, ``module:id`` is imported.

    Args:
        make_slot: can be pickled.
        name: of the environment.

    Raises:
        EnvironmentFailedError: the process ended; so do all methods. What ``make_slot`` raises is passed on.
    """

    def __init__(self, make_slot: Callable[[], Slot], name: str):
        self._name = name
        self._connection, theirs = Pipe()
        program = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from diamond_fast.envs.process_slot import serve; serve({theirs.fileno()})"
        )
        self._process = subprocess.Popen([sys.executable, "-P", "-c", program], pass_fds=[theirs.fileno()])
        weakref.finalize(self, _end, self._process)
        theirs.close()
        self.frame, self.action, self.seed_lasts = self._ask("make", make_slot)

    def reset(self, seed: int) -> tuple[np.ndarray, int]:
        return self._ask("reset", seed)

    def send(self, action: np.ndarray) -> None:
        self._tell("step", action)

    def recv(self) -> SlotStep:
        return self._answer()

    def close(self) -> None:
        try:
            self._ask("close")
            self._process.wait(SECONDS_TO_CLOSE)
        except (EnvironmentFailedError, subprocess.TimeoutExpired):
            pass  # what it failed at is over
        finally:
            _end(self._process)
            self._connection.close()

    def _ask(self, method: str, *args: Any) -> Any:
        self._tell(method, *args)
        return self._answer()

    def _tell(self, method: str, *args: Any) -> None:
        with suppress(OSError):  # the process is gone, and its answer will say so
            self._connection.send_bytes(pickle.dumps((method, args)))

    def _answer(self) -> Any:
        try:
            value, error = self._connection.recv()
        except (EOFError, OSError):
            code = self._process.wait()
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise EnvironmentFailedError(f"the process of the environment {self._name} ended ({how})") from None
        if error is not None:
            raise error
        return value


@lasting_output()  # what an environment prints for nobody is not its fault
def serve(file_descriptor: int) -> None:
    """The process's life: answers until it is told to close, or nobody listens any more."""
    for number in (signal.SIGINT, signal.SIGHUP):  # both go to the whole group; the first process sees to them
        signal.signal(number, signal.SIG_IGN)
    asyncio.set_event_loop(asyncio.new_event_loop())  # some libraries ask for the main thread's
    connection = Connection(file_descriptor)
    slot: Any = None
    with suppress(EOFError, OSError):
        while True:
            method, args = pickle.loads(connection.recv_bytes())
            try:
                if method == "make":
                    slot = args[0]()
                    value = slot.frame, slot.action, slot.seed_lasts
                elif method == "step":
                    slot.send(*args)
                    value = slot.recv()
                else:
                    value = getattr(slot, method)(*args)
                answer: tuple[Any, Exception | None] = value, None
            except (EnvironmentFailedError, ValueError) as error:
                answer = None, type(error)(str(error))
            connection.send(answer)
            if method == "close":
                break
    sys.stdout.flush()
    os._exit(0)  # threads that the environment has left running are not waited for


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
