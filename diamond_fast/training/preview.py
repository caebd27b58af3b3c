"""What a run shows of itself while it trains: a strip of imagined frames, and the page with all of its pictures."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path as FilePath

from diamond_fast.config import RunConfig
from diamond_fast.engine.choose import Path
from diamond_fast.evaluation.open_loop import imagine_held_out
from diamond_fast.one_line import one_line
from diamond_fast.replay import Replay
from diamond_fast.runs.folder import STRIP, RunFolder
from diamond_fast.runs.page import write_page
from diamond_fast.runs.pictures import save_frame_grid
from diamond_fast.world_model import Agent

FIRST_AFTER = 15.0  # seconds of training
EVERY = 20.0  # seconds, at least, between two
SHARE = 0.01  # of a run's time, at most, that all but the first may take
TIMES = (1, 2, 4, 8)  # imagined steps that the strip shows


class Preview:
    """Draws the strip and writes the page now and then. It changes nothing of a run, and none of its errors ends one.

    Args:
        cfg: every setting.
        folder: takes the pictures.
        agent: whose world model is shown.
        path: how its frames are drawn; no CUDA graph is captured for them.
        replay: experience whose actions are imagined.
        seed: of the noise.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        cfg: RunConfig,
        folder: RunFolder,
        agent: Agent,
        path: Path,
        replay: Replay,
        seed: int,
        clock: Callable[[], float] = time.monotonic,
    ):
        horizon = min(TIMES[-1], cfg.world_model.horizon)
        self._cfg = replace(cfg, world_model=replace(cfg.world_model, horizon=horizon))
        self._times = [t for t in TIMES if t <= horizon]
        self._folder, self._agent, self._replay = folder, agent, replay
        self._path, self._seed, self._clock = replace(path, graphs=False), seed, clock
        self._due: float | None = None  # until something is learned
        self._gave_up = self._named = False

    def begin(self, say: Callable[[str], None]) -> None:
        """Write the page as it is before anything was learned; ``say`` is told if that fails."""
        self._guarded(self._write_page, say)

    def refresh_if_due(self, say: Callable[[str], None]) -> None:
        """Draw anew what is shown, if that was not done for long. ``say`` is told where the first strip is."""
        started = self._clock()
        if self._due is None:
            self._due = started + FIRST_AFTER
        if started >= self._due:
            self._guarded(partial(self._refresh, say), say)
            now = self._clock()
            self._due = now + max(EVERY, (now - started) / SHARE)

    def end(self, say: Callable[[str], None]) -> None:
        """Write the page of a run that has ended; ``say`` is told if that fails."""
        self._guarded(partial(self._write_page, ended=True), say)

    def _guarded(self, draw: Callable[[], object], say: Callable[[str], None]) -> None:
        if self._gave_up:
            return
        try:
            draw()
        except Exception as error:  # whatever it is, the run is worth more than its pictures
            self._gave_up = True
            say(f"No pictures any more while training: {type(error).__name__}: {one_line(error)}")

    def _write_page(self, ended: bool = False) -> FilePath:
        return write_page(self._folder, self._cfg.title, ended)

    def _refresh(self, say: Callable[[str], None]) -> None:
        predictions = None
        if not self._cfg.model_free and find_spec("PIL") is not None:
            predictions = imagine_held_out(self._agent, self._replay, self._cfg, self._path, self._seed, count=1)
        if predictions is None:  # no model of frames, no episode that is long enough, or no Pillow
            self._write_page()
            return
        strip = self._folder.new_picture(STRIP)
        save_frame_grid(strip, [(predictions.real[0], predictions.imagined[0])], self._times)
        page = self._write_page()
        if not self._named:
            self._named = True
            say(f"Imagined so far: {strip}, drawn anew from now on; with curves and phases: {page}")
