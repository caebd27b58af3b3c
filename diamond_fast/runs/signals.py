"""SIGTERM and Ctrl-C: leave where nothing is half done, in time, and say how to go on."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SECONDS_TO_SAVE = 8.0
"""After a first signal. Whoever sends SIGTERM usually sends SIGKILL 10 seconds or more later."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """The program was told to stop. Not an Exception: nothing may take it for an error and go on."""


class StopSignals:
    """Within ``with stop_signals() as stop``, a first SIGTERM or Ctrl-C raises :class:`Stopped`.

    At once in general; within ``with stop.deferred()`` when :meth:`check` is called next, or at its end. Whoever has
    not left 8 seconds later leaves there and then, without cleaning up; a second signal kills at once. Either is as
    safe as SIGKILL, which what is on the disk must survive anyway.
    """

    def __init__(self):
        self.how_to_go_on: str | None = None
        """Printed on the way out."""
        self._signal: int | None = None
        self._deferred = False
        self._deadline: threading.Timer | None = None

    @property
    def has_come(self) -> bool:
        """Whether a signal has come."""
        return self._signal is not None

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
        self._signal = number
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)  # the kernel's own way: a second one works even in a stuck call
        self._deadline = threading.Timer(SECONDS_TO_SAVE, self._leave_now)
        self._deadline.daemon = True
        self._deadline.start()
        if not self._deferred:
            raise Stopped

    def _leave_now(self) -> None:
        self._say("Stopped in the middle of the work at hand, which is not saved.")
        os._exit(128 + self._signal)

    def _say(self, what_happened: str) -> None:
        go_on = f" Go on from the last checkpoint with: {self.how_to_go_on}" if self.how_to_go_on else ""
        print(what_happened + go_on, file=sys.stderr, flush=True)


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Exits with 128 + the signal's number after :class:`Stopped`, as shells report it: 130 or 143."""
    stop = StopSignals()
    if threading.current_thread() is not threading.main_thread():  # signals go to the main thread only
        yield stop
        return
    before = [signal.signal(each, stop._handle) for each in _SIGNALS]
    try:
        yield stop
    except Stopped:
        stop._say("Stopped.")
        raise SystemExit(128 + stop._signal) from None
    finally:
        if stop._deadline is not None:
            stop._deadline.cancel()
        for each, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(each, handler)
