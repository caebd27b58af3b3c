"""SIGTERM, Ctrl-C and SIGHUP: leave where nothing is half done, in time, and say how to go on."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SECONDS_TO_SAVE = 8.0
"""After a first signal. Whoever sends SIGTERM usually sends SIGKILL 10 seconds or more later."""
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # a child between fork and exec must load nothing
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """The program was told to stop. Not an Exception: nothing may take it for an error and go on."""


class StopSignals:
    """Within ``with stop_signals() as stop``, a first SIGTERM, Ctrl-C or SIGHUP raises :class:`Stopped`.

    At once in general; within ``with stop.deferred()`` when :meth:`check` is called next, or at its end. Whoever has
    not left 8 seconds later (or as many as are given) leaves there and then, without cleaning up; a second SIGTERM or
    Ctrl-C kills at once. Either is as safe as SIGKILL, which what is on the disk must survive anyway.

    SIGHUP, which a terminal sends when it is closed, is never the second: it comes from the shell and from the kernel,
    and some systems send it together with a SIGTERM. If it is ignored from the start (nohup), it stays so.
    """

    def __init__(self, seconds: float | None = None):
        self._seconds = SECONDS_TO_SAVE if seconds is None else seconds
        self.how_to_go_on: str | None = None
        """Printed on the way out."""
        self._signal = 0  # until one has come
        self._deferred = False
        self._deadline: threading.Timer | None = None

    @property
    def has_come(self) -> bool:
        """Whether a signal has come."""
        return self._signal > 0

    def check(self) -> None:
        """Raises Stopped if a signal has come."""
        if self.has_come:
            raise Stopped

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """For work that must not be left just anywhere."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        self.check()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if number != signal.SIGHUP:
            for each in (signal.SIGINT, signal.SIGTERM):
                signal.signal(each, signal.SIG_DFL)  # the kernel's own way: a second one works even in a stuck call
        if self.has_come:  # the first was a SIGHUP
            return
        self._signal = number
        self._deadline = threading.Timer(self._seconds, self._leave_now)
        self._deadline.daemon = True
        self._deadline.start()
        if not self._deferred:
            raise Stopped

    def _leave_now(self) -> None:
        self._say("Stopped in the middle of the work at hand, which is not saved.")
        os._exit(128 + self._signal)

    def _say(self, what_happened: str) -> None:
        go_on = f" Go on from the last checkpoint with: {self.how_to_go_on}" if self.how_to_go_on else ""
        with suppress(OSError):  # the terminal may be gone
            print(what_happened + go_on, file=sys.stderr, flush=True)


@contextmanager
def stop_signals(seconds: float | None = None) -> Iterator[StopSignals]:
    """Exits with 128 + the signal's number after :class:`Stopped`, as shells report it: 130, 143 or 129.

    Args:
        seconds: to leave in; :data:`SECONDS_TO_SAVE` if None.
    """
    stop = StopSignals(seconds)
    if threading.current_thread() is not threading.main_thread():  # signals go to the main thread only
        yield stop
        return
    handled = [each for each in _SIGNALS if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN]
    before = [signal.signal(each, stop._handle) for each in handled]
    try:
        yield stop
    except Stopped:
        stop._say("Stopped.")
        raise SystemExit(128 + stop._signal) from None
    finally:
        if stop._deadline is not None:
            stop._deadline.cancel()
        for each, handler in zip(handled, before, strict=True):
            signal.signal(each, handler)


def stop_with_parent() -> None:
    """For a new child: the kernel tells it to stop if its parent dies. Linux alone; elsewhere it goes on."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
