"""Recorded episodes: as experience in the replay's format, and as films to look at."""

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, NamedTuple

import numpy as np

from diamond_fast.one_line import one_line
from diamond_fast.replay import Replay
from diamond_fast.replay.buffer import Episode
from diamond_fast.spec import Action

FILM_WIDTH = 384
"""Least width of a film in pixels; frames grow by whole even factors, so that pixels stay square and sharp."""
MAX_GIF_FRAMES = 600
"""A GIF shows the last ones of a longer episode: it is held in memory, and grows large."""
SECONDS_TO_CLOSE = 5.0
"""For the films that are not made yet, at the end; then they are left out. The journal always has its episodes."""

FilmFormat = Literal["mp4", "gif"]


class _Step(NamedTuple):
    frame: np.ndarray
    action: np.ndarray
    reward: float
    end: bool
    trunc: bool
    next_frame: np.ndarray


class _LeftOut(Exception):
    """There is no time left for this film."""


class Recorder:
    """Writes ``journal``, ``episode_001.mp4``, ``episode_001.gif``, ... into a folder.

    The folder is made when the first episode is written, on a thread of the recorder's own.

    Args:
        folder: a new one.
        frame_shape: (H, W, 3).
        frames_per_second: of the films.
        action: what is done at each step; None: one of any number of choices.
    """

    def __init__(
        self,
        folder: Path,
        frame_shape: tuple[int, int, int],
        frames_per_second: int = 15,
        action: Action | None = None,
    ):
        self.folder = folder
        self.active = False
        """Whether steps are being recorded."""
        self.problem = ""
        """What was lost last, and why, in one line."""
        self.names: tuple[str, ...] = ()
        """Episodes that have their films, oldest first."""
        self._frames_per_second = frames_per_second
        self._journal = _Journal(folder / "journal", frame_shape, action)
        self._steps: list[_Step] = []
        self._started = 0
        self._left_out = 0  # films
        self._queue: SimpleQueue[tuple[str, list[_Step]] | None] = SimpleQueue()
        self._writer: threading.Thread | None = None
        self._no_time_left = threading.Event()

    def add(
        self, frame: np.ndarray, action: np.ndarray, reward: float, end: bool, trunc: bool, next_frame: np.ndarray
    ) -> None:
        """Take one step. Frames are uint8 [H,W,3], the action one of the world's."""
        self._steps.append(_Step(frame, action, reward, end, trunc, next_frame))
        if end or trunc:
            self.finish()

    def finish(self) -> None:
        """Write what was taken since the last episode, without an end if it has none. Returns at once."""
        if not self._steps:
            return
        if self._writer is None:
            self._writer = threading.Thread(target=self._write_all, name="recorder", daemon=True)
            self._writer.start()
        self._started += 1
        self._queue.put((f"episode_{self._started:03d}", self._steps))
        self._steps = []

    def film(self, number: int, film_format: FilmFormat) -> Path:
        """The film of a written episode.

        Args:
            number: its place among them, from 0.
            film_format: mp4 or gif.

        Raises:
            IndexError: there is none with this number.
        """
        if not 0 <= number < len(self.names):
            raise IndexError(f"episode: expected 0 to {len(self.names) - 1}, got {number}")
        return self.folder / f"{self.names[number]}.{film_format}"

    def close(self) -> None:
        """Write what is left: all episodes into the journal, and films as far as a few seconds go."""
        self.finish()
        if self._writer is not None:
            self._queue.put(None)
            self._writer.join(SECONDS_TO_CLOSE)
            self._no_time_left.set()
            self._writer.join()
            self._writer = None
        self._journal.close()

    def summary(self) -> list[str]:
        """What became of the recordings, in a few lines; none if nothing was recorded."""
        if not self._started:
            return []
        lines = [f"Recorded: {self.folder}: {self._journal.num_episodes} of {self._started} episodes in the journal, "]
        lines[0] += f"films of {len(self.names)}"
        if self._left_out:
            lines.append(f"Left out to end in time: the films of {self._left_out}")
        return [*lines, self.problem] if self.problem else lines

    # --- on the recorder's thread -----------------------------------------------------------------------------------

    def _write_all(self) -> None:
        while (item := self._queue.get()) is not None:
            self._write(*item)

    def _write(self, name: str, steps: list[_Step]) -> None:
        """Whatever an episode fails on, too little memory included, its other half and the next one may not."""
        lost: dict[str, str] = {}
        parts = {"journal": partial(self._journal.write, steps), "films": partial(self._film, name, steps)}
        for what, write in parts.items():
            try:
                write()
            except _LeftOut:
                self._left_out += 1
            except Exception as error:
                lost[what] = one_line(error)
        if lost:
            [reason, *_] = lost.values()
            self.problem = f"{self.folder / name}: {' and '.join(lost)} not written ({reason})"

    def _film(self, name: str, steps: list[_Step]) -> None:
        film = [*(step.frame for step in steps), steps[-1].next_frame]
        paths = self.folder / f"{name}.mp4", self.folder / f"{name}.gif"
        try:
            self._check_time()
            write_film(paths[0], film, self._frames_per_second, self._check_time)
            write_film(paths[1], film[-MAX_GIF_FRAMES:], self._frames_per_second, self._check_time)
        except BaseException:
            for path in paths:
                with suppress(OSError):
                    path.unlink()
            raise
        self.names += (name,)

    def _check_time(self) -> None:
        if self._no_time_left.is_set():
            raise _LeftOut


