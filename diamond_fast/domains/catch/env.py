"""Catch: a ball falls, a paddle catches it. A small image game that trains in minutes, for tests and tutorials."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from diamond_fast.domains.catch import ENV_ID

BALLS_PER_EPISODE = 5
_CELL = 3  # pixels: the size of the ball and of a paddle's step
_NUM_COLUMNS = 8
_PADDLE_CELLS = 2
_SIZE = _CELL * _NUM_COLUMNS
_FALL = 2  # pixels a step
_TOP = _CELL
_BOTTOM = _SIZE - _CELL
_BALL_COLOUR = (255, 255, 255)
_PADDLE_COLOUR = (0, 255, 0)
_LEFT_TO_COME_COLOUR = (255, 0, 0)


class Catch(gymnasium.Env):
    """Five balls an episode, each in one of 8 columns at random; they fall straight down, 10 steps each.

    Observations are uint8 [24,24,3]: a white ball, a green paddle, and a red square for every ball still to come.
    Actions: 0 left, 1 stay, 2 right. The reward is +1 if a ball is caught, -1 if it is missed.

    Every ball can be reached from everywhere: a perfect player scores 5. Two of the 8 columns are above the paddle
    wherever it stands: a player who does not look scores 5 * (2/8 - 6/8) = -2.5 on average.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (_SIZE, _SIZE, 3), np.uint8)
        self.action_space = spaces.Discrete(3)
        self._ball_x = self._ball_y = self._paddle_x = self._balls_to_come = 0

    def get_action_meanings(self) -> list[str]:
        """The actions' names, as Atari games give theirs."""
        return ["LEFT", "NOOP", "RIGHT"]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self._paddle_x = _CELL * int(self.np_random.integers(_NUM_COLUMNS - _PADDLE_CELLS + 1))
        self._balls_to_come = BALLS_PER_EPISODE
        self._drop_next_ball()
        return self.render(), {}

    def step(self, action: int):
        moved = self._paddle_x + _CELL * (int(action) - 1)
        self._paddle_x = min(max(moved, 0), _SIZE - _CELL * _PADDLE_CELLS)
        if self._ball_y == _BOTTOM:
            self._drop_next_ball()
        else:
            self._ball_y += _FALL
        landed = self._ball_y == _BOTTOM
        caught = self._paddle_x <= self._ball_x < self._paddle_x + _CELL * _PADDLE_CELLS
        reward = (1.0 if caught else -1.0) if landed else 0.0
        return self.render(), reward, landed and self._balls_to_come == 0, False, {}

    def render(self) -> np.ndarray:
        frame = np.zeros((_SIZE, _SIZE, 3), np.uint8)
        for i in range(self._balls_to_come):
            frame[: _CELL - 1, i * _CELL : (i + 1) * _CELL - 1] = _LEFT_TO_COME_COLOUR
        frame[_BOTTOM:, self._paddle_x : self._paddle_x + _CELL * _PADDLE_CELLS] = _PADDLE_COLOUR
        frame[self._ball_y : self._ball_y + _CELL, self._ball_x : self._ball_x + _CELL] = _BALL_COLOUR
        return frame

    def _drop_next_ball(self) -> None:
        self._ball_x = _CELL * int(self.np_random.integers(_NUM_COLUMNS))
        self._ball_y = _TOP
        self._balls_to_come -= 1


gymnasium.register(ENV_ID, entry_point=f"{__name__}:Catch")
