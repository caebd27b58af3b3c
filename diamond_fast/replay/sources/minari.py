"""Datasets of Minari whose observations are pictures."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from diamond_fast.one_line import one_line
from diamond_fast.replay.buffer import Episode
from diamond_fast.replay.conversion import action_of, frame_conversion, one_a_step, stored_actions
from diamond_fast.replay.formats import check_episode
from diamond_fast.replay.sources.extra import needed
from diamond_fast.replay.sources.source import Item, Source
from diamond_fast.spec import Action, Box, Discrete, MultiBinary


def minari(dataset_id: str) -> Source:
    """A dataset by its name, which is downloaded if it is not on this machine.

    Raises:
        ValueError: there is no such dataset, or it is of another kind.
    """
    package = needed("minari")
    try:
        dataset = package.load_dataset(dataset_id, download=True)
    except Exception as error:  # of many kinds, of the dataset, the file and the network
        raise ValueError(f"--minari {dataset_id}: cannot be loaded ({one_line(error)})") from None
    action = _action(dataset.action_space)
    indices = dataset.episode_indices.tolist()
    if not indices:
        raise ValueError(f"--minari {dataset_id}: has no episodes")
    first = next(_read(dataset, dataset_id, indices[0], action, None))
    items = [Item(f"episode {i}", partial(_read, dataset, dataset_id, i, action, first)) for i in indices]
    height, width = first.obs.shape[1:3]
    return Source(items, (height, width), action or action_of(first.act))


def _action(space: Any) -> Action | None:
    """What a Gymnasium space says, by its name; None: by what is stored."""
    match type(space).__name__, getattr(space, "shape", None):
        case "Discrete", _ if space.start == 0:
            return Discrete(int(space.n))
        case "MultiBinary", (n,):
            return MultiBinary(int(n))
        case "Box", (n,):
            return Box(int(n))
    return None


def _read(dataset: Any, name: str, index: int, action: Action | None, first: Episode | None) -> Iterator[Episode]:
    where = f"--minari {name}: episode {index}"
    stored = dataset[index]
    obs, act = np.asarray(stored.observations), np.asarray(stored.actions)
    if obs.dtype == object or obs.ndim < 3:
        raise ValueError(f"{where}: its observations are no pictures, but {obs.dtype} {list(obs.shape)}")
    obs = frame_conversion(f"{where}: observations", obs)(obs)
    act = stored_actions(f"{where}: actions", act) if action is None else one_a_step(act).astype(action.dtype)
    end, trunc = (np.asarray(done, bool).copy() for done in (stored.terminations, stored.truncations))
    ended = bool(end[-1] or trunc[-1])
    episode = Episode(obs[: len(act)], act, np.asarray(stored.rewards), end, trunc, obs[len(act)] if ended else None)
    check_episode(where, episode, first or episode)
    yield episode
