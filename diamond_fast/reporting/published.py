"""Published scores on Atari 100k, and where each of them was taken from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

Kind = Literal["world model", "model-free or search"]

_SCORES = files("diamond_fast.reporting") / "scores"


@dataclass(frozen=True)
class PublishedAgent:
    """An agent with a score for each of the 26 games."""

    name: str
    kind: Kind
    paper: str
    source: str
    """Where the scores were read."""
    note: str
    """What one should know about them; may be empty."""
    scores: Mapping[str, tuple[float, ...]]
    """By game: the score of each run, or the one mean over all runs if no more was published."""

    @property
    def has_runs(self) -> bool:
        """Whether the scores are those of single runs."""
        return all(len(scores) > 1 for scores in self.scores.values())


@dataclass(frozen=True)
class PublishedAggregates:
    """An agent of which only aggregates over the 26 games were found: it stands in no table or picture."""

    name: str
    paper: str
    source: str
    """Where they were read."""
    mean: float
    iqm: float
    ours: str
    """What there is of ours to compare, in a sentence."""

    def __str__(self) -> str:
        read = f"mean {self.mean}, IQM {self.iqm} ({self.paper}; from {self.source})"
        return f"Published without scores by game: {self.name}, {read}. {self.ours}"


@dataclass(frozen=True)
class Scale:
    """What is 0 and what is 1 in human-normalised scores."""

    random: Mapping[str, float]
    """By game: mean score of random play."""
    human: Mapping[str, float]
    """By game: mean score of a human tester."""

    def normalised(self, game: str, score: float) -> float:
        """(score - random) / (human - random)."""
        return (score - self.random[game]) / (self.human[game] - self.random[game])


@cache
def published_agents() -> tuple[PublishedAgent, ...]:
    """World models first, each kind in the order of ``scores/SOURCES.json``."""
    return tuple(_agent(**entry) for entry in _read("SOURCES")["agents"])


@cache
def published_aggregates() -> tuple[PublishedAggregates, ...]:
    """Agents that have no scores by game here, from ``scores/SOURCES.json``."""
    return tuple(PublishedAggregates(**entry) for entry in _read("SOURCES")["aggregates"])


@cache
def scale() -> Scale:
    """Random and human scores of the 26 games."""
    return Scale(_read("random"), _read("human"))


def scale_sources() -> tuple[str, str]:
    """Where the random and the human scores were read."""
    sources = _read("SOURCES")
    return sources["random"]["source"], sources["human"]["source"]


def _agent(file: str, **about: Any) -> PublishedAgent:
    scores = {game: tuple(s) if isinstance(s, list) else (s,) for game, s in _read(file).items()}
    return PublishedAgent(scores=scores, **about)


def _read(name: str) -> Any:
    return json.loads((_SCORES / f"{name}.json").read_text(encoding="utf-8"))
