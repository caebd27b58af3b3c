"""Our agent and the published ones on the same games: everything the table, the pictures and the page show."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from diamond_fast.domains.atari.games import ATARI_100K
from diamond_fast.one_line import counted
from diamond_fast.reporting import statistics
from diamond_fast.reporting.own_runs import OwnRun, by_game, remarks
from diamond_fast.reporting.published import published_agents, scale
from diamond_fast.reporting.statistics import Runs
from diamond_fast.runs.metrics import plain

OURS = "diamond_fast"
PUBLISHED_SUBJECT = "DIAMOND"
"""Whom the others are compared with while there is no finished run of ours."""
THRESHOLDS = np.concatenate([np.arange(50) / 500, np.arange(10, 100) / 100, np.arange(20, 161) / 20])
"""Human-normalised scores at which performance profiles are taken: 0 to 8 as in the paper's figure 7, denser at 0."""
METRICS = {
    "mean": statistics.mean,
    "median": statistics.median,
    "iqm": statistics.interquartile_mean,
    "optimality_gap": statistics.optimality_gap,
}


@dataclass(frozen=True)
class Estimate:
    """A figure, and its 95 % interval if runs are enough for one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Profile:
    """The share of runs that score above each of :data:`THRESHOLDS`: float64 [T] each."""

    value: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


@dataclass(frozen=True)
class Standing:
    """One agent on the report's games. Aggregates are of human-normalised scores."""

    name: str
    kind: str
    """"ours", "world model" or "model-free or search"."""
    scores: Mapping[str, tuple[float, ...]]
    """By game: raw scores of the runs, or the one mean that was published."""
    has_runs: bool
    """False if only means were published."""
    metrics: Mapping[str, Estimate]
    """By name, as in :data:`METRICS`."""
    at_human_level: int
    """Games with a mean score that reaches the human's."""
    profile: Profile | None
    """None if only means were published."""
    improvement: Estimate | None = None
    """Probability that a run of the report's subject beats one of this agent; None for the subject, and for means."""

    def mean(self, game: str) -> float:
        """Mean raw score."""
        return float(np.mean(self.scores[game]))

    def normalised(self, game: str) -> float:
        """Mean human-normalised score."""
        return scale().normalised(game, self.mean(game))

    @property
    def seeds(self) -> str:
        """Runs per game, in words."""
        if not self.has_runs:
            return "means only"
        counts = {len(scores) for scores in self.scores.values()}
        return str(min(counts)) if len(counts) == 1 else f"{min(counts)}–{max(counts)}"  # noqa: RUF001


@dataclass(frozen=True)
class Comparison:
    """A whole report."""

    games: tuple[str, ...]
    """The games of all aggregates."""
    subject: str
    """The agent that the others are compared with."""
    standings: tuple[Standing, ...]
    """Ours first if it is there, then by kind and interquartile mean."""
    runs: tuple[OwnRun, ...]
    """Ours, unfinished ones included."""
    remarks: tuple[str, ...]
    """What a reader must know, one sentence each."""

    def standing(self, name: str) -> Standing:
        """The agent of that name."""
        return next(standing for standing in self.standings if standing.name == name)

    @property
    def has_ours(self) -> bool:
        """Whether a run of ours counts in the aggregates."""
        return self.subject == OURS


def compare(runs: Sequence[OwnRun], missing: Sequence[str] = ()) -> Comparison:
    """Our finished runs next to all published agents, on the benchmark's games that ours were played on.

    Unfinished runs and other games have learning curves, but no part in the aggregates. Without a finished run on a
    game of the benchmark the published agents stand alone, on all 26 games.

    Args:
        runs: ours.
        missing: names of runs that a sweep wants and that have not finished an epoch.
    """
    ours = {game: seeds for game, seeds in by_game(runs).items() if game in ATARI_100K}
    scores = {
        game: tuple(run.score for run in seeds if run.finished and run.score is not None)
        for game, seeds in ours.items()
    }
    games = tuple(game for game in ATARI_100K if scores.get(game)) or ATARI_100K
    standings = []
    if any(scores.values()):
        standings.append(_standing(OURS, "ours", {game: scores[game] for game in games}, has_runs=True))
    rivals = [
        _standing(agent.name, agent.kind, {game: agent.scores[game] for game in games}, agent.has_runs)
        for agent in published_agents()
    ]
    rivals.sort(key=lambda standing: (standing.kind != "world model", -standing.metrics["iqm"].value))
    standings += rivals
    subject = OURS if any(scores.values()) else PUBLISHED_SUBJECT
    standings = _with_improvements(standings, subject)
    said = _coverage(runs, games) + remarks(runs)
    if missing:
        said.append(f"Missing, since they have not finished an epoch: {', '.join(missing)}.")
    return Comparison(games, subject, tuple(standings), tuple(runs), tuple(said))


