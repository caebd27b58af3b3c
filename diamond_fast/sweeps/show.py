"""How far a sweep is: as a table in the terminal, in lines for a file, and as a page."""

import time
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from diamond_fast.reporting.html import Cell, document, table
from diamond_fast.runs.durable import write_durably
from diamond_fast.runs.progress import duration
from diamond_fast.sweeps.attempts import OVER, Standing, standings
from diamond_fast.sweeps.folder import SweepFolder

ORDER = ("running", "failed", "lost", "stopped", "waiting", "finished")
"""States, those first that a reader looks for."""
HEAD = ("run", "state", "epochs", "return", "trained", "left", "node", "last line")
STYLES = {"running": "green", "failed": "red", "lost": "yellow", "stopped": "yellow", "finished": "bold"}
LOOK_EVERY, PAGE_EVERY = 2.0, 10.0
"""Seconds."""


class Display:
    """Shows a sweep that is being driven: on a terminal a table that refreshes, elsewhere a line if anything changed.

    The page in the sweep's folder is written anew every few seconds and at the end.
    """

    def __init__(self, sweep: SweepFolder):
        self._sweep, self._console = sweep, Console()
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._shown, self._drawn, self._states = -LOOK_EVERY, -PAGE_EVERY, dict[str, str]()

    def __enter__(self) -> "Display":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._shown = self._drawn = -PAGE_EVERY
        self.tick()
        if self._live:
            self._live.stop()

    def tick(self) -> None:
        """Shows what is new, if it is time to."""
        now = time.monotonic()
        if now - self._shown < LOOK_EVERY:
            return
        self._shown, found = now, standings(self._sweep)
        if self._live:
            self._live.update(as_table(found, self._console.height - 6), refresh=True)
        else:
            for line in self._changes(found):
                print(line, flush=True)
        if now - self._drawn >= PAGE_EVERY:
            self._drawn = now
            write_page(self._sweep, found)

    def _changes(self, found: Sequence[Standing]) -> list[str]:
        before, self._states = self._states, {s.name: s.state for s in found}
        changed = [s for s in found if s.state not in ("waiting", before.get(s.name))]
        return [f"{s.name} {s.state}{f': {s.line}' if s.line else ''} ({summary(found)})" for s in changed]


def summary(found: Sequence[Standing]) -> str:
    """How many runs are in which state, and what the rest may take."""
    counts = Counter[str](s.state for s in found)
    text = ", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state]) or "no runs"
    whole = [s.seconds for s in found if s.state == "finished"]
    left = [s for s in found if s.state not in OVER]
    if whole and left:
        hours = sum(max(0.0, sum(whole) / len(whole) - s.seconds) for s in left)
        text += f"; {duration(hours)} of training left, by those that finished"
    return text


def as_table(found: Sequence[Standing], most: int | None = None) -> Table:
    """For the terminal.

    Args:
        most: rows; finished and waiting runs are left out first.
    """
    drawn = Table(*HEAD, title=summary(found), title_justify="left", box=None, pad_edge=False)
    if most is not None:  # there is room for so many lines
        drawn.expand, last = True, drawn.columns[-1]
        last.ratio, last.no_wrap = 1, True
    rows = sorted(found, key=lambda s: ORDER.index(s.state))
    for s in rows[: max(most, 3)] if most is not None else rows:
        drawn.add_row(*_cells(s), style=STYLES.get(s.state))
    return drawn


def write_page(sweep: SweepFolder, found: Sequence[Standing]) -> None:
    """Writes ``index.html``, which needs nothing else; it refreshes until the sweep is over.

    Raises:
        OSError: the disk refused; the page before is untouched.
    """
    over = all(s.state in OVER for s in found)
    rows: list[tuple[str, list[Cell]]] = []
    for s in found:
        shown = _cells(s)
        values: tuple[Any, ...] = (s.name, ORDER.index(s.state), s.epochs, s.score, s.seconds, s.left, s.node, s.line)
        rows.append((s.state, [Cell(escape(text), value) for text, value in zip(shown, values, strict=True)]))
    head = [(name, "ascending") for name in HEAD]
    when = time.strftime("%Y-%m-%d %H:%M:%S")
    body = f"""<h1>{escape(sweep.path.resolve().name)}</h1>
<p>{escape(summary(found))}. As of {when}{"" if over else "; this page refreshes"}.</p>
{table(head, rows)}
<p class="note"><code>{escape(sweep.command)}</code></p>
"""
    page = document(escape(f"Sweep {sweep.path.resolve().name}"), body)
    if not over:
        page = page.replace("<title>", '<meta http-equiv="refresh" content="15">\n<title>', 1)
    write_durably(sweep.path / "index.html", page.encode())


def _cells(s: Standing) -> tuple[str, ...]:
    score = "-" if s.score is None else f"{s.score:.2f}"
    left = "-" if s.left is None else duration(s.left)
    return s.name, s.state, str(s.epochs), score, duration(s.seconds), left, s.node, s.line
