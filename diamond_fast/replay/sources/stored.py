"""Recordings that :mod:`diamond_fast.replay.formats` reads: journals, .npz files and published folders."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from diamond_fast.replay import csgo
from diamond_fast.replay.buffer import Episode, Replay
from diamond_fast.replay.conversion import action_of
from diamond_fast.replay.formats import check_episode, load_recording, published_episode, published_files
from diamond_fast.replay.recording import HALVES
from diamond_fast.replay.sources.source import Item, Source
from diamond_fast.spec import Mixed


def stored(path: Path) -> Source:
    """A journal, a .npz file or an imported recording."""
    replay = load_recording(path)
    items = [Item(f"episode {i}", partial(_of_replay, replay, i)) for i in range(replay.num_episodes)]
    if not items:
        raise ValueError(f"{path}: no episodes")
    return Source(items, replay.frame_shape[:2], replay.action)


def _of_replay(replay: Replay, index: int) -> Iterator[Episode]:
    yield replay.episode(index)


def published(folder: Path) -> Source:
    """A published ``dataset/`` folder, or one half of it, read file by file."""
    halves = [half for half in HALVES if (folder / half).is_dir()]
    files: list[tuple[str | None, Path]]
    files = [(half, file) for half in halves for file in published_files(folder / half)]
    if not halves:
        files = [(None, file) for file in published_files(folder)]
    if not files:
        raise ValueError(f"{folder}: holds neither videos nor hdf5 files, nor published episodes 0.pt, 1.pt, ...")
    first = published_episode(files[0][1])
    check_episode(str(files[0][1]), first, first)
    mixed = csgo.ACTION if _is_csgo(first.act) else None
    items = [Item(str(file.relative_to(folder)), partial(_of_file, file, first, mixed), half) for half, file in files]
    height, width = first.obs.shape[1:3]
    return Source(items, (height, width), mixed or action_of(first.act))


def _of_file(file: Path, first: Episode, mixed: Mixed | None) -> Iterator[Episode]:
    episode = published_episode(file)
    check_episode(str(file), episode, first, mixed)
    yield episode


def _is_csgo(act: np.ndarray) -> bool:
    """Whether each row has one motion of the mouse in either direction, as random buttons have not."""
    if act.shape[1:] != csgo.ACTION.shape or csgo.ACTION.why_not(act.astype(csgo.ACTION.dtype)):
        return False
    return bool((csgo.ACTION.encode(csgo.ACTION.decode(act)) == act).all())
