"""The policy's settings and those of its loss. No torch."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from diamond_fast.networks.config import check_groups, check_levels
from diamond_fast.settings import Fraction, Length, NonNegativeFloat, RgbChannels, Switch, Width


@dataclass(frozen=True)
class ActorCriticConfig:
    """Policy and value: a small convolutional encoder and an LSTM cell (paper, appendix C)."""

    img_channels: RgbChannels = 3
    """Number of colour channels of a frame."""
    lstm_dim: Width = 512
    """Width of the LSTM's state, the model's memory."""
    channels: tuple[Width, ...] = (32, 32, 64, 64)
    """Number of channels of each level of the network."""
    down: tuple[Switch, ...] = (1, 1, 1, 1)
    """Which levels end with 2x2 max-pooling: 1 for yes, 0 for no, level by level."""

    def check(self, path: str) -> None:
        """Raises ValueError if settings do not fit together; ``path`` is where they stand in a run's."""
        check_levels(path, self.channels, down=self.down)
        check_groups(path, set(self.channels))


@dataclass(frozen=True)
class ActorCriticLossConfig:
    """REINFORCE with a value baseline on lambda-returns (paper, appendix D)."""

    backup_every: Length = 15
    """Number of steps that are played before each update of the policy."""
    gamma: Fraction = 0.985
    """Discount factor: what a reward one step later is worth."""
    lambda_: Annotated[Fraction, arg(name="lambda")] = 0.95
    """How far returns rely on rewards that came (1) rather than on the value network (0)."""
    weight_value_loss: NonNegativeFloat = 1.0
    """Weight of the value network's squared error in the loss."""
    weight_entropy_loss: NonNegativeFloat = 0.001
    """Weight of the policy's entropy in the loss. A larger weight makes for more exploration."""
    normalise_advantages: bool = False
    """Take their mean in the batch from all advantages, and divide them by their deviation if that is above 1. For
    rewards that are not signs: the value network needs long to reach their returns, and until then all actions seem
    good. Each process of several, and each of accumulated batches, does so on its own."""
