"""Roll: a ball rolls down a lane and is steered into a cup. A small image game of one number, for tests."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from diamond_fast.domains.roll import ENV_ID

_SIZE = 24  # pixels
_BALL = 3  # pixels
_CUP = 8  # pixels
_ROLL = 2  # pixels a step
_TOP = 2  # where a ball begins
_BOTTOM = _SIZE - _BALL - 1  # where it arrives, in the upper rows of the cup, whose lowest row is always seen
_FRICTION = 0.5  # of the speed to the side that is left after a step
_FORCE = 1.5  # pixels a step, added to that speed by the strongest push
_BALL_COLOUR = (255, 255, 255)
_CUP_COLOUR = (0, 255, 0)


class Roll(gymnasium.Env):
    """A ball rolls down for 9 steps, from a random place towards a cup at another. One step later the episode ends.

    Observations are uint8 [24,24,3]: a white ball and a green cup. The action is a push to the left (-1) or right (1):
    it changes the ball's speed, which friction takes away, so a ball has to be slowed down again over the cup. The
    reward is +1 if the ball's middle is in the cup when it arrives, else -1: a perfect player scores 1.

    The ball stays for a step because the last frame of an episode is no target of the denoiser's loss: a world model
    that never learned how balls arrive could not imagine it.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (_SIZE, _SIZE, 3), np.uint8)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self.x = self.speed = 0.0
        """The ball's left side and its speed to the right, in pixels."""
        self.cup = 0
        """The left side of the cup."""
        self._y = _TOP

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.x, self.speed = float(self.np_random.integers(_SIZE - _BALL + 1)), 0.0
        self.cup = int(self.np_random.integers(_SIZE - _CUP + 1))
        self._y = _TOP
        return self.render(), {}

    def step(self, action: np.ndarray):
        if self._y == _BOTTOM:
            return self.render(), 0.0, True, False, {}
        push = min(max(float(np.asarray(action).item()), -1.0), 1.0)
        self.speed = _FRICTION * self.speed + _FORCE * push
        moved = self.x + self.speed
        self.x = min(max(moved, 0.0), float(_SIZE - _BALL))
        if moved != self.x:  # the lane's walls stop it
            self.speed = 0.0
        self._y += _ROLL
        arrived = self._y == _BOTTOM
        inside = self.cup <= self.x + _BALL / 2 <= self.cup + _CUP
        return self.render(), (1.0 if inside else -1.0) if arrived else 0.0, False, False, {}

    def render(self) -> np.ndarray:
        frame = np.zeros((_SIZE, _SIZE, 3), np.uint8)
        frame[_BOTTOM:, self.cup : self.cup + _CUP] = _CUP_COLOUR
        x = round(self.x)
        frame[self._y : self._y + _BALL, x : x + _BALL] = _BALL_COLOUR
        return frame


def scripted_push(game: Roll) -> float:
    """What a perfect player does: the push that brings the ball to the middle of the cup at once, as far as one can."""
    way = game.cup + _CUP / 2 - game.x - _BALL / 2
    return float(np.clip((way - _FRICTION * game.speed) / _FORCE, -1, 1))


gymnasium.register(ENV_ID, entry_point=f"{__name__}:Roll")
