"""A game that something else runs, such as a recording, and that is played by hand, on the page."""

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from diamond_fast.playing.hands import Hands, Panel
from diamond_fast.playing.loop import GameLoop
from diamond_fast.playing.recorder import Recorder
from diamond_fast.playing.server import PlayServer, invitation, serve
from diamond_fast.playing.session import LIMITS, View
from diamond_fast.playing.wire import describe_controls


class Stopped(Exception):
    """The player left before the game was over."""


class ByHand:
    """Between whoever runs a game and asks what to do, and the game's loop, which steps at the player's speed.

    Args:
        title: of the game.
        panel: what the player holds and moves.
        frame_shape: (H, W, 3).
        speed: steps a second.
    """

    def __init__(self, title: str, panel: Panel, frame_shape: tuple[int, int, int], speed: int):
        self._title, self._panel, self._frame = title, panel, np.zeros(frame_shape, np.uint8)
        self.hands = Hands(panel)
        self.paused, self.notice, self.speed, self.over = True, "", speed, ""
        self.recorder = Recorder(Path(), frame_shape)  # has nothing to do: who asks for actions records
        self._episode: object = None
        self._episodes = self._step = 0
        self._act: np.ndarray | None = None
        self._last: np.ndarray | None = None
        self._waiting = self._stopped = False
        self._changed = threading.Condition()

    # --- for whoever runs the game, on a thread of its own ----------------------------------------------------------

    def play(self, frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Shows a frame and waits for what the player does.

        Args:
            frame: uint8 [H,W,3].
            rng: another one for each episode.

        Raises:
            Stopped: there is no player any more.
        """
        with self._changed:
            if rng is not self._episode:
                self._episode, self._step, self.paused = rng, -1, True
                self._episodes += 1
            self._frame, self._step, self._act, self._waiting = frame, self._step + 1, None, True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._act is not None or self._stopped)
            if self._act is None:
                raise Stopped
            return self._act

    def wait_until_asked(self) -> None:
        """Returns once there is a frame, or nobody to show one to."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopped)

    # --- for the game's loop, as a Session --------------------------------------------------------------------------

    def step(self) -> None:
        """Does what the player means, and waits for what comes of it."""
        with self._changed:
            if self._waiting and self._act is None:
                self._act, self._waiting = self.hands.act(self.speed), False
                self._last = self._act
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._stopped)

    def view(self) -> View:
        """The frame and little else: who runs the game says nothing of rewards."""
        shown = None if self._last is None or self._step == 0 else self._panel.shown(self._last)
        return View(
            self._frame, "real", "human", self.paused, speed=self.speed, episode=self._episodes, step=self._step,
            action=shown, answers=self.hands.asked_at(), notice=self.notice,
        )  # fmt: skip

    def set_number(self, name: str, value: int) -> None:
        """Sets the speed. Raises ValueError out of range, or for anything else."""
        low, high = LIMITS["speed"]
        if name != "speed" or not low <= value <= high:
            raise ValueError(f"{name}: expected a speed of {low} to {high}, got {value}")
        self.speed = value

    def close(self) -> None:
        """The player has left."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def __getattr__(self, name: str) -> Any:
        """All else that a session can do. Raises ValueError."""
        if name.startswith("_"):
            raise AttributeError(name)
        raise ValueError(f"{name.replace('_', ' ')}: not while a game is being recorded; play, pause, step or end it")

    def describe(self) -> dict[str, Any]:
        """What the page is told first, as ``wire.describe``."""
        return {
            "title": self._title,
            "only_game": True,
            "actions": self._panel.rows,
            "policy": False,
            "game": True,
            "rewards": False,
            "controls": describe_controls(self._panel),
            "frame": self._frame.shape,
            "starts": [],
            "limits": LIMITS,
            "replay": {"name": "", "lengths": []},
            "device": "",
            "frame_rate": 0.0,
        }


async def play_by_hand(
    hand: ByHand, run: Callable[[], None], listening: socket.socket, host: str, token: str | None = None
) -> None:
    """Serves the page while a game is run.

    Args:
        hand: what the game asks.
        run: runs the game; is called on a thread of its own.
        listening: from ``server.bind``.
        host: it is bound to.
        token: of the address; a new random one if None.

    Raises:
        Stopped: the player ended it first.
        Exception: what ``run`` raises.
    """
    running = asyncio.create_task(asyncio.to_thread(run))
    running.add_done_callback(lambda _: hand.close())
    serving = None
    try:
        await asyncio.to_thread(hand.wait_until_asked)
        if not running.done():
            page = PlayServer(GameLoop(hand), hand.recorder, hand.describe(), host, token)
            print(*invitation(listening, page.token, host), sep="\n", flush=True)
            serving = asyncio.create_task(serve(page, listening))
            await asyncio.wait({running, serving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        hand.close()
        if serving is not None:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
    await running
