"""A world of one's own, as a folder of ``diamond_fast/domains`` would have it: lamps that buttons switch on.

Any of the three buttons can be held at once, and frames are not square.
"""

import numpy as np

from diamond_fast.config import RunConfig
from diamond_fast.domains.domain import Domain
from diamond_fast.envs.slot import SlotStep
from diamond_fast.spec import Frame, MultiBinary


class Lamps:
    """Three lamps over a background that the seed chooses. A game lasts 6 steps; each lamp that is lit is a point."""

    action = MultiBinary(3)
    seed_lasts = 0

    def __init__(self, cfg: RunConfig):
        self.frame = Frame.of_size(cfg.frame_size)

    def reset(self, seed: int) -> tuple[np.ndarray, int]:
        self.background, self.left = seed % 200, 6
        return self.picture(np.zeros(3, np.uint8)), 0

    def send(self, action: np.ndarray) -> None:
        self.held = action

    def recv(self) -> SlotStep:
        self.left -= 1
        return SlotStep(self.picture(self.held), float(self.held.sum()), self.left == 0, False, 0, None)

    def close(self) -> None:
        pass

    def picture(self, lit: np.ndarray) -> np.ndarray:
        frame = np.full(self.frame.shape, self.background, np.uint8)
        for i in range(3):
            frame[2:6, 4 + 12 * i : 12 + 12 * i] = 255 * lit[i]
        return frame


DOMAIN = Domain(
    "lamps",
    make_slot=Lamps,
    action_names=lambda cfg: ("left lamp", "middle lamp", "right lamp"),
    presets={"lamps": RunConfig(domain="lamps", frame_size=(24, 40))},
)
