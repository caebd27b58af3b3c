"""What a player moves to act in a world in which several things are done at once: keys, levers and the mouse.

A domain may say what its controls are; else they follow from the kinds of its actions. No torch.

Buttons have codes: those of a keyboard (``KeyboardEvent.code``: ``KeyW``, ``ArrowUp``, ``Space``), ``Mouse0`` and
``Mouse2`` for the left and the right button of a mouse, ``Pad0`` to ``Pad16`` for buttons of a gamepad and ``Axis0-``,
``Axis0+``, ... for the two ways of its sticks (W3C Gamepad, standard layout).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, TypeVar

import numpy as np

from diamond_fast.spec import Action, Box, Discrete, Mixed, MultiBinary

MOUSE_REACH = 120.0
"""Points that a mouse moves within a step for a number to become 1, if the domain says nothing."""


@dataclass(frozen=True)
class Button:
    """Something that is held, or not."""

    name: str
    codes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Key(Button):
    """A button for which one of the action's numbers is 1.

    Args:
        column: of the number.
        rivals: of held keys with the same word here, only the one that was pressed first counts.
        clears: numbers that become 0: the other choices, if there are several of which one is made.
    """

    column: int = 0
    rivals: str = ""
    clears: tuple[int, ...] = ()


AnyButton = TypeVar("AnyButton", bound=Button)


@dataclass(frozen=True)
class Lever:
    """A number from -1 to 1 that stays as it is put: steering, a pedal.

    Args:
        name: of it.
        column: of the number.
        less, more: buttons that move it to -1 and to 1; it goes back to ``rest`` without.
        rest: the number if nobody touches it.
    """

    name: str
    column: int
    less: Button | None
    more: Button | None
    rest: float = 0.0


@dataclass(frozen=True)
class Look:
    """How far the mouse moves within a step, in one direction: a number, or a choice among distances.

    Args:
        name: of it.
        direction: ``x`` to the right, ``y`` downwards.
        column: of the number, or of the first choice.
        less, more: buttons that stand for a motion, and come before the mouse.
        by_button: how far they move, in points.
        distances: points that each choice stands for; none: it is one number, 1 at ``reach``.
        gain: points for each pixel that the mouse moves.
        reach: points.
    """

    name: str
    direction: Literal["x", "y"]
    column: int
    less: Button
    more: Button
    by_button: float = MOUSE_REACH
    distances: tuple[float, ...] = ()
    gain: float = 1.0
    reach: float = MOUSE_REACH


@dataclass(frozen=True)
class Controls:
    """All that a player moves.

    Args:
        action: of the world.
        idle: [*action.shape]: the action of someone who touches nothing.
    """

    action: Action
    idle: np.ndarray
    keys: tuple[Key, ...] = ()
    levers: tuple[Lever, ...] = ()
    looks: tuple[Look, ...] = ()

    @property
    def buttons(self) -> tuple[Button, ...]:
        """Everything that can be held."""
        pairs = [(lever.less, lever.more) for lever in self.levers] + [(look.less, look.more) for look in self.looks]
        return (*self.keys, *(end for pair in pairs for end in pair if end is not None))

    @property
    def rows(self) -> tuple[str, ...]:
        """What ``shown`` tells of, by name."""
        of_keys = [key.name for key in self.keys]
        return (*of_keys, *(lever.name for lever in self.levers), *(look.name for look in self.looks))

    def act(
        self,
        held: Sequence[str],
        motion: tuple[float, float] = (0.0, 0.0),
        levers: Mapping[str, float] = MappingProxyType({}),
    ) -> np.ndarray:
        """The action [*action.shape] that is meant.

        Args:
            held: names of buttons in the order they were pressed.
            motion: of the mouse since the last step, in pixels to the right and downwards.
            levers: positions of levers, by name; at rest without.
        """
        row = self.idle.copy()
        known, taken = {key.name: key for key in self.keys}, set[str]()
        for name in held:
            if (key := known.get(name)) is None or key.rivals in taken:
                continue
            taken |= {key.rivals} - {""}
            row[list(key.clears)] = 0
            row[key.column] = 1
        for lever in self.levers:
            row[lever.column] = np.clip(levers.get(lever.name, lever.rest), -1, 1)
        for look in self.looks:
            ways = {look.less.name: -1, look.more.name: 1}
            way = next((ways[name] for name in held if name in ways), 0)
            points = way * look.by_button or look.gain * motion["xy".index(look.direction)]
            if look.distances:  # the nearest; of two, the one that stands first
                row[look.column : look.column + len(look.distances)] = 0
                row[look.column + int(np.abs(np.subtract(look.distances, points)).argmin())] = 1
            else:
                row[look.column] = np.clip(points / look.reach, -1, 1)
        return row

    def shown(self, row: np.ndarray) -> tuple[float, ...]:
        """An action for people: of keys, levers and looks in this order, 0 to 1 or -1 to 1. So are probabilities."""
        numbers = [row[key.column] for key in self.keys] + [row[lever.column] for lever in self.levers]
        for look in self.looks:
            if (count := len(look.distances)) > 1:
                numbers.append(2 * int(row[look.column : look.column + count].argmax()) / (count - 1) - 1)
            else:
                numbers.append(row[look.column])
        return tuple(map(float, numbers))


NAMED_CODES = {
    "up": ("ArrowUp", "KeyW", "Pad12"),
    "down": ("ArrowDown", "KeyS", "Pad13"),
    "left": ("ArrowLeft", "KeyA", "Pad14"),
    "right": ("ArrowRight", "KeyD", "Pad15"),
    "fire": ("Space", "Mouse0", "Pad0", "Pad7"),
}
"""Codes of buttons with these names."""
_USUAL = {"keys": ("up", "left", "down", "right"), "clicks": ("fire",)}
"""What buttons are in parts with these names, if there are as many: w, a, s and d, and the mouse's."""
_ROW = (*(f"Digit{n}" for n in (*range(1, 10), 0)), *(f"Key{letter}" for letter in "QTYUOFGZXB"))
"""Codes for buttons with other names, in this order; the page's own letters are left out."""
_PAIRS = (  # a stick's second axis points down; a second number is often both pedals in one
    (("ArrowLeft", "KeyA", "Axis0-"), ("ArrowRight", "KeyD", "Axis0+")),
    (("ArrowDown", "KeyS", "Mouse2", "Axis1+", "Pad6"), ("ArrowUp", "KeyW", "Mouse0", "Axis1-", "Pad7")),
    (("KeyJ", "Axis2-"), ("KeyL", "Axis2+")),
    (("KeyK", "Axis3+"), ("KeyI", "Axis3-")),
)
_PEDALS = (
    ("ArrowUp", "KeyW", "Mouse0", "Pad7"),
    ("ArrowDown", "KeyS", "Mouse2", "Pad6"),
    ("Space", "Pad0"),
    ("ShiftLeft", "Pad1"),
)
_MOVING = ("mouse", "look", "turn", "camera")
"""A part of a mixed action with one of these words in its name is where the mouse moves, x before y."""


