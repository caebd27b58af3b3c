"""The estimators against plain loops, against cases done by hand, and against what the papers print."""

import itertools
import random
from statistics import fmean
from statistics import median as median_of

import numpy as np
import pytest

from diamond_fast.domains.atari.games import ATARI_100K
from diamond_fast.reporting import statistics
from diamond_fast.reporting.published import published_agents, scale
from diamond_fast.reporting.statistics import (
    Runs,
    bootstrapped,
    bootstrapped_improvement,
    game_means,
    interquartile_mean,
    interval,
    interval_of_mean,
    mean,
    median,
    num_samples,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
)

RAGGED = [[0.3, 1.4, -0.2], [2.0, 2.5], [0.1], [0.9, 0.9, 1.1, 5.0, 0.0]]
EVEN = [[0.3, 1.4, -0.2, 0.8], [2.0, 2.5, 0.4, 0.4], [0.1, 0.7, 7.0, 0.2]]
TAUS = np.array([0.0, 0.1, 0.9, 1.0, 3.0])


def on_data(statistic, by_game):
    runs = Runs.of(by_game)
    return statistic(runs, runs.weights)


def agent_runs(name, **changed):
    agent = next(agent for agent in published_agents() if agent.name == name)
    scores = dict(agent.scores) | changed
    return Runs.of([[scale().normalised(game, score) for score in scores[game]] for game in ATARI_100K])


# --- plain loops: what the papers' definitions say, run by run -------------------------------------------------------


def loop_mean(by_game):
    return fmean(fmean(scores) for scores in by_game)


def loop_median(by_game):
    return median_of(fmean(scores) for scores in by_game)


def loop_optimality_gap(by_game):
    return fmean(fmean(1 - min(score, 1) for score in scores) for scores in by_game)


def loop_interquartile_mean(by_game):
    """As many runs of each game: drop a quarter of all at either end, rounded down."""
    flat = sorted(score for scores in by_game for score in scores)
    dropped = len(flat) // 4
    return fmean(flat[dropped : len(flat) - dropped])


def loop_profile(by_game, taus):
    return [fmean(fmean(score > tau for score in scores) for scores in by_game) for tau in taus]


def loop_improvement(x, y):
    def beats(a, b):
        return 1.0 if a > b else 0.5 if a == b else 0.0

    return fmean(fmean(beats(a, b) for a in xs for b in ys) for xs, ys in zip(x, y, strict=True))


# --- on the data itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_game", [RAGGED, EVEN])
@pytest.mark.parametrize(
    ("statistic", "loop"), [(mean, loop_mean), (median, loop_median), (optimality_gap, loop_optimality_gap)]
)
def test_statistics_are_those_of_plain_loops(statistic, loop, by_game):
    assert on_data(statistic, by_game) == pytest.approx(loop(by_game), abs=1e-12)


@pytest.mark.parametrize("num_games", [1, 2, 3, 5, 26])
@pytest.mark.parametrize("num_runs", [1, 2, 3, 4, 5, 8])
def test_interquartile_mean_drops_a_quarter_at_either_end(num_games, num_runs):
    rng = random.Random(num_games * 100 + num_runs)
    by_game = [[rng.choice([rng.gauss(0, 1), 0.5]) for _ in range(num_runs)] for _ in range(num_games)]
    assert on_data(interquartile_mean, by_game) == pytest.approx(loop_interquartile_mean(by_game), abs=1e-12)


def test_interquartile_mean_by_hand():
    assert on_data(interquartile_mean, [[-100.0, 1.0, 2.0, 100.0]]) == pytest.approx(1.5)
    # Weights: 1/2 for the single run of the first game, 1/8 for each of the four of the second. The lowest quarter is
    # made of 0 and 1, the highest of nothing that fits wholly into it (10 weighs 1/2).
    by_game = [[10.0], [0.0, 1.0, 2.0, 3.0]]
    assert on_data(interquartile_mean, by_game) == pytest.approx((10 / 2 + (2 + 3) / 8) / (3 / 4))


def test_by_hand():
    by_game = [[0.0, 1.0], [2.0, 4.0], [0.5, 0.5]]
    assert on_data(game_means, by_game) == pytest.approx([0.5, 3.0, 0.5])
    assert on_data(mean, by_game) == pytest.approx(4 / 3)
    assert on_data(median, by_game) == pytest.approx(0.5)
    assert on_data(optimality_gap, by_game) == pytest.approx((0.5 + 0 + 0.5) / 3)
    assert on_data(performance_profile(np.array([0.0, 0.5, 3.9, 4.0])), by_game) == pytest.approx(
        [5 / 6, 1 / 2, 1 / 6, 0]
    )


