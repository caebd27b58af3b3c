import pytest
from pages.figures import figure, figure_from_json, ratio, spread, to_json


def test_the_spread_leaves_out_the_most_extreme_tenth_at_either_end():
    assert spread([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert spread([*range(1, 19), 1000.0, -1000.0]) == (2, 17)


def test_best_is_the_highest_rate_or_the_shortest_time():
    assert figure([2.0, 4.0, 9.0], higher_is_better=True).best == 9.0
    shortest = figure([2.0, 4.0, 9.0], higher_is_better=False)
    assert (shortest.best, shortest.median, shortest.low, shortest.high, shortest.turns) == (2.0, 4.0, 2.0, 9.0, 3)


def test_a_ratio_is_taken_round_by_round():
    """The machine was three times slower in the second round: that says nothing about which is faster."""
    r = ratio([1.0, 3.0, 1.0], [2.0, 6.0, 2.0])
    assert (r.ratio, r.low, r.high, r.decided) == (2.0, 2.0, 2.0, True)


@pytest.mark.parametrize(
    ("others", "decided"), [([1.1, 1.2, 0.9], False), ([1.1, 1.2, 1.05], True), ([0.9, 0.8, 0.7], True)]
)
def test_a_ratio_is_undecided_where_rounds_disagree_on_who_is_faster(others, decided):
    assert ratio([1.0, 1.0, 1.0], others).decided is decided


def test_figures_are_apart_where_their_spreads_share_nothing():
    low, middle, high = (figure(values, True) for values in ([1.0, 2.0], [2.0, 3.0], [2.5, 4.0]))
    assert low.apart_from(high)
    assert high.apart_from(low)
    assert not low.apart_from(middle)


def test_json_and_back():
    f = figure([1.23456, 2.0], True)
    assert to_json(f) == {"median": 1.617, "best": 2.0, "low": 1.235, "high": 2.0, "turns": 2}
    assert figure_from_json(to_json(f)).median == 1.617
    assert to_json(ratio([1.0], [3.0])) == {"ratio": 3.0, "low": 3.0, "high": 3.0, "decided": True}
