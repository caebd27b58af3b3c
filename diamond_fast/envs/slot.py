"""One running game, as :class:`~diamond_fast.envs.real.RealEnv` needs it."""

from typing import NamedTuple, Protocol

import numpy as np

from diamond_fast.spec import Action, Frame


class SlotStep(NamedTuple):
    """What one action led to."""

    frame: np.ndarray
    """uint8 [H,W,C]: the next frame; if the game ended, its last."""
    reward: float
    terminated: bool
    """The game ended."""
    truncated: bool
    """The game was cut short."""
    lives: int
    """Lives left in the game that goes on: the next one if this one ended. 0 in games without lives."""
    first_frame: np.ndarray | None
    """uint8 [H,W,C]: if the game ended and the slot began the next by itself, its first frame; else None."""


class Slot(Protocol):
    """A game that repeats itself exactly under the same seed and the same actions since that seed."""

    frame: Frame
    action: Action
    seed_lasts: int
    """A game that ends this many actions after the last seed, or later, is followed by one with a new seed."""

    def reset(self, seed: int) -> tuple[np.ndarray, int]:
        """Begin a game. Returns its first frame, uint8 [H,W,C], and the lives."""

    def send(self, action: np.ndarray) -> None:
        """Start a step and return at once; ``self.action.why_not(action)`` must be None."""

    def recv(self) -> SlotStep:
        """Wait for the step's end."""

    def close(self) -> None:
        """Free what the game holds."""
