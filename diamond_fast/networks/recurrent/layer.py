"""What a recurrent layer is: one computation in two forms, over a whole sequence and step by step."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class RecurrentLayer(nn.Module, ABC):
    """Takes vectors one after the other, and remembers.

    Padding stands before an episode's first step or behind its last. Steps that are padding leave the memory as it is:
    outputs at the other steps are those of the sequence without padding.
    """

    state_width: int
    """Numbers that are remembered."""

    @abstractmethod
    def forward(self, x: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Begins with an empty memory, which is all zeros.

        Args:
            x: [N,L,D]. real: [N,L] bool, False where a step is padding; the last one is none if the memory is used.

        Returns:
            [N,L,D], and the memory behind the last step [N,state_width], which gives no gradient.
        """

    @abstractmethod
    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step: x [N,D], memory [N,state_width] -> [N,D], new memory."""