class _Journal:
    """A replay's journal that grows with what is recorded: memory is reserved for twice as much as there is."""

    def __init__(self, path: Path, frame_shape: tuple[int, int, int], action: Action | None):
        self.num_episodes = 0
        self._path, self._frame_shape, self._action = path, frame_shape, action
        self._replay: Replay | None = None
        self._num_steps = self._capacity = 0

    def write(self, steps: list[_Step]) -> None:
        """Raises OSError, MemoryError or what else can happen; the journal is as it was then."""
        frames, actions, rewards, ends, truncs, next_frames = zip(*steps, strict=True)
        ended = ends[-1] or truncs[-1]
        try:
            replay = self._with_room_for(len(steps))
            replay.append_episode(
                Episode(
                    np.stack(frames),
                    np.array(actions),
                    np.array(rewards, np.float32),
                    np.array(ends),
                    np.array(truncs),
                    next_frames[-1] if ended else None,
                )
            )
            replay.commit()
        except BaseException:
            self.close()  # with half an episode in memory
            raise
        self._num_steps += len(steps)
        self.num_episodes += 1

    def close(self) -> None:
        if self._replay is not None:
            self._replay.close()
            self._replay = None

    def _with_room_for(self, num_steps: int) -> Replay:
        needed = self._num_steps + num_steps
        if self._replay is None or needed > self._capacity:
            self.close()
            self._capacity = 2 * needed
            self._path.parent.mkdir(parents=True, exist_ok=True)
            named: Any = {} if self._action is None else {"action": self._action}
            self._replay = Replay.open(self._path, self._frame_shape, capacity=self._capacity, **named)
        return self._replay


def require_film_writers() -> None:
    """Raises ValueError, saying what to install, if films cannot be written."""
    for module in ("imageio", "imageio_ffmpeg"):
        if find_spec(module) is None:
            raise ValueError(f"recording needs {module}: pip install 'diamond_fast[play]'")


def write_film(
    path: Path, frames: list[np.ndarray], frames_per_second: int, check: Callable[[], None] = lambda: None
) -> None:
    """Write frames, uint8 [H,W,3] each, enlarged, as .mp4 or .gif. ``check`` is called before each of them."""
    import imageio.v2 as imageio

    scale = 2 * -(-FILM_WIDTH // (2 * frames[0].shape[1]))
    options: dict[str, Any]
    if path.suffix == ".gif":
        options = {"duration": 1000 / frames_per_second, "loop": 0}
    else:  # macro_block_size: any even size will do, and the scale is even
        options = {"fps": frames_per_second, "macro_block_size": 2, "quality": 8}
    film: Any  # imageio's types lack append_data
    with imageio.get_writer(path, **options) as film:
        for frame in frames:
            check()
            film.append_data(frame.repeat(scale, axis=0).repeat(scale, axis=1))
