"""What a study learns from and is judged on: a recording or a run's own experience, in episodes."""

from pathlib import Path

from diamond_fast.evaluation.open_loop import spread
from diamond_fast.replay import Replay, load_recording
from diamond_fast.replay.fitting import check_fits
from diamond_fast.runs.durable import put_when_done
from diamond_fast.runs.folder import RunFolder
from diamond_fast.settings import require

HELD_OUT_EVERY = 5
"""Every fifth episode is held out, unless the user says which are."""


def recording_of(name: str, path: Path) -> Path:
    """The recording that a flag names, which may be a run's folder: its journal. Raises ValueError if there is none."""
    if (path / "config.json").exists():
        return RunFolder.open(path).journal
    if not path.exists():
        raise ValueError(f"{name}: there is nothing at {path}")
    return path


def split(data: Path, held_out: Path | None, folder: Path) -> tuple[Path, Path]:
    """Recordings to train on and to judge with. Without ``held_out``, ``data`` is cut in two journals in ``folder``.

    Raises:
        ValueError, OSError: there is no recording, it cannot be read, or it has a single episode.
    """
    data = recording_of("--data", data)
    if held_out is not None:
        return data.resolve(), recording_of("--held-out", held_out).resolve()
    paths = folder / "training.journal", folder / "held_out.journal"
    if not all(path.exists() for path in paths):
        replay = load_recording(data)
        if replay.num_episodes < 2:
            raise ValueError(f"--data {data}: holds a single episode; give others to judge with by --held-out")
        held = [i for i in range(replay.num_episodes) if i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1]
        held = held or [replay.num_episodes - 1]
        folder.mkdir(exist_ok=True)
        for path, kept in zip(paths, (False, True), strict=True):
            _write(replay, [i for i in range(replay.num_episodes) if (i in held) == kept], data, path)
    return paths[0].resolve(), paths[1].resolve()


def _write(replay: Replay, episodes: list[int], data: Path, path: Path) -> None:
    action = check_fits("--data", data, replay, replay.frame_shape)  # of all: a part may not show every choice
    with put_when_done(path) as temporary:
        part = Replay.open(temporary, replay.frame_shape, capacity=replay.num_steps, action=action)
        try:
            for i in episodes:
                part.append_episode(replay.episode(i))
            part.commit()
        finally:
            part.close()


def starts_of(replay: Replay, context: int, horizon: int, count: int) -> list[tuple[int, int]]:
    """Where trajectories start: (episode, first step of the context), spread evenly.

    Raises:
        ValueError: no episode is long enough; the message says what horizon would be right.
    """
    starts = spread(replay.lengths, context + horizon, count)
    if not starts:
        longest = int(replay.lengths.max(initial=0))
        most = max(longest - context - 1, 0)
        raise ValueError(
            f"--horizon {horizon}: the longest held-out episode has {longest} steps, with {context} of context: "
            f"at most {most}"
        )
    return starts


def starts_at(at: tuple[int, ...], replay: Replay, context: int) -> list[tuple[int, int]]:
    """Where the contexts start of moments that ``--at`` names, pairs of episode and step. Raises ValueError."""
    pairs = list(zip(at[::2], at[1::2], strict=True))
    for episode, step in pairs:
        require(episode < replay.num_episodes, "at", f"{episode}: there are {replay.num_episodes} episodes, from 0")
        length = int(replay.lengths[episode])
        right = context <= step < length
        require(right, "at", f"{episode} {step}: the step must be from {context} to {length - 1}")
    return [(episode, step - context) for episode, step in pairs]
