"""Maze: two rooms, of which one is good, seen through a window of 3x3 cells. A small image game for tests of memory."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from diamond_fast.domains.maze import ENV_ID

CORRIDOR = 3  # cells between the fork and a room: in the last of them a denoiser no longer sees the room before
STAYS = 2  # frames in a room
TRIPS = 4
TRIP = 1 + CORRIDOR + STAYS  # frames: the fork, a corridor, a room
_CELL = 8  # pixels
_SIZE = 3 * _CELL  # pixels: the window
_WALL_COLOUR = (96, 96, 96)
_FORK_COLOUR = (0, 0, 0)
_CORRIDOR_COLOURS = ((0, 0, 160), (160, 0, 160))  # left, right
_ROOM_COLOURS = ((255, 0, 0), (0, 255, 0))  # bad, good
_PLAYER_COLOUR = (255, 255, 255)
_CLOCK_COLOUR = (255, 255, 0)


class Maze(gymnasium.Env):
    """A T-maze. From a fork a corridor leads to a room on the left, another to one on the right; one of them is good.

    Observations are uint8 [24,24,3]: the 3x3 cells around the player, who is white, and a yellow clock that grows by a
    pixel a step. Corridors are blue (left) and violet (right), a good room is green and a bad one is red. Which is good
    lasts for an episode and shows only inside. The player begins in either room, and is then at the fork. Actions:
    0 left, 1 right. They count at the fork: the player then walks through the corridor, is in the room for two frames,
    and at the fork again, four times. For each frame in a room but the first the reward is +1 or -1. A perfect player,
    who knows from the first frame where to go, gets 8, and whoever forgets 0 on average.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (_SIZE, _SIZE, 3), np.uint8)
        self.action_space = spaces.Discrete(2)
        self.good = self.arm = 0
        """0 left, 1 right: where the good room is, and where the player went last."""
        self._t = 0

    def get_action_meanings(self) -> list[str]:
        """The actions' names, as Atari games give theirs."""
        return ["LEFT", "RIGHT"]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.good, self.arm = (int(drawn) for drawn in self.np_random.integers(2, size=2))
        self._t = 0
        return self.render(), {}

    def step(self, action: int):
        if self._place() == 0:
            self.arm = int(action)
        self._t += 1
        reward = float(2 * (self.arm == self.good) - 1) if self._place() > CORRIDOR else 0.0
        return self.render(), reward, self._t == TRIPS * TRIP, False, {}

    def _place(self) -> int:
        """Cells from the fork; behind the corridor, the frames in a room come one after the other."""
        return (self._t - 1) % TRIP

    def render(self) -> np.ndarray:
        frame = np.full((_SIZE, _SIZE, 3), _WALL_COLOUR, np.uint8)
        way = 1 if self.arm else -1
        place = min(self._place(), CORRIDOR + 1)  # a room is two cells deep
        for column in range(3):
            cell = place * way + column - 1
            columns = slice(column * _CELL, (column + 1) * _CELL)
            if abs(cell) > CORRIDOR:
                if place > CORRIDOR:
                    frame[:, columns] = _ROOM_COLOURS[self.arm == self.good]
            else:
                frame[_CELL : 2 * _CELL, columns] = _CORRIDOR_COLOURS[cell > 0] if cell else _FORK_COLOUR
        frame[_CELL + 2 : 2 * _CELL - 2, _CELL + 2 : 2 * _CELL - 2] = _PLAYER_COLOUR
        frame[:2, : self._t] = _CLOCK_COLOUR
        return frame


gymnasium.register(ENV_ID, entry_point=f"{__name__}:Maze")
