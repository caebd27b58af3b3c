"""What a world looks like: its frames, its actions, and how much of the past the next frame depends on. No torch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
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

    @property
    @abstractmethod
    def dtype(self) -> np.dtype:
        """Of one action, as it is stored."""

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

    def covers(self, other: "Action") -> bool:
        """Whether networks that know this action can be told the other: it is the same."""
        return self == other

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

    def covers(self, other: Action) -> bool:
        """Also if the other has as many numbers of 0 and 1, whose names nobody has told these networks."""
        return super().covers(other) or (isinstance(other, Mixed) and (other.n, other.dtype) == (self.n, self.dtype))

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


@dataclass(frozen=True)
class Mixed(Action):
    """Several actions at once, each with a name, such as keys held and where the mouse moves.

    One is a row of numbers [n], which networks embed as they embed those of the other kinds: the parts one after
    another, of which a choice is one-hot, or zeros for none, as in padding. uint8 if no part is a :class:`Box`, else
    float32.

    Args:
        parts: (name, action) of each, in this order.

    Raises:
        ValueError: there is no part, two have the same name, or one is mixed itself.
    """

    n: int = field(init=False, default=0)
    parts: tuple[tuple[str, Action], ...] = ()
    kind: ClassVar[str] = "mixed"

    def __post_init__(self) -> None:
        names = [name for name, _ in self.parts]
        if len(set(names)) < len(names) or "" in names:
            raise ValueError(f"parts: expected a name of its own for each, got {names}")
        if any(isinstance(action, Mixed) for _, action in self.parts):
            raise ValueError("parts: none can be mixed itself")
        object.__setattr__(self, "n", sum(action.n for _, action in self.parts))
        super().__post_init__()

    @property
    def dtype(self) -> np.dtype:
        return (Box if any(isinstance(action, Box) for _, action in self.parts) else MultiBinary).dtype

    def encode(self, values: Mapping[str, Any]) -> np.ndarray:
        """Actions [..., n] from those of each part, by name: integers [...] for choices, else [..., n of the part].

        Raises:
            ValueError: a part is missing or unknown, or a value is none of its actions.
        """
        if set(values) != {name for name, _ in self.parts}:
            raise ValueError(f"expected {', '.join(name for name, _ in self.parts)}, got {', '.join(values) or 'none'}")
        rows = []
        for name, action in self.parts:
            value = np.asarray(values[name])
            if reason := action.why_not(value):
                raise ValueError(f"{name}: {reason}")
            row = value[..., None] == np.arange(action.n) if isinstance(action, Discrete) else value
            rows.append(row.astype(self.dtype))
        return np.concatenate(rows, axis=-1)

    def decode(self, act: np.ndarray) -> dict[str, np.ndarray]:
        """The actions of each part, by name, from actions [..., n]. Of a choice, the largest number counts."""
        return {
            name: columns.argmax(-1) if isinstance(action, Discrete) else columns.astype(action.dtype)
            for name, action, columns in self._split(act)
        }

    def why_not(self, act: np.ndarray) -> str | None:
        if reason := super().why_not(act):
            return reason
        for name, action, columns in self._split(act):
            if not isinstance(action, Box) and not np.isin(columns, (0, 1)).all():
                return f"{name}: expected 0 and 1, got {columns.min():g} to {columns.max():g}"
            if isinstance(action, Discrete) and (columns.sum(-1) > 1).any():
                return f"{name}: expected one choice of {action.n} at a step, got {columns.sum(-1).max():g} of them"
            if isinstance(action, Box) and (reason := action.why_not(columns)):
                return f"{name}: {reason}"
        return None

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "parts": [[name, action.to_json()] for name, action in self.parts]}

    def _from_uniform(self, uniform: np.ndarray) -> np.ndarray:
        drawn = {}
        for name, action, numbers in self._split(uniform):
            drawn[name] = action._from_uniform(numbers[..., 0] if isinstance(action, Discrete) else numbers)
        return self.encode(drawn)

    def _split(self, rows: np.ndarray) -> Iterator[tuple[str, Action, np.ndarray]]:
        """Each part with its columns [..., n of the part]."""
        first = 0
        for name, action in self.parts:
            yield name, action, rows[..., first : first + action.n]
            first += action.n


@dataclass(frozen=True)
class NoAction(Action):
    """Nothing to choose, for a network that is told no action: uint8 [0]."""

    n: int = 0
    kind: ClassVar[str] = "none"
    dtype: ClassVar[np.dtype] = np.dtype(np.uint8)

    def __post_init__(self) -> None:
        if self.n != 0:
            raise ValueError(f"n: there is no action, got {self.n}")

    def _from_uniform(self, uniform: np.ndarray) -> np.ndarray:
        return uniform.astype(self.dtype)


ACTIONS: dict[str, type[Action]] = {cls.kind: cls for cls in (Discrete, MultiBinary, Box)}
"""The kinds that consist of n equal things."""


def action_from_json(data: Any) -> Action:
    """What ``Action.to_json`` gave. Raises ValueError if it is something else."""
    match data:
        case {"kind": str(kind), "n": int(n)} if kind in ACTIONS and not isinstance(n, bool):
            return ACTIONS[kind](n)
        case {"kind": Mixed.kind, "n": int(n), "parts": [*parts]}:
            mixed = Mixed(parts=tuple(map(_part_from_json, parts)))
            if mixed.n == n:
                return mixed
    raise ValueError(f"action: expected kind ({', '.join(ACTIONS)}, {Mixed.kind} with parts) and n, got {data}")


def _part_from_json(data: Any) -> tuple[str, Action]:
    match data:
        case [str(name), {"kind": str(kind)} as action] if kind in ACTIONS:
            return name, action_from_json(action)
    raise ValueError(f"action: parts: expected a name and an action each, got {data}")


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
        memory: width of a vector that stands for everything before the next frame, which a denoiser is told in place of
            the actions; 0: there is none.
    """

    frame: Frame
    action: Action
    context: int = 4
    memory: int = 0


def upsampler_spec(small: Frame, factor: int, full_frames: int = 1) -> Spec:
    """What a model sees that enlarges small frames: so many full frames before the next one, and behind them the small
    one of the same moment, enlarged. It is told no action."""
    return Spec(Frame(small.height * factor, small.width * factor, small.channels), NoAction(), full_frames + 1)


def as_spec(world: Spec | int, frame_size: int = 64, channels: int = 3, context: int = 4) -> Spec:
    """The world itself, or the one with so many discrete actions and square frames."""
    return world if isinstance(world, Spec) else Spec(Frame(frame_size, frame_size, channels), Discrete(world), context)
