"""Which of several actions the held buttons mean, in any game."""

import re
from collections.abc import Sequence

import numpy as np

from diamond_fast.config import RunConfig
from diamond_fast.controls import NAMED_CODES, Button, Lever, Look
from diamond_fast.domains import domain_of

_WORDS = ("up", "down", "left", "right", "fire")
_IDLE_NAMES = ("noop", "stay", "nothing")


class Buttons:
    """The controls of a game in which one thing is done at a time.

    Directions and fire if its actions are named so, else one button for each action.

    Args:
        action_names: of all actions in order, such as NOOP, UPRIGHTFIRE or anything else.
    """

    levers: tuple[Lever, ...] = ()
    looks: tuple[Look, ...] = ()

    def __init__(self, action_names: Sequence[str]):
        self.action_names = tuple(action_names)
        self._needed = [_buttons_of(name) for name in action_names]
        used = {button for needed in self._needed for button in needed}
        named = [word for word in _WORDS if word in used]
        others = [button for needed in self._needed for button in sorted(needed) if button not in _WORDS]
        self.names: tuple[str, ...] = (*named, *dict.fromkeys(others))
        numbers = [f"Digit{(i + 1) % 10}" for i in range(min(10, len(self.names) - len(named)))]
        codes = NAMED_CODES | {name: (code,) for name, code in zip(self.names[len(named) :], numbers, strict=False)}
        self.buttons = tuple(Button(name, codes.get(name, ())) for name in self.names)
        self.keys = self.buttons
        self.rows = tuple(map(action_label, action_names))
        """What can be done, to read."""
        self._idle = next((i for i, needed in enumerate(self._needed) if not needed), 0)
        self.idle = np.asarray(self._idle)
        """The action of someone who holds nothing, int64 []."""

    def action(self, held: Sequence[str]) -> int:
        """The action that uses the most of the held buttons and no other; of several, the last pressed decides.

        Args:
            held: names of buttons in the order they were pressed.
        """
        best, best_rank = self._idle, (0, 0)
        for action, needed in enumerate(self._needed):
            if needed and needed.issubset(held):
                rank = (len(needed), max(held.index(button) for button in needed) + 1)
                if rank > best_rank:
                    best, best_rank = action, rank
        return best

    def act(self, held: Sequence[str], motion: object = None, levers: object = None) -> np.ndarray:
        """As ``Controls.act``: int64 []."""
        return np.asarray(self.action(held))

    def shown(self, action: np.ndarray) -> int:
        """An action for people: its number."""
        return int(action)


def action_names(cfg: RunConfig, num_actions: int) -> tuple[str, ...]:
    """What the actions of a run's world are called; numbers if nobody says.

    The world model can be played without the game it was learned from: if that is not installed, or does not start,
    nobody says.
    """
    try:
        names = domain_of(cfg).action_names(cfg)
    except Exception:
        names = []
    return tuple(names) if len(names) == num_actions else tuple(map(str, range(num_actions)))


def action_label(name: str) -> str:
    """An action's name to read: ``UPRIGHTFIRE`` becomes ``up + right + fire``, ``NOOP`` ``nothing``."""
    needed = _buttons_of(name)
    return " + ".join(sorted(needed, key=lambda word: name.lower().find(word))) or "nothing"


def _buttons_of(name: str) -> frozenset[str]:
    low = name.lower()
    if low in _IDLE_NAMES:
        return frozenset()
    if re.fullmatch(f"({'|'.join(_WORDS)})+", low):
        return frozenset(re.findall("|".join(_WORDS), low))
    return frozenset({low})
