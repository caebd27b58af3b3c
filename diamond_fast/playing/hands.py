"""What a player holds and moves, from one step to the next."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from diamond_fast.config import RunConfig
from diamond_fast.controls import Controls, Lever, default_controls
from diamond_fast.domains import domain_of
from diamond_fast.playing.buttons import Buttons
from diamond_fast.replay import Replay
from diamond_fast.spec import Action, Discrete

Panel: TypeAlias = Buttons | Controls
"""Everything that can be held and moved in a world."""
LEVER_SECONDS = 0.5
"""From a lever's rest to its end, while a button is held, and back."""
_LONGEST_STEP = LEVER_SECONDS / 4
"""So slow a world may be for that: in a slower one, and after a pause, a lever takes at least four steps."""
_LOOKED_AT = 10
"""Episodes that say what is usually chosen."""


class Hands:
    """Buttons held, motion of the mouse and positions of levers, until the next step takes them.

    Args:
        panel: what there is.
        clock: seconds.
    """

    def __init__(self, panel: Panel, clock: Callable[[], float] = time.monotonic):
        self.panel = panel
        self._clock = clock
        self._moved_at = -np.inf
        self._known = {button.name for button in panel.buttons}
        self._levers = {lever.name: lever.rest for lever in panel.levers}
        self._held: tuple[str, ...] = ()
        self._tapped: tuple[str, ...] = ()  # pressed since the last step, and perhaps let go again
        self._motion = (0.0, 0.0)
        self._placed: dict[str, float] = {}
        self._asked_at: float | None = None

    def hold(
        self,
        keys: Sequence[str],
        mouse: tuple[float, float] = (0.0, 0.0),
        axes: Mapping[str, float | None] | None = None,
        at: float | None = None,
    ) -> None:
        """What is held and moved now. A short press counts until the next step, and so does all motion.

        Args:
            keys: names of buttons in the order they were pressed.
            mouse: how far it has moved since the last call, in pixels to the right and downwards.
            axes: positions of levers, by name, which they keep; None: let go.
            at: when, by the player's clock.

        Raises:
            ValueError: there is no such button or lever.
        """
        for button in keys:
            if button not in self._known:
                names = ", ".join(button.name for button in self.panel.buttons)
                raise ValueError(f"button: expected some of {names}, got {button!r}")
        for name in axes or {}:
            if name not in self._levers:
                raise ValueError(f"axes: expected some of {', '.join(self._levers) or 'none'}, got {name!r}")
        self._tapped += tuple(button for button in keys if button not in (*self._held, *self._tapped))
        self._held = tuple(keys)
        self._motion = self._motion[0] + mouse[0], self._motion[1] + mouse[1]
        for name, position in (axes or {}).items():
            if position is None:
                self._placed.pop(name, None)
            else:
                self._placed[name] = self._levers[name] = min(max(position, -1.0), 1.0)
        self._asked_at = at

    def asked_at(self) -> float | None:
        """When the player last asked for something, by their own clock; said once."""
        at, self._asked_at = self._asked_at, None
        return at

    def act(self, speed: float) -> np.ndarray:
        """The action of this step. Levers move on, by the time that has passed since the last one.

        Args:
            speed: steps a second, at most.
        """
        now = self._clock()
        passed = max(1 / speed, min(now - self._moved_at, _LONGEST_STEP))
        self._moved_at = now
        held = (*self._held, *(button for button in self._tapped if button not in self._held))
        for lever in self.panel.levers:
            if lever.name not in self._placed:
                self._levers[lever.name] = self._moved(lever, held, passed / LEVER_SECONDS)
        action = self.panel.act(held, self._motion, self._levers)
        self._tapped, self._motion = (), (0.0, 0.0)
        return action

    def _moved(self, lever: Lever, held: Sequence[str], furthest: float) -> float:
        """Towards the end whose button was pressed last, or its rest."""
        ends = {end.name: goal for end, goal in ((lever.less, -1.0), (lever.more, 1.0)) if end is not None}
        goal = next((ends[name] for name in reversed(held) if name in ends), lever.rest)
        position = self._levers[lever.name]
        return position + min(max(goal - position, -furthest), furthest)


def panel_of(cfg: RunConfig, action: Action, replay: Replay | None, action_names: Sequence[str]) -> Panel:
    """What a player of a run's world holds and moves: as its domain says, or by the kinds of its actions.

    The game may not be installed, or not start: then its domain says nothing.
    """
    if isinstance(action, Discrete):
        return Buttons(action_names)
    try:
        controls = domain_of(cfg).controls(cfg)
    except Exception:
        controls = None
    if controls is not None and controls.action.shape == action.shape:
        return Controls(action, controls.idle.astype(action.dtype), controls.keys, controls.levers, controls.looks)
    if replay is None:
        return default_controls(action)
    usual = np.concatenate([replay.episode(i).act for i in range(min(replay.num_episodes, _LOOKED_AT))])
    return default_controls(action, usual=usual)
