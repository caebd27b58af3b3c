"""The Fréchet distance against closed forms, the eigenvalues of the product, and scipy's square root."""

import re

import numpy as np
import pytest
import torch

from diamond_fast.evaluation.frechet import frechet_distance


def features(n, d, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * scale + rng.normal(size=d)


def test_of_one_number_it_is_that_of_means_and_deviations():
    """(m_a - m_b)^2 + (s_a - s_b)^2."""
    a, b = features(50, 1, 0), features(80, 1, 1, scale=3.0)
    truth = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    assert frechet_distance(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(truth, rel=1e-12)


def test_of_one_cloud_moved_and_stretched():
    """b = s a + t: |m_b - m_a|^2 + (s - 1)^2 tr S_a."""
    a = features(200, 6, 2)
    b = 1.5 * a + np.arange(6)
    truth = ((b.mean(0) - a.mean(0)) ** 2).sum() + 0.25 * a.var(0).sum()
    assert frechet_distance(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(truth, rel=1e-10)


def test_of_independent_numbers_it_is_the_sum_of_their_own():
    """Covariances that are diagonal to the last bit: each row with every sign."""
    signs = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), -1).reshape(-1, 3)
    a, b = signs * [1.0, 2.0, 3.0], signs * [2.0, 2.0, 0.5] + 1
    assert frechet_distance(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(3 + 1 + 0 + 2.5**2, rel=1e-12)


@pytest.mark.parametrize("d", [2, 5, 17])
def test_of_any_it_is_the_definition(d):
    """tr (S_a S_b)^(1/2) is the sum of the roots of the eigenvalues of the product, which is not symmetric."""
    a, b = features(40, d, 3), features(90, d, 4, scale=0.4)
    cov_a, cov_b = (np.atleast_2d(np.cov(x.T, bias=True)) for x in (a, b))
    shared = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).real.clip(0)).sum()
    truth = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * shared
    assert frechet_distance(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(truth, rel=1e-8)
    linalg = pytest.importorskip(
        "scipy.linalg", reason="scipy is no dependency; the definition above is held to anyway"
    )
    root = linalg.sqrtm(cov_a @ cov_b).real
    assert np.trace(root) == pytest.approx(shared, rel=1e-8)


def test_itself_is_nothing_away_also_without_full_rank():
    a = torch.from_numpy(features(60, 4, 5))
    a = torch.cat((a, a[:, :1] + a[:, 1:2]), dim=1)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a.float(), a.float() + 1) == pytest.approx(5, rel=1e-4)


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (((5, 5), (9, 5)), "features: 5 numbers need more samples than that, got 5 and 9"),
        (((9, 5), (5, 5)), "features: 5 numbers need more samples than that, got 9 and 5"),
        (((9, 5), (9, 4)), "features: expected [M,D] and [N,D], got [9, 5] and [9, 4]"),
        (((9, 5, 1), (9, 5)), "features: expected [M,D] and [N,D], got [9, 5, 1] and [9, 5]"),
    ],
)
def test_what_has_no_distance_is_refused(shapes, said):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        frechet_distance(*(torch.zeros(shape) for shape in shapes))
