"""What a world looks like: its frames, its actions, and how much of the past the next frame depends on. No torch."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np


@dataclass(frozen=True)
class Action(ABC):
    """What can be done in a world at each step: a value of ``dtype`` and ``shape``.

    Raises:
        ValueError: ``n`` is below 1.
    """

    n: int
    kind: ClassVar[str]
    dtype: ClassVar[np.dtype]

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n: a world needs at least 1 action, got {self.n}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one action. A batch of them has it behind its own dimensions."""
        return (self.n,)

    @property
    def nbytes(self) -> int:
        """Bytes of one action."""
        return self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))

    def why_not(self, act: np.ndarray) -> str | None:
        """What is wrong with actions [..., *shape], for people; None if nothing is."""
        if act.shape[act.ndim - len(self.shape) :] != self.shape:
            return f"expected shape [..., {self.n}], got {list(act.shape)}"
        return None

    def sample(self, uniform: Callable[[tuple[int, ...]], np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        """Random actions [*shape, *self.shape], all equally likely.

        Args:
            uniform: draws float64 numbers in [0, 1) of a given shape, as ``numpy.random.Generator.random`` does.
            shape: how many.
        """
        return self._from_uniform(uniform(shape + self.shape))

    @abstractmethod
    def _from_uniform(self, uniform: np.ndarray) -> np.ndarray:
        """Actions from float64 numbers [..., *shape] in [0, 1)."""

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "n": self.n}


@dataclass(frozen=True)
class Discrete(Action):
    """One of n actions: an int64 number from 0 to n - 1."""

    kind: ClassVar[str] = "discrete"
    dtype: ClassVar[np.dtype] = np.dtype(np.int64)

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    def why_not(self, act: np.ndarray) -> str | None:
        if act.size and not (act.min() >= 0 and act.max() < self.n):
            return f"expected 0 to {self.n - 1}, got {act.min()} to {act.max()}"
        return None

    def _from_uniform(self, uniform: np.ndarray) -> np.ndarray:
        return (uniform * self.n).astype(self.dtype).clip(max=self.n - 1)


@dataclass(frozen=True)
class MultiBinary(Action):
    """Any of n buttons held at once: uint8 [n] of 0 and 1."""

    kind: ClassVar[str] = "multi_binary"
    dtype: ClassVar[np.dtype] = np.dtype(np.uint8)

    def why_not(self, act: np.ndarray) -> str | None:
        if act.size and act.max() > 1:
            return f"expected 0 and 1, got {act.max()}"
        return super().why_not(act)

    def _from_uniform(self, uniform: np.ndarray) -> np.ndarray:
        return (uniform >= 0.5).astype(self.dtype)


@dataclass(frozen=True)
class Box(Action):
    """n numbers at once, such as steering and throttle: float32 [n]. Random ones are drawn from -1 to 1."""

    kind: ClassVar[str] = "box"
    dtype: ClassVar[np.dtype] = np.dtype(np.float32)

    def why_not(self, act: np.ndarray) -> str | None:
        return super().why_not(act) or (None if np.isfinite(act).all() else "expected finite numbers")

    def _from_uniform(self, uniform: np.ndarray) -> np.ndarray:
        return (2 * uniform - 1).astype(self.dtype)


ACTIONS: dict[str, type[Action]] = {cls.kind: cls for cls in (Discrete, MultiBinary, Box)}


def action_from_json(data: Any) -> Action:
    """What ``Action.to_json`` gave. Raises ValueError if it is something else."""
    match data:
        case {"kind": str(kind), "n": int(n)} if kind in ACTIONS and not isinstance(n, bool):
            return ACTIONS[kind](n)
    raise ValueError(f"action: expected kind ({', '.join(ACTIONS)}) and n, got {data}")


@dataclass(frozen=True)
class Frame:
    """A picture of a world: bytes [height, width, channels]."""

    height: int
    width: int
    channels: int = 3

    @classmethod
    def of_size(cls, size: int | tuple[int, int], channels: int = 3) -> "Frame":
        """A square one if its size is one number, else of (height, width)."""
        return cls(*(size if isinstance(size, tuple) else (size, size)), channels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels), as it is stored."""
        return self.height, self.width, self.channels

    def __str__(self) -> str:
        return f"{self.height}x{self.width}x{self.channels}"


@dataclass(frozen=True)
class Spec:
    """A world as its models see it.

    Args:
        frame: its pictures.
        action: what can be done at each step.
        context: past frames, and the actions taken at them, that the next frame depends on.
    """

    frame: Frame
    action: Action
    context: int = 4


def as_spec(world: Spec | int, frame_size: int = 64, channels: int = 3, context: int = 4) -> Spec:
    """The world itself, or the one with so many discrete actions and square frames."""
    return world if isinstance(world, Spec) else Spec(Frame(frame_size, frame_size, channels), Discrete(world), context)