@pytest.mark.parametrize("by_game", [RAGGED, EVEN])
def test_profile_is_that_of_plain_loops(by_game):
    assert on_data(performance_profile(TAUS), by_game) == pytest.approx(loop_profile(by_game, TAUS), abs=1e-12)


def test_bad_input_is_refused():
    for by_game in ([], [[1.0], []], [[float("nan")]]):
        with pytest.raises(ValueError, match="by_game"):
            Runs.of(by_game)


# --- bootstrap -------------------------------------------------------------------------------------------------------


def drawn_scores(runs, weights):
    """The scores that a sample's weights stand for, game by game."""
    times = np.rint(weights / runs.weights).astype(int)
    assert np.allclose(times * runs.weights, weights, atol=1e-15)
    repeated = [[score] * n for score, n in zip(runs.scores.tolist(), times.tolist(), strict=True)]
    ends = np.cumsum(runs.counts)
    return [list(itertools.chain(*repeated[end - count : end])) for end, count in zip(ends, runs.counts, strict=True)]


@pytest.mark.parametrize("by_game", [RAGGED, EVEN, [[0.5, 0.1, 0.1, 0.9, 2.0]]])
def test_weighted_samples_are_samples_drawn_within_each_game(by_game):
    runs = Runs.of(by_game)
    chunk = next(statistics._sampled_weights(runs, len(runs.scores), np.random.default_rng(3)))[:300]
    samples = [drawn_scores(runs, weights) for weights in chunk]
    assert all([len(s) for s in sample] == [len(s) for s in by_game] for sample in samples)
    loops = {mean: loop_mean, median: loop_median, optimality_gap: loop_optimality_gap}
    if by_game is not RAGGED:
        loops[interquartile_mean] = loop_interquartile_mean
    for statistic, loop in loops.items():
        assert statistic(runs, chunk) == pytest.approx([loop(sample) for sample in samples], abs=1e-12)
    profile = performance_profile(TAUS)(runs, chunk)
    assert profile == pytest.approx(np.array([loop_profile(sample, TAUS) for sample in samples]), abs=1e-12)


def test_samples_are_as_frequent_as_counting_says():
    by_game = [[0.0, 1.0], [0.0, 10.0, 100.0]]
    outcomes = [fmean((fmean(a), fmean(b))) for a in itertools.product(*[by_game[0]] * 2)
                for b in itertools.product(*[by_game[1]] * 3)]  # fmt: skip
    samples = bootstrapped(Runs.of(by_game), {"mean": mean})["mean"]
    assert len(samples) == 20_000
    for outcome in {round(outcome, 9) for outcome in outcomes}:
        expected = fmean(abs(o - outcome) < 1e-6 for o in outcomes)
        five_sigma = 5 * (expected * (1 - expected) / len(samples)) ** 0.5
        assert np.mean(np.abs(samples - outcome) < 1e-6) == pytest.approx(expected, abs=five_sigma)


def test_interval_is_that_of_a_plain_bootstrap():
    runs = agent_runs("IRIS")
    by_game = np.split(runs.scores, np.cumsum(runs.counts)[:-1])
    rng = random.Random(0)
    plain = []
    for _ in range(2_000):
        sample = [rng.choices(scores.tolist(), k=len(scores)) for scores in by_game]
        plain.append((loop_mean(sample), loop_interquartile_mean(sample)))
    expected = np.percentile(plain, [2.5, 97.5], axis=0)
    samples = bootstrapped(runs, {"mean": mean, "iqm": interquartile_mean})
    for name, low_high in zip(("mean", "iqm"), expected.T, strict=True):
        assert interval(samples[name]) == pytest.approx(low_high, abs=0.012)  # 4 sigma of 2 000 samples


@pytest.mark.parametrize("num_runs", [2, 3, 4])
def test_interval_of_a_curve_is_that_of_all_possible_samples(num_runs):
    curves = np.random.default_rng(num_runs).normal(size=(num_runs, 7)) ** 3
    samples = np.stack([curves[list(drawn)].mean(0) for drawn in itertools.product(range(num_runs), repeat=num_runs)])
    low, high = interval_of_mean(curves)
    if num_runs < 4:  # samples of one run alone are more than 2.5 % of all
        assert np.allclose((low, high), (curves.min(0), curves.max(0)))
    else:
        sorted_samples = np.sort(samples, axis=0)
        for bound, percent in ((low, 2.5), (high, 97.5)):
            at = len(samples) * percent / 100
            assert np.all(bound >= sorted_samples[round(at - 3)])
            assert np.all(bound <= sorted_samples[round(at + 3) - 1])


