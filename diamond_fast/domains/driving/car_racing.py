"""The environment behind ``diamond_fast/Driving-v0``. Importing it needs Box2D and pygame."""

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled

try:
    from gymnasium.envs.box2d.car_racing import FPS, CarRacing
except (DependencyNotInstalled, ImportError) as error:
    raise DependencyNotInstalled("CarRacing needs pip install 'diamond_fast[driving]'") from error

PICTURES_PER_SECOND = 10
_REPEATS = FPS // PICTURES_PER_SECOND
_BRAKES = 0.8  # from 0.9 on, wheels block
_NOTHING: Any = None  # what CarRacing's own reset takes a step with
_ZOOM_SECONDS = 1.0  # in which the view closes in on the car


class Driving(CarRacing):
    """CarRacing, seen from above, with two numbers from -1 to 1 as actions: steering and acceleration.

    Steering turns left (-1) or right (1); acceleration is gas above 0 and the brake below. An action is held for a
    tenth of a second, five steps of the physics, of which the last is drawn. Observations are uint8 [96,96,3]; the
    black bar at the bottom shows speed, wheels and steering. Rewards are CarRacing's: 1000 for a lap's tiles, -0.1 a
    physics step, -100 off the map. An episode ends with a lap or off the map.
    """

    def __init__(self, render_mode: str | None = None, lap_complete_percent: float = 0.95):
        super().__init__(render_mode=render_mode, lap_complete_percent=lap_complete_percent)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self._hidden = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed, options=options)
        self._hidden = True
        for _ in range(round(FPS * _ZOOM_SECONDS)):
            super().step(_NOTHING)
        self._hidden = False
        self.state = self._render("state_pixels")
        return self.state, {}

    def step(self, action: np.ndarray | int | None):
        if action is None:  # so CarRacing's reset begins
            return super().step(_NOTHING)
        steering, acceleration = np.clip(np.asarray(action, np.float64), -1, 1)
        pedals = np.array([steering, max(acceleration, 0.0), _BRAKES * max(-acceleration, 0.0)])
        total = 0.0
        for repeat in range(_REPEATS):
            self._hidden = repeat < _REPEATS - 1
            _, reward, terminated, truncated, info = super().step(pedals)
            total += reward
            if terminated or truncated:
                break
        if self._hidden:  # it ended between two pictures
            self._hidden = False
            self.state = self._render("state_pixels")
        return self.state, total, terminated, truncated, info

    def _render(self, mode: str):
        """Drawing takes 60 times as long as the physics."""
        return self.state if self._hidden else super()._render(mode)