def to_json(comparison: Comparison) -> dict[str, Any]:
    """All figures as plain data."""

    def of_agent(s: Standing) -> dict[str, Any]:
        figures = asdict(s)
        figures["probability_of_improvement"] = figures.pop("improvement")
        figures["human_normalised"] = {game: s.normalised(game) for game in comparison.games}
        if s.profile is not None:
            figures["profile"] = {name: v if v is None else v.round(4) for name, v in vars(s.profile).items()}
        return figures

    def of_run(run: OwnRun) -> dict[str, Any]:
        names = ("game", "seed", "finished", "score", "epochs", "env_steps", "seconds")
        curve = {"env_steps": run.steps, "hours": run.hours, "return": run.returns}
        own = {"path": str(run.path), "final_episodes": run.num_final_episodes, "curve": curve}
        return {name: getattr(run, name) for name in names} | own

    return plain(
        {
            "games": comparison.games,
            "subject": comparison.subject,
            "remarks": comparison.remarks,
            "thresholds": THRESHOLDS,
            "agents": list(map(of_agent, comparison.standings)),
            "runs": list(map(of_run, comparison.runs)),
        }
    )


def _standing(name: str, kind: str, scores: Mapping[str, tuple[float, ...]], has_runs: bool) -> Standing:
    runs = _normalised_runs(scores)
    profile = statistics.performance_profile(THRESHOLDS)
    low_high: dict[str, Any] = {}
    if _enough_for_intervals(runs):
        samples = statistics.bootstrapped(runs, METRICS | {"profile": profile})
        low_high = {key: statistics.interval(values) for key, values in samples.items()}
    metrics = {key: _estimate(metric(runs, runs.weights), low_high.get(key)) for key, metric in METRICS.items()}
    means = statistics.game_means(runs, runs.weights)
    return Standing(
        name=name,
        kind=kind,
        scores=scores,
        has_runs=has_runs,
        metrics=metrics,
        at_human_level=int((means >= 1 - 1e-9).sum()),
        profile=Profile(profile(runs, runs.weights), *low_high.get("profile", (None, None))) if has_runs else None,
    )


def _with_improvements(standings: Sequence[Standing], subject: str) -> list[Standing]:
    x = _normalised_runs(next(s for s in standings if s.name == subject).scores)
    with_them = []
    for standing in standings:
        if standing.name != subject and standing.has_runs:
            y = _normalised_runs(standing.scores)
            value = statistics.probability_of_improvement(x, y, x.weights, y.weights)
            low_high = None
            if _enough_for_intervals(x) and _enough_for_intervals(y):
                low_high = statistics.interval(statistics.bootstrapped_improvement(x, y))
            standing = replace(standing, improvement=_estimate(value, low_high))
        with_them.append(standing)
    return with_them


def _normalised_runs(scores: Mapping[str, tuple[float, ...]]) -> Runs:
    return Runs.of([[scale().normalised(game, score) for score in of_game] for game, of_game in scores.items()])


def _enough_for_intervals(runs: Runs) -> bool:
    """A single run of a game says nothing about how runs of it scatter."""
    return bool(runs.counts.min() >= 2)


def _estimate(value: np.ndarray, low_high: np.ndarray | None) -> Estimate:
    return Estimate(float(value)) if low_high is None else Estimate(float(value), *map(float, low_high))


def _coverage(runs: Sequence[OwnRun], games: Sequence[str]) -> list[str]:
    """Which games and runs the aggregates rest on."""
    if not runs:
        return ["No runs of diamond_fast were given: these are the published agents alone, on all 26 games."]
    finished = [run for run in runs if run.finished and run.game in ATARI_100K]
    said = []
    if not finished:
        said.append(
            "No given run of a game of Atari 100k is finished, so diamond_fast has no aggregates yet; "
            "the published agents are shown on all 26 games."
        )
    elif missing := [game for game in ATARI_100K if game not in games]:
        said.append(
            f"All aggregates, also those of the published agents, are over {counted(len(games), 'game')}: "
            f"{', '.join(games)}. Missing: {', '.join(missing)}."
        )
    single = [game for game, seeds in by_game(finished).items() if len(seeds) == 1]
    if single:
        said.append(f"No intervals for diamond_fast: only one finished run of {', '.join(single)}.")
    alone = [run for run in runs if run.settings.get("world_model_only")]
    unfinished = [run for run in runs if not run.finished and run not in alone]
    for what, those in (("Unfinished", unfinished), ("World models without a policy", alone)):
        if those:
            said.append(f"{what}, and so not in any aggregate: {', '.join(map(str, those))}.")
    if others := sorted({run.game for run in runs} - set(ATARI_100K)):
        said.append(f"Not among the 26 games of Atari 100k, and so not in any aggregate: {', '.join(others)}.")
    return said
