"""A player of ``diamond_fast/Doom-v0`` who walks about, looks around and shoots, now and then at random: what a world
model learns from."""

import numpy as np

_SAME = 1.5  # of 255: frames that differ less on average show that a wall is in the way
_TURNS = (0.0, 0.12, 0.3, 0.7)  # of the fastest: straight on, and how fast the player turns else
_TURN_SHARES = (0.4, 0.25, 0.2, 0.15)


class Wanderer:
    """Does one thing for a while, then another.

    Each episode has random numbers of its own, by which a new one is known.
    """

    def __init__(self) -> None:
        self._rng: np.random.Generator | None = None
        self._frame = np.zeros(0, np.uint8)
        self._left = 0  # steps until something else is done
        self._keys = np.zeros(4, np.uint8)
        self._shoots = False
        self._turn = self._level = self._goal = 0.0

    def __call__(self, frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """
        Args:
            frame: uint8 [H,W,3].
            rng: of the episode.

        Returns:
            float32 [7]: clicks, keys (w, a, s, d), mouse_x and mouse_y, as ``Mixed`` has them.
        """
        stuck = False
        if rng is not self._rng:
            self._rng, self._left, self._level = rng, 0, 0.0
        elif self._keys.any() and frame.shape == self._frame.shape:
            stuck = np.abs(frame.astype(np.int16) - self._frame).mean() < _SAME
        self._frame = frame
        if self._left == 0 or stuck:
            self._do_something_else(rng, stuck)
        self._left -= 1
        turn = self._turn + 0.05 * rng.normal() * (self._turn != 0)
        rise = np.clip(self._goal - self._level, -0.25, 0.25)
        self._level += rise
        shoots = self._shoots and rng.random() < 0.7
        return np.array([shoots, *self._keys, np.clip(turn, -1, 1), rise], np.float32)

    def _do_something_else(self, rng: np.random.Generator, stuck: bool) -> None:
        self._left = int(rng.integers(5, 25))
        walk = rng.choice(3, p=(0.2, 0.68, 0.12))
        strafe = rng.choice(3, p=(0.7, 0.15, 0.15))
        self._keys = np.array([walk == 1, strafe == 1, walk == 2, strafe == 2], np.uint8)
        self._turn = float(rng.choice(_TURNS, p=_TURN_SHARES) * rng.choice((-1, 1)) * rng.uniform(0.7, 1.3))
        self._shoots = bool(rng.random() < 0.3)
        self._goal = float(rng.choice((0.0, rng.uniform(-1, 1)), p=(0.8, 0.2)))
        if stuck:
            self._left, self._turn = 8, float(rng.choice((-1, 1)) * rng.uniform(0.5, 1))


class Turner:
    """Walks about as a ``Wanderer``, stands until nothing moves, and turns fully round twice, 15 degrees a step.

    Nothing that the second turn shows is new: a world model that remembers knows all of it.
    """

    WALKS, STANDS, TURNS = 24, 16, 48  # steps

    def __init__(self) -> None:
        self._walker = Wanderer()
        self._rng: np.random.Generator | None = None
        self._step = 0

    def __call__(self, frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """As ``Wanderer``."""
        if rng is not self._rng:
            self._rng, self._step = rng, 0
        t = self._step % (self.WALKS + self.STANDS + self.TURNS)
        self._step += 1
        if t < self.WALKS:
            return self._walker(frame, rng)
        act = np.zeros(7, np.float32)
        act[5] = 1.0 if t >= self.WALKS + self.STANDS else 0.0
        return act


wander = Wanderer()
"""``--player diamond_fast.domains.doom.player:wander``."""
turn_round = Turner()
"""``--player diamond_fast.domains.doom.player:turn_round``."""
