"""Recorded episodes: as experience in the replay's format, and as films to look at."""

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np

from diamond_fast.replay import Replay
from diamond_fast.replay.buffer import Episode

FILM_WIDTH = 384
"""Least width of a film in pixels; frames grow by whole even factors, so that pixels stay square and sharp."""
MAX_GIF_FRAMES = 600
"""A GIF shows the last ones of a longer episode: it is held in memory, and grows large."""
CAPACITY = 1_000_000
"""Steps in a journal; takes memory only for what is recorded."""

FilmFormat = Literal["mp4", "gif"]


class Recorder:
    """Writes ``journal``, ``episode_001.mp4``, ``episode_001.gif``, ... into a folder.

    The folder is made when the first episode is written, on a thread of the recorder's own.

    Args:
        folder: a new one.
        frame_shape: (H, W, 3).
        frames_per_second: of the films.
    """

    def __init__(self, folder: Path, frame_shape: tuple[int, int, int], frames_per_second: int = 15):
        self.folder = folder
        self.active = False
        """Whether steps are being recorded."""
        self.problem = ""
        """Why something could not be written, in one line."""
        self.names: tuple[str, ...] = ()
        """Episodes that are written, oldest first."""
        self._frame_shape, self._frames_per_second = frame_shape, frames_per_second
        self._steps: list[tuple] = []
        self._started = 0
        self._replay: Replay | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="recorder")

    def add(
        self, frame: np.ndarray, action: int, reward: float, end: bool, trunc: bool, next_frame: np.ndarray
    ) -> None:
        """Take one step. Frames are uint8 [H,W,3]."""
        self._steps.append((frame, action, reward, end, trunc, next_frame))
        if end or trunc:
            self.finish()

    def finish(self) -> None:
        """Write what was taken since the last episode, without an end where it has none. Returns at once."""
        if self._steps:
            self._started += 1
            self._writer.submit(self._write, f"episode_{self._started:03d}", self._steps)
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
        """Wait until all is written."""
        self.finish()
        self._writer.shutdown()
        if self._replay is not None:
            self._replay.close()

    def _write(self, name: str, steps: list[tuple]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._replay is None:
                self._replay = Replay.open(self.folder / "journal", self._frame_shape, capacity=CAPACITY)
            frames, actions, rewards, ends, truncs, next_frames = zip(*steps, strict=True)
            ended = ends[-1] or truncs[-1]
            episode = Episode(
                np.stack(frames),
                np.array(actions),
                np.array(rewards, np.float32),
                np.array(ends),
                np.array(truncs),
                next_frames[-1] if ended else None,
            )
            self._replay.append_episode(episode)
            self._replay.commit()
            film = [*frames, next_frames[-1]]
            write_film(self.folder / f"{name}.mp4", film, self._frames_per_second)
            write_film(self.folder / f"{name}.gif", film[-MAX_GIF_FRAMES:], self._frames_per_second)
            self.names += (name,)
        except (OSError, RuntimeError, ValueError) as error:
            self.problem = f"{self.folder / name}: not recorded ({error})"


def require_film_writers() -> None:
    """Raises ValueError, saying what to install, where films cannot be written."""
    for module in ("imageio", "imageio_ffmpeg"):
        if find_spec(module) is None:
            raise ValueError(f"recording needs {module}: pip install 'diamond_fast[play]'")


def write_film(path: Path, frames: list[np.ndarray], frames_per_second: int) -> None:
    """Write frames, uint8 [H,W,3] each, enlarged, as .mp4 or .gif."""
    import imageio.v2 as imageio

    scale = 2 * -(-FILM_WIDTH // (2 * frames[0].shape[1]))
    if path.suffix == ".gif":
        options = {"duration": 1000 / frames_per_second, "loop": 0}
    else:  # macro_block_size: any even size will do, and the scale is even
        options = {"fps": frames_per_second, "macro_block_size": 2, "quality": 8}
    with imageio.get_writer(path, **options) as film:
        for frame in frames:
            film.append_data(frame.repeat(scale, axis=0).repeat(scale, axis=1))
