"""An environment that does what users' environments do wrong, one fault at a time; faulty_env:Faulty-v0."""

import asyncio
import os
import signal
import sys
import threading

import gymnasium
import numpy as np
from gymnasium import spaces

released = threading.Event()
"""A hanging environment waits for it."""
mended: set[str] = set()
"""Faults that are gone."""


class Faulty(gymnasium.Env):
    """Random images; an episode has `length` steps.

    Args:
        fault: what goes wrong, see the methods.
        at: the step of the environment at which a fault of steps happens.
    """

    def __init__(self, fault="", length=9, at=1, high=255):
        self.observation_space = spaces.Box(0, high, (12, 12, 3), np.uint8)
        self.action_space = spaces.Discrete(3)
        self.fault, self.length, self.at, self.high = fault, length, at, high
        self.steps = self.left = 0
        self._do("make")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = self.length
        self._do("reset")
        return self._obs(), {}

    def step(self, action):
        self.steps += 1
        self.left -= 1
        reward = {"array": np.array([1.5]), "huge": 1e39, "nothing": None, "two": [1.0, 2.0]}.get(self.fault, 1.0)
        if self.steps == self.at:
            self._do("step")
        return self._obs(), reward, self.left == 0, False, {}

    def close(self):
        self._do("close")

    def _obs(self):
        image = self.np_random.integers(0, self.high + 1, (12, 12, 3)).astype(np.uint8)
        if self.fault in ("floats", "fractions"):
            return image / (255.0 if self.fault == "fractions" else 1.0)
        if self.fault == "integers":
            return image.astype(np.int64)
        if self.fault == "dark":
            return image // 128
        return image[:6] if self.fault == "small" else image

    def _do(self, when):
        what, _, then = self.fault.partition(" in ")
        if then != when or self.fault in mended:
            return
        if what == "error":
            raise KeyError("no\nsuch thing")
        if what == "exit":
            sys.exit(3)
        if what == "death":
            os._exit(7)
        if what == "handlers":
            signal.signal(signal.SIGINT, lambda *_: None)
        if what == "event loop":
            asyncio.get_event_loop()
        if what == "print":
            print("look", flush=True)
        if what == "hanging":
            released.wait()


gymnasium.register("Faulty-v0", entry_point=Faulty)
