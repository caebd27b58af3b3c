"""What a handful of runs on a handful of games says about an agent (Agarwal et al. 2021, arXiv 2108.13264).

Every figure is a function of the runs' scores and of a weight for each run. In the data all runs of a game weigh the
same; a bootstrap sample, drawn with replacement among the runs of each game, is nothing but other weights. So scores
are sorted and compared once, and thousands of samples are a few matrix products.

Symbols: G games, R runs of all games together, S bootstrap samples, T thresholds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MOST_SAMPLES, FEWEST_SAMPLES = 20_000, 2_000
"""Bootstrap samples behind an interval."""
SAMPLED_RUNS = 2_600_000  # runs in all samples together, between those bounds: 20 000 samples for 26 games of 5 runs
CHUNK_RUNS = 500_000  # runs in the samples that are in memory at a time
CONFIDENCE = (2.5, 97.5)  # percentiles of a 95 % interval


@dataclass(frozen=True)
class Runs:
    """Scores of one agent."""

    scores: np.ndarray
    """float64 [R]: the runs of the first game, then those of the second, ..."""
    counts: np.ndarray
    """int64 [G]: runs of each game."""

    @classmethod
    def of(cls, by_game: Sequence[Sequence[float]]) -> "Runs":
        """Runs from one sequence of scores per game.

        Raises:
            ValueError: no game, a game without a run, or a score that is not finite.
        """
        counts = np.array([len(scores) for scores in by_game], np.int64)
        if len(counts) == 0 or counts.min() == 0:
            raise ValueError("by_game: expected at least one game, and at least one run of each")
        scores = np.concatenate([np.asarray(scores, np.float64) for scores in by_game])
        if not np.isfinite(scores).all():
            raise ValueError("by_game: scores must be finite")
        return cls(scores, counts)

    @property
    def starts(self) -> np.ndarray:
        """int64 [G]: index of each game's first run."""
        return np.cumsum(self.counts) - self.counts

    @property
    def weights(self) -> np.ndarray:
        """float64 [R], sum 1: games weigh the same, and so do the runs of a game."""
        return np.repeat(1 / (len(self.counts) * self.counts), self.counts)


Statistic = Callable[[Runs, np.ndarray], np.ndarray]
"""Runs and weights [..., R] to figures [...] or [..., T]."""


def game_means(runs: Runs, weights: np.ndarray) -> np.ndarray:
    """[..., G]: mean score of each game's runs."""
    return np.add.reduceat(weights * runs.scores, runs.starts, axis=-1) * len(runs.counts)


def mean(runs: Runs, weights: np.ndarray) -> np.ndarray:
    """Mean over games of the mean score."""
    return weights @ runs.scores


def median(runs: Runs, weights: np.ndarray) -> np.ndarray:
    """Median over games of the mean score."""
    return np.median(game_means(runs, weights), axis=-1)


def interquartile_mean(runs: Runs, weights: np.ndarray) -> np.ndarray:
    """Mean of the middle half of all runs of all games.

    Left out is each run that lies wholly within the lowest or the highest quarter of the weight. With equally many runs
    of each game these are the ``R // 4`` lowest and highest.
    """
    order = np.argsort(runs.scores, kind="stable")
    scores, weight, single = runs.scores[order], weights[..., order], runs.weights[order]
    up_to = np.cumsum(weight, axis=-1)

    def left_out(weight_beyond: np.ndarray) -> np.ndarray:
        fitting = np.floor((0.25 - weight_beyond) / single + 1e-6)  # a bootstrap sample holds some runs repeatedly
        return np.minimum(np.maximum(fitting, 0) * single, weight)

    kept = weight - left_out(up_to - weight) - left_out(1 - up_to)
    return (kept @ scores) / kept.sum(-1)


def optimality_gap(runs: Runs, weights: np.ndarray) -> np.ndarray:
    """How far runs fall short of 1 on average; those above 1 count as 1."""
    return weights @ np.maximum(1 - runs.scores, 0)


