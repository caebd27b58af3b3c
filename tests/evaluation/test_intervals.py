import math

import numpy as np
import pytest

from diamond_fast.evaluation.intervals import ci95, t_quantile_975


def test_intervals_of_columns_are_those_of_each():
    values = np.array([[1.0, 5.0], [2.0, 5.0], [6.0, 5.0]])
    # Mean 3, deviation sqrt(7), t(2) = 4.3027
    np.testing.assert_allclose(ci95(values), [4.3027 * math.sqrt(7 / 3), 0.0], rtol=1e-12)
    assert np.isnan(ci95(values[:1])).all()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 10, 11, 15, 30, 99, 1000])
def test_the_quantile_leaves_two_and_a_half_percent(n):
    """The tail of the density, integrated after t = sqrt(n) tan(u), which makes it c cos(u)^(n-1)."""
    u = np.linspace(np.arctan(t_quantile_975(n) / math.sqrt(n)), math.pi / 2, 200_001)
    c = math.exp(math.lgamma((n + 1) / 2) - math.lgamma(n / 2)) / math.sqrt(math.pi)
    tail = c * np.trapezoid(np.cos(u) ** (n - 1), u)
    assert tail == pytest.approx(0.025, rel=5e-4)


def test_the_quantile_needs_a_degree_of_freedom():
    with pytest.raises(ValueError, match=r"^degrees_of_freedom: "):
        t_quantile_975(0)


def test_the_interval_covers_the_mean_95_times_in_100():
    rng = np.random.default_rng(0)
    samples = rng.normal(3, 2, (4, 4000))
    covered = np.mean(np.abs(samples.mean(0) - 3) <= ci95(samples))
    assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 4000)
