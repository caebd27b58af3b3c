"""Worlds in which several things are done at once, played with buttons of which each stands for one such action."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from diamond_fast.config import RunConfig
from diamond_fast.domains import domain_of
from diamond_fast.playing.buttons import action_names
from diamond_fast.replay import Replay
from diamond_fast.spec import Action, Box, Discrete, Mixed


class Menu(NamedTuple):
    """The actions that can be chosen, by number."""

    names: tuple[str, ...]
    rows: np.ndarray
    """[len(names), ...] as the world model takes them."""

    def number(self, act: np.ndarray) -> int:
        """Of the one that is most like an action."""
        difference = (self.rows != act).reshape(len(self.names), -1).sum(axis=1)
        return int(difference.argmin())


def make_menu(cfg: RunConfig, action: Action, replay: Replay) -> Menu:
    """All choices of a world; if there are buttons, what the domain names or, without, each one alone.

    Raises:
        ValueError: numbers are wanted, which no button stands for.
    """
    if isinstance(action, Discrete):
        return Menu(action_names(cfg, action.n), np.arange(action.n))
    parts = action.parts if isinstance(action, Mixed) else (("", action),)
    if any(isinstance(part, Box) for _, part in parts):
        raise ValueError("its actions are numbers, for which there are no buttons")
    if named := domain_of(cfg).held_together(cfg):
        rows = np.zeros((len(named), action.n), action.dtype)
        for row, held in zip(rows, named.values(), strict=True):
            row[list(held)] = 1
        return Menu(tuple(named), rows)
    acts = [replay.episode(i).act for i in range(min(replay.num_episodes, 10))]
    return _one_at_a_time(parts, np.concatenate(acts))


def _one_at_a_time(parts: Sequence[tuple[str, Action]], acts: np.ndarray) -> Menu:
    """Nothing held and each choice as it is most often, and what differs from that in one button or choice."""
    idle = np.zeros_like(acts[0])
    numbers = np.arange(len(idle)).tolist()
    columns = [[numbers.pop(0) for _ in range(part.n)] for _, part in parts]
    for (_, part), own in zip(parts, columns, strict=True):
        if isinstance(part, Discrete):
            idle[own[acts[:, own].sum(axis=0).argmax()]] = 1
    names, rows = ["noop"], [idle]
    for (name, part), own in zip(parts, columns, strict=True):
        for i, column in enumerate(own):
            if idle[column]:
                continue
            row = idle.copy()
            if isinstance(part, Discrete):
                row[own] = 0
            row[column] = 1
            names.append(f"{name} {i}".strip())
            rows.append(row)
    return Menu(tuple(names), np.stack(rows))
