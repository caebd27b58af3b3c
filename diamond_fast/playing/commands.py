"""What a player can ask for, as short JSON messages: ``{"do": "hold", "value": ["left"]}``."""

import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from diamond_fast.playing.session import LIMITS

MAX_BUTTONS = 32
PICTURE = "picture"
"""Begins at a picture, the bytes of a frame; it is sent apart, not as text."""
SEEN = "seen"
"""Says that a view was shown, and asks for nothing."""


class Command(NamedTuple):
    """A message of the right form; whether it makes sense in the game shows when it is performed."""

    do: str
    value: Any = None


def decode(text: str) -> Command:
    """Read a message.

    Raises:
        ValueError: it is no JSON object, asks for something unknown, or its value has the wrong form.
    """
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("message: expected JSON") from None
    if not isinstance(message, dict) or not isinstance(message.get("do"), str):
        raise ValueError('message: expected an object such as {"do": "step"}')
    do, value = message["do"], message.get("value")
    if do not in _COMMANDS:
        raise ValueError(f"message: expected to do one of {', '.join(_COMMANDS)}, got {do[:40]!r}")
    form, _ = _COMMANDS[do]
    if not _FORMS[form](value):
        raise ValueError(f"{do}: expected {form}")
    return Command(do, value)


def perform(session: Any, command: Command) -> None:
    """Do what a command asks for. Raises what the session raises, ValueError if it makes no sense.

    Args:
        session: a ``Session``, or what can do some of it.
    """
    _, action = _COMMANDS[command.do]
    action(session, command.value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53


def _is_list_of(check: Callable[[Any], bool], value: Any, lengths: range) -> bool:
    return isinstance(value, list) and len(value) in lengths and all(map(check, value))


def _is_finite(value: Any) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53 and math.isfinite(value)
    )


def _is_held(value: Any) -> bool:
    """Names of buttons, each once; or those, and how the mouse has moved, where levers are, and when it was."""
    if not isinstance(value, dict):
        return _is_list_of(lambda x: isinstance(x, str), value, range(MAX_BUTTONS + 1)) and len({*value}) == len(value)
    mouse, axes, at = value.get("mouse", [0, 0]), value.get("axes", {}), value.get("at")
    return (
        {"keys"} <= set(value) <= {"keys", "mouse", "axes", "at"}
        and not isinstance(value["keys"], dict)
        and _is_held(value["keys"])
        and _is_list_of(_is_finite, mouse, range(2, 3))
        and isinstance(axes, dict)
        and len(axes) <= MAX_BUTTONS
        and all(position is None or _is_finite(position) for position in axes.values())
        and (at is None or _is_finite(at))
    )


_FORMS: dict[str, Callable[[Any], bool]] = {
    "no value": lambda value: value is None,
    "true or false": lambda value: isinstance(value, bool),
    "a name": lambda value: isinstance(value, str),
    "a whole number": _is_number,
    "an episode and a step": lambda value: _is_list_of(_is_number, value, range(2, 3)),
    "the bytes of a frame": lambda value: isinstance(value, bytes),  # which no text can be
    "a list of buttons, or an object of keys, mouse, axes and at": lambda value: _is_held(value),
}


def _hold(session: Any, value: Any) -> None:
    session.hands.hold(**(value if isinstance(value, dict) else {"keys": value}))


def _pause(session: Any, on: bool) -> None:
    session.paused = on


def _step(session: Any, _: None) -> None:
    session.paused = True
    session.step()


def _set_number(name: str) -> tuple[str, Callable[[Any, int], None]]:
    return "a whole number", lambda session, value: session.set_number(name, value)


_COMMANDS: dict[str, tuple[str, Callable[[Any, Any], None]]] = {
    SEEN: ("no value", lambda session, _: None),
    "hold": ("a list of buttons, or an object of keys, mouse, axes and at", _hold),
    "pause": ("true or false", _pause),
    "step": ("no value", _step),
    "restart": ("no value", lambda session, _: session.restart()),
    "next": ("no value", lambda session, _: session.next_episode()),
    "world": ("a name", lambda session, value: session.switch_world(value)),
    "controller": ("a name", lambda session, value: session.set_controller(value)),
    "record": ("true or false", lambda session, value: session.record(value)),
    "seek": ("an episode and a step", lambda session, place: session.seek(*place)),
    "start": ("an episode and a step", lambda session, place: session.start(*place)),
    PICTURE: ("the bytes of a frame", lambda session, value: session.start_from_picture(value)),
    "quality": ("a name", lambda session, value: session.set_quality(value)),
    "details": ("true or false", lambda session, value: session.show_details(value)),
    "dream_from_here": ("no value", lambda session, _: session.dream_from_here()),
    **{name: _set_number(name) for name in LIMITS},
}
