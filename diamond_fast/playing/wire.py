"""What goes over the WebSocket to the page.

A view is one binary message: the length of its JSON (uint32, little-endian), the JSON, the frame's bytes [H,W,3], those
of the trajectory [S,H,W,3], and those of the small one [S',h,w,3].
"""

import json
import math
import struct
from dataclasses import fields
from typing import Any

from diamond_fast.controls import Button, Controls
from diamond_fast.domains import has_env
from diamond_fast.playing.hands import Panel
from diamond_fast.playing.session import LIMITS, Session, View
from diamond_fast.playing.starts import pictures

_LENGTH = struct.Struct("<I")
_PIXELS = ("frame", "trajectory", "small")


def encode_view(view: View, frames_per_second: float) -> bytes:
    """One message; values that are not finite, or not there, become null."""
    state = {field.name: getattr(view, field.name) for field in fields(view) if field.name not in _PIXELS}
    for name in ("reward", "total", "value"):
        state[name] = state[name] if state[name] is not None and math.isfinite(state[name]) else None
    state["size"], state["small_size"] = view.frame.shape[:2], view.small.shape[1:3]
    state["denoised"] = len(view.trajectory)
    state["frames_per_second"] = frames_per_second
    text = json.dumps(state).encode()
    return b"".join((_LENGTH.pack(len(text)), text, *(getattr(view, name).tobytes() for name in _PIXELS)))


def describe(session: Session, frame_rate: float) -> dict[str, Any]:
    """What the page is told once: the game, its buttons, what can be set, and what to expect."""
    source, panel = session.source, session.source.panel
    return {
        "title": source.title,
        "actions": panel.rows,
        "policy": source.agent.actor_critic is not None,
        "game": has_env(source.cfg),
        "rewards": source.has_rewards,
        "controls": describe_controls(panel),
        "frame": source.frame_shape,
        "starts": pictures(source),
        "limits": LIMITS,
        "replay": {"name": source.replay_name, "lengths": source.replay.lengths.tolist()},
        "device": str(source.device),
        "frame_rate": frame_rate,
    }


def describe_controls(panel: Panel) -> dict[str, Any]:
    """What can be held and moved, for the page."""
    return {
        "together": isinstance(panel, Controls),
        "keys": [_button(key) for key in panel.keys],
        "levers": [
            {"name": x.name, "rest": x.rest, "less": _button(x.less), "more": _button(x.more)} for x in panel.levers
        ],
        "looks": [
            {"name": x.name, "direction": x.direction, "less": _button(x.less), "more": _button(x.more)}
            for x in panel.looks
        ],
    }


def _button(button: Button | None) -> dict[str, Any] | None:
    return None if button is None else {"name": button.name, "codes": button.codes}
