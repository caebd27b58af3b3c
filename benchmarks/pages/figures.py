"""Figures measured in turns, and what they allow to be said about which is faster."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Figure:
    """A quantity over several turns."""

    median: float
    best: float
    low: float
    """Lower end of the spread: all turns but the most extreme tenth at either end."""
    high: float
    turns: int

    def apart_from(self, other: "Figure") -> bool:
        """Whether the two spreads have nothing in common: a difference beyond noise."""
        return self.high < other.low or other.high < self.low


@dataclass(frozen=True)
class Ratio:
    """How many times faster one is than the other, from turns taken side by side."""

    ratio: float
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """Whether the spread leaves no doubt as to which is faster."""
        return self.low > 1 or self.high < 1


def figure(values: Sequence[float], higher_is_better: bool) -> Figure:
    """The figure of one value a turn."""
    low, high = spread(values)
    return Figure(median(values), max(values) if higher_is_better else min(values), low, high, len(values))


def ratio(seconds: Sequence[float], others_seconds: Sequence[float]) -> Ratio:
    """The others' time over ours, round by round: what disturbs a round disturbs both."""
    ratios = [other / ours for ours, other in zip(seconds, others_seconds, strict=True)]
    return Ratio(median(ratios), *spread(ratios))


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Least and greatest of the values, without the most extreme tenth at either end; of fewer than ten, of all."""
    ordered, cut = sorted(values), len(values) // 10
    return ordered[cut], ordered[-1 - cut]


def to_json(x: Figure | Ratio) -> dict[str, Any]:
    """With four digits, and a ratio's verdict."""
    rounded = {name: float(f"{value:.4g}") for name, value in asdict(x).items()}
    if isinstance(x, Figure):
        return rounded | {"turns": x.turns}
    return rounded | {"decided": x.decided}


def figure_from_json(saved: dict[str, Any]) -> Figure:
    return Figure(**saved)