def default_controls(
    action: Action, names: Sequence[str] = (), rests: Sequence[float] = (), usual: np.ndarray | None = None
) -> Controls:
    """Controls for actions of whatever kind but one choice: a key for each button and choice, a lever for each number.

    Args:
        action: MultiBinary, Box, or both and choices, mixed.
        names: what its n numbers are called, if that is known.
        rests: of its n numbers, what each is if nobody touches anything; 0 if that is not known.
        usual: [..., n]: actions as they were recorded, whose most frequent choices are those of someone idle.
    """
    parts = action.parts if isinstance(action, Mixed) else (("", action),)
    idle = np.zeros(action.shape, action.dtype)
    idle[: len(rests)] = rests
    keys, levers, looks = list[Key](), list[Lever](), list[Look]()
    codes, pairs, pedals = iter(_ROW), iter(_PAIRS), iter(_PEDALS)
    none: tuple[str, ...] = ()
    for part, kind, columns in _columns(parts):
        labels = [names[c] if names else f"{part} {i}".strip() for i, c in enumerate(columns)]
        if len(columns) == 1 and part and not names:
            labels = [part]
        usual_names = _USUAL.get(part, ())
        if len(columns) == len(usual_names) and isinstance(kind, MultiBinary) and not names:
            labels = list(usual_names)
        if isinstance(kind, Discrete):
            counts = Counter([0] if usual is None else usual[..., columns].argmax(-1).ravel().tolist())
            idle[columns[counts.most_common(1)[0][0]]] = 1
        for label, column in zip(labels, columns, strict=True):
            if not isinstance(kind, Box):
                if isinstance(kind, Discrete) and idle[column]:
                    continue
                own = NAMED_CODES.get(label.lower()) or tuple(code for code in [next(codes, "")] if code)
                others = tuple(columns) if isinstance(kind, Discrete) else ()
                keys.append(Key(label, own, column, part if others else "", others))
            elif any(word in part for word in _MOVING) and len(looks) < 2:
                looks.append(_look(label, "y" if looks else "x", column))
            elif idle[column] == -1:  # a pedal, which one button presses
                levers.append(Lever(label, column, None, Button(f"{label} +", next(pedals, none)), -1.0))
            else:
                less, more = next(pairs, (none, none))
                ends = Button(f"{label} -", less), Button(f"{label} +", more)
                levers.append(Lever(label, column, *ends, float(idle[column])))
    taken = set[str]()
    return Controls(
        action,
        idle,
        looks=tuple(replace(x, less=_own(x.less, taken), more=_own(x.more, taken)) for x in looks),
        levers=tuple(
            replace(x, less=x.less and _own(x.less, taken), more=x.more and _own(x.more, taken)) for x in levers
        ),
        keys=tuple(_own(key, taken) for key in keys),
    )


def _own(button: AnyButton, taken: set[str]) -> AnyButton:
    """Each code does one thing: whatever comes first."""
    codes = tuple(code for code in button.codes if code not in taken)
    taken |= set(codes)
    return replace(button, codes=codes)


def _columns(parts: Sequence[tuple[str, Action]]) -> Iterator[tuple[str, Action, list[int]]]:
    first = 0
    for name, action in parts:
        yield name, action, list(range(first, first + action.n))
        first += action.n


def _look(name: str, direction: Literal["x", "y"], column: int) -> Look:
    less, more, axis = ("ArrowLeft", "ArrowRight", 2) if direction == "x" else ("ArrowUp", "ArrowDown", 3)
    ends = [Button(f"{name} {sign}", (code, f"Axis{axis}{sign}")) for code, sign in ((less, "-"), (more, "+"))]
    return Look(name, direction, column, ends[0], ends[1])
