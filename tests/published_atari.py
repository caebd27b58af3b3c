"""The published Atari preprocessing, spelled out over a single-environment emulator: the readable truth."""

from typing import Any

import ale_py  # registers the games
import gymnasium
import numpy as np
from gymnasium import spaces

from diamond_fast.domains.atari.games import resolve_game


class PublishedAtari(gymnasium.Env):
    """Repeats an action for 4 frames and shows the maximum of the last two, resized by area.

    ``info["life_loss"]``: lives have fallen below the fewest so far in the game.
    """

    def __init__(self, game: str, frame_size: int = 64, max_noops: int = 30):
        import cv2

        self._resize = lambda image: cv2.resize(image, (frame_size, frame_size), interpolation=cv2.INTER_AREA)
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._env = gymnasium.make(f"ALE/{resolve_game(game)}-v5", frameskip=1, repeat_action_probability=0.0)
        self._max_noops = max_noops
        self.action_space = self._env.action_space
        self.observation_space = spaces.Box(0, 255, (frame_size, frame_size, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        frame, info = self._env.reset(seed=seed)
        for _ in range(self.np_random.integers(1, self._max_noops + 1) if self._max_noops else 0):
            frame, _, terminated, truncated, info = self._env.step(0)
            if terminated or truncated:
                frame, info = self._env.reset()
        self._last_frames = [frame, np.zeros_like(frame)]
        self._fewest_lives = info["lives"]
        return self._resize(frame), info

    def step(self, action: int):
        total = 0.0
        for i in range(4):
            frame, reward, terminated, truncated, info = self._env.step(action)
            total += reward
            if terminated or truncated:
                break  # what is shown is the last picture before the end
            if i >= 2:
                self._last_frames[3 - i] = frame
        shown = np.maximum(*self._last_frames)
        self._last_frames[0] = shown
        info["life_loss"] = info["lives"] < self._fewest_lives
        self._fewest_lives = min(info["lives"], self._fewest_lives)
        return self._resize(shown), total, terminated, truncated, info

    def close(self):
        self._env.close()
