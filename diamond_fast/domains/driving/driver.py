"""A driver that sees the road by its colour and the speed on the car's instruments, and does not always do the right
thing: what a world model of ``diamond_fast/Driving-v0`` learns from."""

import math

import numpy as np

_CAR_ROW = 0.75  # of the height: where the car is; it is always in the middle
_FIRST_ROW, _LAST_ROW = 0.66, 0.36  # of the height: from right before the car to as far as the driver looks
_SPEED_TOP, _SPEED_LEFT, _SPEED_RIGHT = 7 / 8, 1 / 8, 5 / 32  # of height and width: the white bar that shows the speed
_BAR, _BAR_PER_SPEED = 0.206 / 64**2, 0.052 / 64**2  # its share of the picture at rest, and what a speed of 1 adds
_SLOWEST, _FASTEST = 10.0, 45.0  # units a second
_MEMORY = 0.85  # of the noise from one step to the next: it lasts for about half a second
_STEERING_NOISE, _PEDAL_NOISE = 0.25, 0.35


class Driver:
    """Plays one episode after another; each has random numbers of its own, by which a new one is known.

    Args:
        lapses: how likely it is in each step that the driver, for one to three seconds, holds the wheel and a pedal
            somewhere without looking.
        fastest: on a straight road, in units a second. A road is 13 wide.
    """

    def __init__(self, lapses: float = 0.0, fastest: float = _FASTEST) -> None:
        self._lapses, self._fastest = lapses, fastest
        self._lapse_left = 0  # steps
        self._held = np.zeros(2)
        self._rng: np.random.Generator | None = None
        self._noise = np.zeros(2)
        self._wanted = _SLOWEST

    def __call__(self, frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """
        Args:
            frame: uint8 [H,W,3], of 64x64 or larger.
            rng: of the episode.

        Returns:
            float32 [2]: steering and acceleration.
        """
        if rng is not self._rng:
            self._rng, self._noise, self._lapse_left = rng, np.zeros(2), 0
            self._wanted = rng.uniform(_SLOWEST, self._fastest)
        if rng.random() < 0.03:
            self._wanted = rng.uniform(_SLOWEST, self._fastest)
        spread = math.sqrt(1 - _MEMORY**2)
        self._noise = _MEMORY * self._noise + spread * rng.normal(size=2) * (_STEERING_NOISE, _PEDAL_NOISE)
        if self._lapses and self._lapse_left == 0 and rng.random() < self._lapses:
            self._lapse_left, self._held = int(rng.integers(10, 31)), rng.uniform(-1, 1, size=2)
        if self._lapse_left:
            self._lapse_left -= 1
            return self._held.astype(np.float32)
        angle, bend = where_the_road_goes(frame)
        wanted = min(self._wanted, self._fastest * max(0.3, 1 - 1.2 * bend))
        act = np.array([1.6 * angle, (wanted - speed_shown(frame)) / 10]) + self._noise
        return act.clip(-1, 1).astype(np.float32)


drive = Driver()
"""``--player diamond_fast.domains.driving.driver:drive``: a good driver, who hardly leaves the road."""

stray = Driver(lapses=0.02, fastest=80.0)
"""``--player diamond_fast.domains.driving.driver:stray``: one who drives too fast, often does, and comes back. Who
learns to drive in imagination needs to have seen what that costs."""


def speed_shown(frame: np.ndarray) -> float:
    """Units a second, from the area of the white bar among the instruments."""
    height, width, _ = frame.shape
    bar = frame[int(_SPEED_TOP * height) :, int(_SPEED_LEFT * width) : math.ceil(_SPEED_RIGHT * width)]
    return max(0.0, bar.min(axis=-1).sum() / 255 / (height * width) - _BAR) / _BAR_PER_SPEED


def where_the_road_goes(frame: np.ndarray) -> tuple[float, float]:
    """The angle to the road some way ahead, to the right, and how much the road bends further on, both in radians."""
    height, width, _ = frame.shape
    red, green = frame[..., 0].astype(int), frame[..., 1].astype(int)
    road = (green - red < 40) & (green > 60)  # grass is green, the car red, tyres and instruments are black
    centre, reach = width / 2, width / 6
    angles = []
    for row in range(int(_FIRST_ROW * height), int(_LAST_ROW * height), -1):
        columns = np.flatnonzero(road[row])
        near = columns[abs(columns + 0.5 - centre) < reach]
        if len(near):
            centre = near.mean() + 0.5
            angles.append(math.atan2(centre - width / 2, _CAR_ROW * height - row))
    if not angles:
        columns = np.nonzero(road[: int(_FIRST_ROW * height)])[1]
        away = columns.mean() + 0.5 - width / 2 if len(columns) else width / 2
        return math.copysign(0.5, away), 0.5
    ahead = angles[min(len(angles) - 1, int(0.12 * height))]
    return ahead, abs(angles[-1])
