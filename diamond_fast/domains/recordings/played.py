"""Episodes that a player plays in a game, as something that can be imported."""

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from diamond_fast.envs.slot import Slot
from diamond_fast.replay.buffer import Episode
from diamond_fast.replay.sources.source import Item, Source
from diamond_fast.spec import Action

Player = Callable[[np.ndarray, np.random.Generator], Any]
"""From a frame, uint8 [H, W, C], and random numbers of this episode to an action, as the game's ``Action`` says."""

_PIECE = 64  # steps that are in memory at once


def played(slot: Slot, player: Player, episodes: int, seed: int, max_steps: int) -> Source:
    """Episodes that are played when they are read. Each has its own random numbers: which others are played, and when,
    changes nothing in it.

    Args:
        slot: the game.
        player: what plays it.
        episodes: how many.
        seed: of all random numbers.
        max_steps: an episode is cut short after so many.
    """
    seeds = np.random.SeedSequence(seed).spawn(episodes)
    items = [Item(f"episode {i}", partial(_play, slot, player, each, max_steps)) for i, each in enumerate(seeds)]
    return Source(items, slot.frame.shape[:2], slot.action)


def random_player(action: Action) -> Player:
    """All actions are equally likely."""
    return lambda frame, rng: action.sample(rng.random, ())


def scripted_player(name: str) -> Player:
    """The function that ``module:function`` names.

    Raises:
        ValueError: there is none.
    """
    module, colon, function = name.partition(":")
    try:
        found = getattr(import_module(module), function) if colon else None
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"--player {name}: {error}") from None
    if not callable(found):
        raise ValueError(f"--player {name}: expected random or module:function, which takes a frame and random numbers")
    return found


def _play(slot: Slot, player: Player, seeds: np.random.SeedSequence, max_steps: int) -> Iterator[Episode]:
    rng = np.random.default_rng(seeds)
    frame, _ = slot.reset(int(rng.integers(2**31)))
    obs, act, rew = list[np.ndarray](), list[np.ndarray](), list[float]()
    for step in range(1, max_steps + 1):
        action = _checked(slot.action, player(frame, rng))
        slot.send(action)
        result = slot.recv()
        obs.append(frame)
        act.append(action)
        rew.append(result.reward)
        end, trunc = result.terminated, result.truncated or (step == max_steps and not result.terminated)
        frame = result.frame
        if end or trunc or len(obs) == _PIECE:
            ends, truncs = np.zeros((2, len(obs)), bool)
            ends[-1], truncs[-1] = end, trunc
            final = frame if end or trunc else None
            yield Episode(np.stack(obs), np.stack(act), np.array(rew, np.float32), ends, truncs, final)
            obs, act, rew = [], [], []
        if end or trunc:
            return


def _checked(action: Action, given: Any) -> np.ndarray:
    """What a player did. Raises ValueError if the game does not know it."""
    array = np.asarray(given)
    reason = action.why_not(array)
    if array.shape != action.shape:
        reason = f"expected shape {list(action.shape)}, got {list(array.shape)}"
    if reason:
        raise ValueError(f"--player: gave an action that is none of {action}: {reason}")
    return array.astype(action.dtype)