def test_the_same_seed_gives_the_same_samples():
    runs = Runs.of(EVEN)
    first, again = (bootstrapped(runs, {"mean": mean}, seed=1)["mean"] for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, bootstrapped(runs, {"mean": mean}, seed=2)["mean"])


def test_number_of_samples():
    assert [num_samples(runs) for runs in (1, 130, 260, 2600, 10**9)] == [20_000, 20_000, 10_000, 2_000, 2_000]


# --- probability of improvement --------------------------------------------------------------------------------------


def improvement(x, y):
    x, y = Runs.of(x), Runs.of(y)
    return probability_of_improvement(x, y, x.weights, y.weights)


def test_improvement_by_hand_and_by_loops():
    assert improvement([[1.0, 3.0]], [[2.0]]) == pytest.approx(0.5)
    assert improvement([[1.0, 3.0], [5.0]], [[3.0, 0.0], [4.0, 6.0]]) == pytest.approx((2.5 / 4 + 1 / 2) / 2)
    x, y = RAGGED[:3], EVEN
    assert improvement(x, y) == pytest.approx(loop_improvement(x, y))
    assert improvement(x, y) + improvement(y, x) == pytest.approx(1)
    assert improvement(x, x) == pytest.approx(0.5)


def test_improvement_of_samples_is_that_of_plain_loops(monkeypatch):
    monkeypatch.setattr(statistics, "MOST_SAMPLES", 200)
    x, y = Runs.of(RAGGED[:3]), Runs.of(EVEN)
    rng = np.random.default_rng(7)
    x_weights, y_weights = (next(statistics._sampled_weights(runs, 12, rng)) for runs in (x, y))
    pairs = zip(x_weights, y_weights, strict=True)
    expected = [loop_improvement(drawn_scores(x, a), drawn_scores(y, b)) for a, b in pairs]
    assert bootstrapped_improvement(x, y, seed=7) == pytest.approx(expected)


def test_improvement_needs_the_same_games():
    with pytest.raises(ValueError, match="x has 4 games, y has 3"):
        improvement(RAGGED, EVEN)


# --- what the papers print -------------------------------------------------------------------------------------------


def test_diamond_as_its_paper_says():
    runs = agent_runs("DIAMOND")
    assert runs.counts.tolist() == [5] * 26
    samples = bootstrapped(runs, {"mean": mean, "iqm": interquartile_mean})
    assert mean(runs, runs.weights) == pytest.approx(1.459, abs=5e-4)
    assert interquartile_mean(runs, runs.weights) == pytest.approx(0.641, abs=5e-4)
    assert interval(samples["mean"]) == pytest.approx([1.36, 1.57], abs=5e-3)
    assert interval(samples["iqm"]) == pytest.approx([0.58, 0.71], abs=5e-3)


@pytest.mark.parametrize(
    ("name", "superhuman", "printed_mean", "printed_iqm"),
    [  # DIAMOND paper, tables 1 and 6
        ("SimPLe", 1, 0.332, 0.130),
        ("TWM", 8, 0.956, 0.459),
        ("IRIS", 10, 1.046, 0.501),
        ("DIAMOND", 11, 1.459, 0.641),
        ("MuZero", 5, 0.562, 0.288),
        ("EfficientZero", 14, 1.943, 1.047),
        ("SPR", 6, 0.616, 0.337),
        ("SR-SPR", 9, 1.271, 0.700),
        ("BBF", 12, 2.247, 1.139),
    ],
)
def test_aggregates_are_the_printed_ones(name, superhuman, printed_mean, printed_iqm):
    runs = agent_runs(name)
    assert mean(runs, runs.weights) == pytest.approx(printed_mean, abs=5.1e-4)
    assert interquartile_mean(runs, runs.weights) == pytest.approx(printed_iqm, abs=5.1e-4)
    assert (game_means(runs, runs.weights) >= 1 - 1e-9).sum() == superhuman


def test_storm_is_the_printed_one_with_the_printed_freeway():
    runs = agent_runs("STORM", Freeway=(33.5,) * 5)
    assert mean(runs, runs.weights) == pytest.approx(1.266, abs=5.1e-4)