def performance_profile(thresholds: np.ndarray) -> Statistic:
    """The share of runs that score above each of the thresholds [T], games weighing the same: [..., T]."""

    def profile(runs: Runs, weights: np.ndarray) -> np.ndarray:
        order = np.argsort(runs.scores)
        num_up_to = np.searchsorted(runs.scores[order], thresholds, side="right")
        up_to = np.cumsum(weights[..., order], axis=-1)
        up_to = np.concatenate([np.zeros_like(up_to[..., :1]), up_to], axis=-1)
        return np.maximum(1 - up_to[..., num_up_to], 0.0)

    return profile


def num_samples(num_runs: int) -> int:
    """S, bootstrap samples for an agent with so many runs.

    More runs make for a narrower interval, whose ends fewer samples place just as exactly.
    """
    return min(max(SAMPLED_RUNS // num_runs, FEWEST_SAMPLES), MOST_SAMPLES)


def bootstrapped(runs: Runs, statistics: Mapping[str, Statistic], seed: int = 0) -> dict[str, np.ndarray]:
    """Each statistic on samples stratified by game, the same samples for all: {name: [S, ...]}."""
    chunks: dict[str, list[np.ndarray]] = {name: [] for name in statistics}
    for weights in _sampled_weights(runs, len(runs.scores), np.random.default_rng(seed)):
        for name, statistic in statistics.items():
            chunks[name].append(statistic(runs, weights))
    return {name: np.concatenate(parts) for name, parts in chunks.items()}


def interval_of_mean(curves: np.ndarray, seed: int = 0) -> np.ndarray:
    """Of the mean of several runs of one game at each of X places: float64 [R,X] to [2,X]. The same samples for all."""
    runs, rng = Runs.of([curves[:, 0].tolist()]), np.random.default_rng(seed)
    means = [weights @ curves for weights in _sampled_weights(runs, SAMPLED_RUNS // FEWEST_SAMPLES, rng)]
    return interval(np.concatenate(means))


def probability_of_improvement(x: Runs, y: Runs, x_weights: np.ndarray, y_weights: np.ndarray) -> np.ndarray:
    """How probably a run of ``x`` beats one of ``y`` on the same game, a tie counting half; mean over games.

    Args:
        x, y: runs of the same games in the same order.
        x_weights, y_weights: [..., R] of each.

    Raises:
        ValueError: the numbers of games differ.
    """
    num_games = len(x.counts)
    if len(y.counts) != num_games:
        raise ValueError(f"x has {num_games} games, y has {len(y.counts)}")
    total = np.zeros(x_weights.shape[:-1])
    for game in range(num_games):
        xs, ys = (slice(r.starts[game], r.starts[game] + r.counts[game]) for r in (x, y))
        a, b = x.scores[xs, None], y.scores[None, ys]
        beats = (a > b) + 0.5 * (a == b)
        total += ((x_weights[..., xs] @ beats) * y_weights[..., ys]).sum(-1) * num_games
    return total


def bootstrapped_improvement(x: Runs, y: Runs, seed: int = 0) -> np.ndarray:
    """:func:`probability_of_improvement` on samples of both agents' runs: [S]."""
    rng = np.random.default_rng(seed)
    most_runs = max(len(x.scores), len(y.scores))
    pairs = zip(_sampled_weights(x, most_runs, rng), _sampled_weights(y, most_runs, rng), strict=True)
    return np.concatenate([probability_of_improvement(x, y, *pair) for pair in pairs])


def interval(samples: np.ndarray) -> np.ndarray:
    """95 % percentile interval over the first axis: [2, ...], low and high."""
    return np.percentile(samples, CONFIDENCE, axis=0)


def _sampled_weights(runs: Runs, most_runs: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Weights of all bootstrap samples for agents with up to ``most_runs`` runs, a chunk [S', R] at a time."""
    num_runs, total = len(runs.scores), num_samples(most_runs)
    firsts, counts = (np.repeat(per_game, runs.counts) for per_game in (runs.starts, runs.counts))
    chunk = max(1, CHUNK_RUNS // most_runs)
    for done in range(0, total, chunk):
        size = min(chunk, total - done)
        drawn = firsts + (rng.random((size, num_runs)) * counts).astype(np.int64)
        drawn += np.arange(size)[:, None] * num_runs
        times = np.bincount(drawn.ravel(), minlength=size * num_runs).reshape(size, num_runs)
        yield times * runs.weights
