"""Calls with a time limit, for libraries that can wait for ever; without one, for those that want the main thread."""

import signal
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any


class Worker(ABC):
    """Runs calls one after the other: ``submit`` starts one, ``result`` has its value."""

    def __init__(self) -> None:
        self.lost = False
        """True once a call has exceeded its time or ``close`` was called."""
        self.busy = False
        """True between ``submit`` and ``result``."""

    def check_free(self) -> None:
        """
        Raises:
            RuntimeError: the last call's result was not taken, or a call got stuck before, or ``close`` was called.
        """
        if self.lost:
            raise RuntimeError("the environment is closed, or stopped answering earlier; make a new one")
        if self.busy:
            raise RuntimeError("the environment is still at work; take that result first")

    @abstractmethod
    def submit(self, function: Callable[..., Any], *args: Any) -> None:
        """Start a call. Raises what ``check_free`` raises."""

    @abstractmethod
    def result(self, timeout: float | None = None) -> Any:
        """Wait for the call started last: its value, or its exception.

        Args:
            timeout: seconds to wait; if None, as many as for every call.

        Raises:
            TimeoutError: no answer in that time.
            RuntimeError: no call was started.
        """

    def close(self) -> None:
        """Take no further calls. Does not wait."""
        self.lost = True

    def _check_busy(self) -> None:
        if not self.busy:
            raise RuntimeError("the environment was given nothing to do")


class TimedWorker(Worker):
    """Runs calls on one thread of its own and waits for each ``timeout`` seconds at most.

    A call that is stuck in C++ cannot be stopped. Its thread is given up: the thread is a daemon and keeps what it
    uses alive, so that neither the program's work nor its end waits for it.

    Hand-over costs about 20 microseconds a call.
    """

    def __init__(self, timeout: float):
        if not timeout > 0:
            raise ValueError(f"timeout: expected seconds above 0, got {timeout}")
        super().__init__()
        self.timeout = timeout
        self._tasks: SimpleQueue = SimpleQueue()
        self._results: SimpleQueue = SimpleQueue()
        threading.Thread(target=_serve, args=(self._tasks, self._results), daemon=True, name="environment").start()
        weakref.finalize(self, self._tasks.put, None)  # the thread ends with the last reference, also without close()

    def submit(self, function: Callable[..., Any], *args: Any) -> None:
        self.check_free()
        self.busy = True
        self._tasks.put((function, args))

    def result(self, timeout: float | None = None) -> Any:
        self._check_busy()
        timeout = self.timeout if timeout is None else timeout
        try:
            value, error = self._results.get(timeout=timeout)
        except Empty:
            self.lost = True
            raise TimeoutError(f"the environment did not answer within {timeout:g} s") from None
        self.busy = False
        if error is not None:
            raise error
        return value

    def close(self) -> None:
        """Let the thread end after the call it is in, if any."""
        super().close()
        self._tasks.put(None)


class MainThreadWorker(Worker):
    """Runs each call where its result is asked for: in the main thread, however long it takes.

    Handlers that a call sets for SIGINT, SIGTERM or SIGHUP are undone after it: the program's own stay.

    Raises:
        RuntimeError: made in another thread.
    """

    def __init__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("expected to be made in the main thread")
        super().__init__()
        self._task: tuple[Callable[..., Any], tuple[Any, ...]] | None = None

    def submit(self, function: Callable[..., Any], *args: Any) -> None:
        self.check_free()
        self.busy, self._task = True, (function, args)

    def result(self, timeout: float | None = None) -> Any:
        self._check_busy()
        assert self._task is not None  # since it is busy
        (function, args), self._task = self._task, None
        before = {number: signal.getsignal(number) for number in _AFTER_A_SIGNAL}
        try:
            return function(*args)
        finally:
            self.busy = False
            for number, handler in before.items():
                if handler is not None and signal.getsignal(number) not in (handler, _AFTER_A_SIGNAL[number]):
                    signal.signal(number, handler)


_AFTER_A_SIGNAL = {signal.SIGINT: signal.SIG_DFL, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_IGN}
"""What the program's own handlers leave behind when one comes in the middle of a call, see ``runs.signals``."""


def _serve(tasks: SimpleQueue, results: SimpleQueue) -> None:
    while (task := tasks.get()) is not None:
        function, args = task
        try:
            results.put((function(*args), None))
        except BaseException as error:
            results.put((None, error))
        del task, function, args  # an idle thread must not keep an environment alive
