"""Counter-Strike, deathmatch on Dust II, from recordings (paper, section 6)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

from diamond_fast.config import RunConfig
from diamond_fast.domains import recordings
from diamond_fast.recording_presets import CSGO

FORWARD, BACK, LEFT_CLICK = 0, 2, 11
TURN = {"": 24, "LEFT": 18, "RIGHT": 30}
"""One of 23 numbers says how far the mouse moves sideways: not at all, or by 60 points."""
LEVEL = 43
"""One of 15 says how far it moves up or down: not at all."""


def _held_together(cfg: RunConfig) -> Mapping[str, Sequence[int]]:
    """Walking, turning and shooting, out of 51 numbers: 11 keys, 2 mouse buttons, and the mouse."""
    walking = {"": (), "UP": (FORWARD,), "DOWN": (BACK,)}
    shooting = {"": (), "FIRE": (LEFT_CLICK,)}
    return {
        walk + turn + shoot or "NOOP": (*walking[walk], *shooting[shoot], TURN[turn], LEVEL)
        for shoot, walk, turn in product(shooting, walking, TURN)
    }


DOMAIN = replace(recordings.DOMAIN, name="csgo", held_together=_held_together, presets={"csgo": CSGO})
