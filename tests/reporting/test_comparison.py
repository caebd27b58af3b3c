"""Which runs count, over which games, and what the report says about it."""

import json

import numpy as np
import pytest

from diamond_fast.domains.atari.games import ATARI_100K
from diamond_fast.reporting import page
from diamond_fast.reporting.comparison import THRESHOLDS, compare, to_json
from diamond_fast.reporting.own_runs import read_runs
from diamond_fast.runs.durable import strict_json

pytestmark = pytest.mark.usefixtures("few_samples")


def test_published_agents_alone():
    comparison = compare([])
    assert comparison.games == ATARI_100K
    assert comparison.subject == "DIAMOND"
    assert not comparison.has_ours
    assert len(comparison.standings) == 17
    assert comparison.remarks == (
        "No runs of diamond_fast were given: these are the published agents alone, on all 26 games.",
    )
    kinds = [s.kind for s in comparison.standings]
    assert kinds == sorted(kinds, reverse=True)  # world models first
    world_models = [s.metrics["iqm"].value for s in comparison.standings if s.kind == "world model"]
    assert world_models == sorted(world_models, reverse=True)
    for standing in comparison.standings:
        estimates = [*standing.metrics.values(), standing.improvement]
        assert all((e.low is not None) == standing.has_runs for e in estimates if e is not None)
        assert (standing.profile is not None) == standing.has_runs
        assert (standing.improvement is not None) == (standing.has_runs and standing.name != "DIAMOND")
        assert (standing.seeds == "means only") == (not standing.has_runs)


def test_all_agents_on_the_games_of_the_finished_runs(write_run):
    paths = [write_run("Boxing", seed, final=[score] * 100) for seed, score in enumerate((12.1, 24.1))]
    paths += [write_run("Pong", seed, final=[14.6] * 100) for seed in range(3)]
    paths += [write_run("Pong", 7, tests=(-20.0,)), write_run("Hero", 0)]  # unfinished
    paths += [write_run("diamond_fast/Catch-v0", 0, final=[5.0] * 100)]
    comparison = compare(read_runs(paths))
    assert comparison.games == ("Boxing", "Pong")
    ours = comparison.standings[0]
    assert (ours.name, ours.kind, ours.seeds) == ("diamond_fast", "ours", "2–3")  # noqa: RUF001
    assert ours.scores == {"Boxing": (12.1, 24.1), "Pong": (14.6, 14.6, 14.6)}
    assert ours.metrics["mean"].value == pytest.approx((1.5 + 1) / 2)
    assert ours.metrics["mean"].low < ours.metrics["mean"].high
    assert ours.at_human_level == 2
    diamond = comparison.standing("DIAMOND")
    assert diamond.metrics["mean"].value == pytest.approx(((86.9 - 0.1) / 12 + (20.36 + 20.7) / 35.3) / 2, abs=1e-3)
    assert 0 <= diamond.improvement.low <= diamond.improvement.value <= diamond.improvement.high <= 1
    aggregates, unfinished, others = comparison.remarks
    assert aggregates.startswith(
        "All aggregates, also those of the published agents, are over 2 games: Boxing, Pong. Missing: Alien, Amidar,"
    )
    assert aggregates.count(",") == 2 + 24
    assert unfinished == "Unfinished, and so not in any aggregate: Hero seed 0, Pong seed 7."
    assert others.endswith("diamond_fast/Catch-v0.")


def test_one_run_has_no_interval(write_run):
    paths = [write_run("Boxing", seed, final=[10.0] * 100) for seed in (0, 1)] + [
        write_run("Pong", 0, final=[2.0] * 100)
    ]
    comparison = compare(read_runs(paths))
    ours = comparison.standing("diamond_fast")
    assert all(estimate.low is None for estimate in ours.metrics.values())
    assert ours.profile.low is None
    assert comparison.standing("DIAMOND").improvement.low is None
    assert comparison.standing("DIAMOND").metrics["mean"].low is not None
    assert "No intervals for diamond_fast: only one finished run of Pong." in comparison.remarks


def test_a_world_model_alone_is_not_called_unfinished(write_run):
    folders = [write_run("Pong", 0, tests=(), world_model_only=True, static_dataset="x"), write_run("Hero", 1)]
    runs = read_runs(folders)
    said = compare(runs).remarks
    assert "World models without a policy, and so not in any aggregate: Pong seed 0." in said
    assert "Unfinished, and so not in any aggregate: Hero seed 1." in said
    states = page._runs_table(runs)
    assert "a world model alone, epoch 0" in states
    assert "unfinished, epoch 20" in states


def test_unfinished_runs_alone_leave_the_published_agents(write_run):
    comparison = compare(read_runs([write_run("Boxing", 0)]))
    assert not comparison.has_ours
    assert comparison.games == ATARI_100K
    assert "diamond_fast has no aggregates yet" in comparison.remarks[0]


def test_json_holds_the_figures(write_run):
    comparison = compare(read_runs([write_run("Pong", seed, final=[14.6] * 100) for seed in (0, 1)]))
    data = json.loads(strict_json(to_json(comparison)))
    assert data["games"] == ["Pong"]
    ours = data["agents"][0]
    assert ours["metrics"]["mean"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert ours["human_normalised"] == {"Pong": pytest.approx(1.0)}
    assert len(ours["profile"]["value"]) == len(data["thresholds"]) == len(THRESHOLDS)
    assert ours["profile"]["value"][data["thresholds"].index(0.99)] == 1
    assert ours["profile"]["value"][data["thresholds"].index(1.05)] == 0
    assert [run["score"] for run in data["runs"]] == [14.6, 14.6]
    assert data["runs"][0]["curve"]["env_steps"] == [7_000, 8_000, 100_000]


def test_thresholds_rise():
    assert (np.diff(THRESHOLDS) > 0).all()
    assert (THRESHOLDS[0], THRESHOLDS[-1]) == (0, 8)
