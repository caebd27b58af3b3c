"""Which action the held buttons mean, in any game."""

import re
from collections.abc import Sequence

from diamond_fast.config import RunConfig
from diamond_fast.domains import domain_of

_WORDS = ("up", "down", "left", "right", "fire")
_IDLE_NAMES = ("noop", "stay", "nothing")


class Buttons:
    """The buttons of a game: directions and fire if its actions are named so, else one for each action.

    Args:
        action_names: of all actions in order, such as NOOP, UPRIGHTFIRE or anything else.
    """

    def __init__(self, action_names: Sequence[str]):
        self.action_names = tuple(action_names)
        self._needed = [_buttons_of(name) for name in action_names]
        used = {button for needed in self._needed for button in needed}
        named = [word for word in _WORDS if word in used]
        others = [button for needed in self._needed for button in sorted(needed) if button not in _WORDS]
        self.names: tuple[str, ...] = (*named, *dict.fromkeys(others))
        self.idle = next((i for i, needed in enumerate(self._needed) if not needed), 0)
        """The action of someone who holds nothing."""

    def action(self, held: Sequence[str]) -> int:
        """The action that uses the most of the held buttons and no other; of several, the last pressed decides.

        Args:
            held: names of buttons in the order they were pressed.
        """
        best, best_rank = self.idle, (0, 0)
        for action, needed in enumerate(self._needed):
            if needed and needed.issubset(held):
                rank = (len(needed), max(held.index(button) for button in needed) + 1)
                if rank > best_rank:
                    best, best_rank = action, rank
        return best


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
