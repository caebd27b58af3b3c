"""Calls with a time limit, for libraries that can wait for ever."""

import threading
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any


class TimedWorker:
    """Runs calls on one thread of its own, one after the other, and waits for each ``timeout`` seconds at most.

    A call that is stuck in C++ cannot be stopped. Its thread is given up: the thread is a daemon and keeps what it
    uses alive, so that neither the program's work nor its end waits for it.

    Hand-over costs about 20 microseconds a call.
    """

    def __init__(self, timeout: float):
        if not timeout > 0:
            raise ValueError(f"timeout: expected seconds above 0, got {timeout}")
        self.timeout = timeout
        self.lost = False
        """True once a call has exceeded its time or ``close`` was called."""
        self.busy = False
        """True between ``submit`` and ``result``."""
        self._tasks: SimpleQueue = SimpleQueue()
        self._results: SimpleQueue = SimpleQueue()
        threading.Thread(target=_serve, args=(self._tasks, self._results), daemon=True, name="environment").start()
        weakref.finalize(self, self._tasks.put, None)  # the thread ends with the last reference, also without close()

    def check_free(self) -> None:
        """
        Raises:
            RuntimeError: the last call's result was not taken, or a call got stuck before, or ``close`` was called.
        """
        if self.lost:
            raise RuntimeError("the environment is closed, or stopped answering earlier; make a new one")
        if self.busy:
            raise RuntimeError("the environment is still at work; take that result first")

    def submit(self, function: Callable[..., Any], *args: Any) -> None:
        """Start a call. Raises what ``check_free`` raises."""
        self.check_free()
        self.busy = True
        self._tasks.put((function, args))

    def result(self) -> Any:
        """Wait for the call started last: its value, or its exception.

        Raises:
            TimeoutError: no answer within ``timeout`` seconds.
            RuntimeError: no call was started.
        """
        if not self.busy:
            raise RuntimeError("the environment was given nothing to do")
        try:
            value, error = self._results.get(timeout=self.timeout)
        except Empty:
            self.lost = True
            raise TimeoutError(f"the environment did not answer within {self.timeout:g} s") from None
        self.busy = False
        if error is not None:
            raise error
        return value

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """``submit`` and ``result``."""
        self.submit(function, *args)
        return self.result()

    def close(self) -> None:
        """Let the thread end after the call it is in, if any. Does not wait."""
        self.lost = True
        self._tasks.put(None)


def _serve(tasks: SimpleQueue, results: SimpleQueue) -> None:
    while (task := tasks.get()) is not None:
        function, args = task
        try:
            results.put((function(*args), None))
        except BaseException as error:
            results.put((None, error))
        del task, function, args  # an idle thread must not keep an environment alive
