"""Recall: a ball is seen for one frame, and comes back 20 frames later. A small image game for tests of memory."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from diamond_fast.domains.recall import ENV_ID

HIDDEN = 20  # steps until the ball, seen in the first frame, is back
_SIZE = 24  # pixels
_SIDE = 6  # pixels: of the ball and of the paddle
_PLACES = (2, 9, 16)  # left sides of the paddle, and of the ball, which is never in the middle
MOVES = 3  # steps in which the paddle can be moved: from then on an early choice counts, not later ones
STAYS = 5  # frames with the ball at the end: what it is worth can be learned from them before it is remembered
_BALL_COLOUR = (255, 255, 255)
_PADDLE_COLOUR = (0, 255, 0)
_CLOCK_COLOUR = (255, 0, 0)
_LEFT_COLOUR = (0, 0, 96)  # of the left half, since convolutions alone hardly know left from right


class Recall(gymnasium.Env):
    """A ball shows at the top, on the left or on the right, in the first frame alone. After 20 steps it is back at the
    bottom, on the same side, for five frames.

    Observations are uint8 [24,24,3]: the ball in white, a green paddle in one of three places, and a red clock that
    grows by a pixel a step, on a left half in dark blue and a right half in black. Actions: 0 left, 1 stay, 2 right;
    the paddle begins in the middle and moves in the first three steps alone. For each frame with the ball back the
    reward is +1 if the paddle is on its side, -1 if it is on the other side, and 0 in the middle. A perfect player
    scores 5. Whoever does not look at the ball scores 0 on average.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (_SIZE, _SIZE, 3), np.uint8)
        self.action_space = spaces.Discrete(3)
        self.ball = self.paddle = 0
        """Places, from 0 to 2."""
        self._t = 0

    def get_action_meanings(self) -> list[str]:
        """The actions' names, as Atari games give theirs."""
        return ["LEFT", "NOOP", "RIGHT"]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.ball, self.paddle, self._t = 2 * int(self.np_random.integers(2)), 1, 0
        return self.render(), {}

    def step(self, action: int):
        if self._t < MOVES:
            self.paddle = min(max(self.paddle + int(action) - 1, 0), 2)
        self._t += 1
        reward = float((self.paddle - 1) * (self.ball - 1)) if self._t >= HIDDEN else 0.0
        return self.render(), reward, self._t == HIDDEN + STAYS - 1, False, {}

    def render(self) -> np.ndarray:
        frame = np.zeros((_SIZE, _SIZE, 3), np.uint8)
        frame[2:, : _SIZE // 2] = _LEFT_COLOUR
        frame[:2, : self._t] = _CLOCK_COLOUR
        paddle, ball = slice(_PLACES[self.paddle], _PLACES[self.paddle] + _SIDE), side_of(self.ball)
        frame[_SIZE - 3 :, paddle] = _PADDLE_COLOUR
        if self._t == 0:
            frame[4 : 4 + _SIDE, ball] = _BALL_COLOUR
        elif self._t >= HIDDEN:
            frame[_SIZE - 10 : _SIZE - 4, ball] = _BALL_COLOUR
        return frame


def side_of(place: int) -> slice:
    """The columns of a ball in a place."""
    return slice(_PLACES[place], _PLACES[place] + _SIDE)


gymnasium.register(ENV_ID, entry_point=f"{__name__}:Recall")
