"""How far a run is: bars with the time left on a terminal, plain lines anywhere else."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars


class Phase:
    """One stretch of equal steps inside an epoch, such as an epoch's denoiser updates."""

    def __init__(self, name: str, total: int, started: float, on_advance: Callable[["Phase", int], None]):
        self.name = name
        self.total = total
        """Steps expected; a phase may end earlier."""
        self.done = 0
        """Steps taken."""
        self.started = started
        self.seconds = 0.0
        """Time it took, once it has ended."""
        self._on_advance = on_advance

    def advance(self, steps: int = 1) -> None:
        self.done += steps
        self._on_advance(self, steps)


class Progress:
    """Shows where a run stands.

    The time left of the whole run is derived phase by phase, since the first epoch has another mix of work than the
    later ones: the steps that remain of each phase times the mean seconds such a step took so far.

    Args:
        epochs: in the whole run.
        plan: steps still to come, by name of the phase; the steps of every phase with that name together.
        done: epochs finished earlier, by the run that is being resumed.
        stream: where to write. Bars if it is a terminal, else one line per epoch and, in phases that take
            longer, one a minute.
        clock: seconds, monotonic.
        unit: what ``epochs`` counts, if a program goes through something else.
    """

    LINE_EVERY = 60.0
    BARS_EVERY = 0.1

    def __init__(
        self,
        epochs: int,
        plan: Mapping[str, int],
        done: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        unit: str = "epoch",
    ):
        self._epochs = epochs
        self._epoch = done
        self._remaining = dict(plan)
        self._steps_taken = dict.fromkeys(plan, 0)
        self._seconds_spent = dict.fromkeys(plan, 0.0)
        self._stream = stream or sys.stdout
        self._clock = clock
        self._unit = unit
        self._phase: Phase | None = None
        self._last_shown = clock()
        self._bars: Bars | None = None
        if self._stream.isatty():
            self._bars = Bars(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[detail]}"),
                console=Console(file=self._stream),
                refresh_per_second=4,
            )
            self._run_bar = self._bars.add_task(self._bar_title(), total=epochs, completed=done, detail="")
            self._phase_bar = self._bars.add_task("", total=None, visible=False, detail="")

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[Phase]:
        """A phase of the current epoch; call ``advance`` on what this yields after each step."""
        phase = self._phase = Phase(name, total, self._clock(), self._advanced)
        self._last_shown = phase.started
        if self._bars is not None:
            self._bars.reset(self._phase_bar, description=f"  {name}", total=total, visible=True, detail="")
        try:
            yield phase
        finally:
            phase.seconds = self._clock() - phase.started
            self._seconds_spent[name] = self._seconds_spent.get(name, 0.0) + phase.seconds
            self._phase = None
            if self._bars is not None:
                self._bars.update(self._phase_bar, visible=False)

    def epoch_done(self, summary: str) -> None:
        """An epoch is finished; ``summary`` is its one line on the way into a file."""
        self._epoch += 1
        if self._bars is not None:
            self._bars.update(
                self._run_bar, description=self._bar_title(), completed=self._epoch, detail=self._run_left()
            )
        left = self._run_left()
        self.say(f"{self._unit} {self._epoch}/{self._epochs}: {summary}" + (f", {left}" if left else ""))

    def say(self, line: str) -> None:
        """Print a line, above the bars if there are any."""
        self._last_shown = self._clock()
        if self._bars is not None:
            self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=self._stream, flush=True)

    def seconds_left(self) -> tuple[float, bool]:
        """Seconds the rest of the run takes, and whether that includes every phase that is still to come."""
        left, complete = 0.0, True
        for name, steps in self._remaining.items():
            taken, spent = self._steps_taken[name], self._seconds_spent[name]
            if self._phase is not None and self._phase.name == name:
                spent += self._clock() - self._phase.started
            if steps > 0 and taken == 0:
                complete = False
            elif steps > 0:
                left += steps * spent / taken
        return left, complete

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def _advanced(self, phase: Phase, steps: int) -> None:
        if phase.name in self._remaining:
            self._remaining[phase.name] -= steps
            self._steps_taken[phase.name] += steps
        now = self._clock()
        if now - self._last_shown < (self.LINE_EVERY if self._bars is None else self.BARS_EVERY):
            return
        where = f"{phase.done}/{phase.total}, {self._phase_left(phase, now - phase.started)}"
        if self._bars is None:
            self.say(f"{self._unit} {self._epoch + 1}/{self._epochs}: {phase.name} {where}")
        else:
            self._last_shown = now
            self._bars.update(self._phase_bar, completed=phase.done, detail=where)
            self._bars.update(self._run_bar, detail=self._run_left())

    def _phase_left(self, phase: Phase, elapsed: float) -> str:
        left = max(phase.total - phase.done, 0) * elapsed / phase.done
        return f"{duration(left)} left"

    def _run_left(self) -> str:
        seconds, complete = self.seconds_left()
        if seconds == 0.0:
            return ""
        return f"{'' if complete else 'over '}{duration(seconds)} left"

    def _bar_title(self) -> str:
        return f"{self._epoch} of {self._epochs} {self._unit}s"


def duration(seconds: float) -> str:
    """``12 s``, ``3 min 05 s``, ``2 h 10 min``, ``3 d 4 h``."""
    total = round(seconds)
    minutes, s = divmod(total, 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days} d {h} h"
    if hours:
        return f"{hours} h {m:02d} min"
    if minutes:
        return f"{minutes} min {s:02d} s"
    return f"{s} s"
