"""A game of one's own: a Gymnasium environment with images, registered, and trained on from the command line.

python examples/own_game.py            # a short run: seconds
python -m diamond_fast.train --env-id own_game:Follow-v0 --frame-size 16    # a real one; call it from examples/
"""

import sys

import gymnasium
import numpy as np
from gymnasium import spaces


class Follow(gymnasium.Env):
    """A dot jumps to a column of its own; being under it is worth 1. Observations uint8 [16,16,3], actions 0 to 2."""

    observation_space = spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = spaces.Discrete(3)  # left, stay, right

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.me, self.dot = 0, 8, int(self.np_random.integers(16))
        return self._frame(), {}

    def step(self, action):
        self.steps += 1
        self.me = min(max(self.me + int(action) - 1, 0), 15)
        reward = float(self.me == self.dot)
        if reward:
            self.dot = int(self.np_random.integers(16))
        return self._frame(), reward, self.steps == 30, False, {}

    def _frame(self):
        frame = np.zeros((16, 16, 3), np.uint8)
        frame[2, self.dot], frame[13, self.me] = 255, (0, 255, 0)
        return frame


gymnasium.register("Follow-v0", Follow)

SHORT = """--preset quick --frame-size 16 --collection.num-steps-total 120 --collection.first-epoch-min 60
--collection.first-epoch-max 60 --collection.steps-per-epoch 60 --num-final-epochs 0 --evaluation.num-episodes 1
--evaluation.num-final-episodes 1 --reward-end.channels 8 8 --reward-end.depths 1 1 --reward-end.attn-depths 0 0
--actor-critic.channels 8 8 --actor-critic.down 1 1 --denoiser.inner-model.channels 8 8
--denoiser.inner-model.depths 1 1 --denoiser.inner-model.attn-depths 0 0 --denoiser-update.steps-first-epoch 4
--denoiser-update.steps-per-epoch 4 --reward-end-update.steps-first-epoch 4 --reward-end-update.steps-per-epoch 4
--actor-critic-update.steps-first-epoch 2 --actor-critic-update.steps-per-epoch 2"""


def main(*more: str) -> None:
    """Trains for two epochs; ``more`` are further flags."""
    from diamond_fast.train import main as train

    train(["--env-id", "Follow-v0", *SHORT.split(), *more])


if __name__ == "__main__":
    main(*sys.argv[1:])
