"""Counter-Strike, deathmatch on Dust II, from recordings (paper, section 6)."""

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from diamond_fast.config import RunConfig
from diamond_fast.domains import recordings
from diamond_fast.recording_presets import CSGO

if TYPE_CHECKING:
    from diamond_fast.controls import Controls

_KEYS = {
    "up": ("KeyW", "Axis1-", "walk"),
    "left": ("KeyA", "Axis0-", "step"),
    "down": ("KeyS", "Axis1+", "walk"),
    "right": ("KeyD", "Axis0+", "step"),
    "jump": ("Space", "Pad0", ""),
    "crouch": ("KeyC", "Pad1", ""),  # Ctrl with W would close the page
    "slow": ("ShiftLeft", "Pad4", ""),
    "weapon 1": ("Digit1", "Pad12", "weapon"),
    "weapon 2": ("Digit2", "Pad15", "weapon"),
    "weapon 3": ("Digit3", "Pad13", "weapon"),
    "reload": ("KeyR", "Pad2", ""),
    "shoot": ("Mouse0", "Pad7", ""),
    "zoom": ("Mouse2", "Pad6", ""),
}
"""Keys and clicks, in the order of the recordings, with their codes and what only one of can be held."""
_BY_ARROWS = {"x": 60, "y": 50}
"""Points that an arrow turns the camera, as published."""
_GAIN = 4.0
"""Points for each pixel that the mouse moves. All motion of a step counts; published: 10, of the last event alone."""


def _controls(cfg: RunConfig) -> "Controls":
    import numpy as np

    from diamond_fast.controls import Button, Controls, Key, Look
    from diamond_fast.replay import csgo
    from diamond_fast.spec import MultiBinary

    keys = [Key(name, (code, pad), i, rivals) for i, (name, (code, pad, rivals)) in enumerate(_KEYS.items())]
    column, looks = len(keys), []
    idle = np.zeros(csgo.ACTION.n, np.uint8)
    ways: tuple[tuple[Literal["x", "y"], tuple[int, ...], tuple[str, str], int], ...] = (
        ("x", csgo.MOUSE_X, ("Left", "Right"), 2),
        ("y", csgo.MOUSE_Y, ("Up", "Down"), 3),
    )
    for direction, distances, ends, axis in ways:
        less, more = (
            Button(f"look {end.lower()}", (f"Arrow{end}", f"Axis{axis}{sign}"))
            for end, sign in zip(ends, "-+", strict=True)
        )
        looks.append(Look(f"mouse {direction}", direction, column, less, more, _BY_ARROWS[direction], distances, _GAIN))
        idle[column + distances.index(0)] = 1
        column += len(distances)
    return Controls(MultiBinary(csgo.ACTION.n), idle, tuple(keys), (), tuple(looks))


DOMAIN = replace(recordings.DOMAIN, name="csgo", controls=_controls, presets={"csgo": CSGO})
