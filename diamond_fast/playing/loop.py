"""The clock of a game: a thread of its own steps the session, so that whoever shows it never waits for a model."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from diamond_fast.one_line import one_line
from diamond_fast.playing.commands import Command, perform
from diamond_fast.playing.recorder import Recorder
from diamond_fast.playing.session import View

PAUSE_AT_END = 0.8  # seconds an episode's last frame stays
LONGEST_WAIT = 0.25  # seconds; then it looks for recordings that are written by now
MAX_WAITING = 256  # commands; further ones are refused


class Playable(Protocol):
    """What the loop needs of a ``Session``; commands may ask for more."""

    paused: bool
    notice: str
    speed: int
    recorder: Recorder

    @property
    def over(self) -> str: ...

    def step(self) -> None: ...

    def view(self) -> View: ...

    def close(self) -> None: ...


class GameLoop:
    """Steps a session at its speed while somebody watches and it is not paused.

    Nothing that goes wrong in a step or a command ends the game: it is paused, and the view says what happened.

    Args:
        session: touched by nothing but this loop's thread from ``start`` on.
    """

    def __init__(self, session: Playable):
        self._session = session
        self.on_view: Callable[[], object] = lambda: None
        """Called on the loop's thread whenever there is something new to see; must return at once."""
        self.view: View = session.view()
        """What to show now. Replaced as a whole, from the loop's thread."""
        self.frames_per_second = 0.0
        """Steps a second as of late; 0 while standing still."""
        self._watchers = 0
        self._commands: deque[Command] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._last_step: float | None = None  # when it ended, if the next one follows at once
        self._thread = threading.Thread(target=self._run, name="game", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the game: waits for the step under way and for what is being recorded."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()
        self._session.close()

    def submit(self, command: Command) -> bool:
        """Ask for something; it is done between two steps. False if too much is waiting already."""
        with self._changed:
            if len(self._commands) >= MAX_WAITING:
                return False
            self._commands.append(command)
            self._changed.notify()
        return True

    def watch(self, watchers: int) -> None:
        """Say how many are watching; the game stands still while nobody is."""
        with self._changed:
            self._watchers = watchers
            self._changed.notify()

    # --- on the loop's thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            with self._changed:
                now = time.monotonic()
                goes_on = self._watchers > 0 and not self._session.paused
                wait = min(due - now, LONGEST_WAIT) if goes_on else LONGEST_WAIT
                if wait > 0 and not self._commands and not self._stopping:
                    self._changed.wait(wait)
                if self._stopping:
                    return
                commands = list(self._commands)
                self._commands.clear()
            for command in commands:
                self._perform(command)
            goes_on = self._watchers > 0 and not self._session.paused
            stepped = goes_on and time.monotonic() >= due
            if stepped:
                self._step()
                due = max(due + (PAUSE_AT_END if self._session.over else 1 / self._session.speed), time.monotonic())
            if not goes_on:
                self._last_step, self.frames_per_second, due = None, 0.0, time.monotonic()
            if commands or stepped or self._written_or_lost():
                self.view = self._session.view()
                self.on_view()

    def _written_or_lost(self) -> bool:
        """Whether the recorder has something to tell that the view does not show."""
        recorder, view = self._session.recorder, self.view
        return recorder.names != view.recordings or (recorder.problem not in ("", view.notice))

    def _perform(self, command: Command) -> None:
        try:
            perform(self._session, command)
            if command.do != "hold":  # comes with every key: what is to be read should stay longer
                self._session.notice = ""
        except Exception as error:  # whatever it is, the player reads it and goes on
            self._session.notice = one_line(error)

    def _step(self) -> None:
        try:
            self._session.step()
        except Exception as error:  # a real game that does not answer, for one
            self._session.paused = True
            self._session.notice = one_line(error)
        now = time.monotonic()
        if self._last_step is not None:
            seconds = max(now - self._last_step, 1e-6)
            if (
                self.frames_per_second
            ):  # of seconds, not of rates: one step that follows a late one at once has any rate
                seconds = 0.8 / self.frames_per_second + 0.2 * seconds
            self.frames_per_second = 1 / seconds
        self._last_step = None if self._session.over else now
