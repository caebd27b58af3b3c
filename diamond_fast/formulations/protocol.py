"""What a diffusion formulation is: the functions that training and drawing are made of."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from torch import Tensor

from diamond_fast.formulations.config import DiffusionConfig

Randn = Callable[..., Tensor]
"""A source of standard normal numbers, called as ``torch.randn`` is: randn(*shape, device=device)."""


class Step(Protocol):
    """One evaluation of the network on the way to a frame. Plain numbers, so that no step has to ask the device."""

    @property
    def level(self) -> float:
        """The noise level of the network's input."""
        ...

    @property
    def num_draws(self) -> int:
        """Tensors of noise it takes."""
        ...

    @property
    def ends(self) -> bool:
        """Whether the trajectory has a frame behind it; Heun's first half has none."""
        ...


class Formulation(Protocol):
    """Frames are [N,C,H,W] in [-1, 1]; a context is [N,T*C,H,W], oldest frame first; a level is [N], [1] or a number.

    Nothing here may ask the device for a value: all of it runs in CUDA graphs.

    One whose ``StepsConfig`` has ``s_cond`` has ``perturb_context(context, step, draws)`` besides: the context
    as a step's evaluation sees it, and later steps add to.
    """

    def __init__(self, cfg: DiffusionConfig): ...

    def draw(self, clean: Tensor, levels: Any, randn: Randn) -> tuple[Tensor, Any]:
        """A noise level [N] to train each frame on, by its ``LevelsConfig``, and the noise.

        The order of the draws is part of the contract.
        """
        ...

    def corrupt(self, clean: Tensor, level: Tensor, noise: Any) -> Tensor:
        """-> the noisy frames."""
        ...

    def target(self, clean: Tensor, noisy: Tensor, level: Tensor, noise: Any) -> Tensor:
        """What the network's output should have been."""
        ...

    def condition(self, level: Tensor) -> Tensor:
        """What the network is told of levels [...]."""
        ...

    def prepare(self, noisy: Tensor, context: Tensor, level: Tensor | float) -> Any:
        """The network's input: noisy frames and context as it takes them."""
        ...

    def estimate(self, noisy: Tensor, output: Tensor, level: Tensor | float) -> Tensor:
        """The clean frames behind noisy ones, as the network's output has them."""
        ...

    def plan(self, cfg: Any) -> list[Any]:
        """The steps (``Step``) that lead from noise to a frame, by its ``StepsConfig``."""
        ...

    def perturb(self, x: Tensor, step: Any, draws: Iterator[Tensor]) -> Tensor:
        """x before a step's evaluation; x itself, unless noise is put back."""
        ...

    def step(
        self, x: Tensor, output: Tensor, step: Any, carry: Any, network_input: Any, draws: Iterator[Tensor]
    ) -> tuple[Tensor, Any, Any]:
        """One step, from the network's output.

        Args:
            carry: what the step before handed on; None at first.
            network_input: what the network was given. It may be written to.

        Returns:
            the new frames, what the next step needs besides, and the network's next input if it is already there.
        """
        ...
