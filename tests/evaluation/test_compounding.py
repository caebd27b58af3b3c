"""Errors over the horizon against loops over segments."""

import numpy as np
import pytest
import torch
from small_world import SMALL_WORLD as CFG
from small_world import make_agent, make_replay

from diamond_fast.engine.choose import choose_path
from diamond_fast.evaluation import compounding
from diamond_fast.evaluation.compounding import ErrorCurve, measure_compounding
from diamond_fast.evaluation.intervals import t_quantile_975
from diamond_fast.evaluation.open_loop import Predictions

READABLE = choose_path(torch.device("cpu"), choice="readable")


@pytest.fixture(scope="module")
def agent():
    return make_agent()


def measure(agent, replay, steps=(1,), segments=6, seeds=1, **overrides):
    options = {"seed": 0, "batch_size": 4, **overrides}
    return measure_compounding(agent, replay, CFG, READABLE, steps, segments, seeds, **options)


def test_means_and_intervals_over_segments():
    errors = np.array([[1.0, 4.0], [2.0, 4.0], [6.0, 4.0]])  # 3 segments, 2 steps
    curve = ErrorCurve.of(errors, 2 * errors)
    assert curve.mean_absolute.tolist() == [3, 4]
    assert curve.root_mean_square.tolist() == [6, 8]
    np.testing.assert_allclose(curve.mean_absolute_ci95, [t_quantile_975(2) * np.sqrt(7 / 3), 0])
    np.testing.assert_allclose(curve.root_mean_square_ci95, [2 * t_quantile_975(2) * np.sqrt(7 / 3), 0])


def test_curves_are_those_of_the_predictions(agent):
    told = []
    result = measure(agent, make_replay([40, 30]), steps=(1, 2), advance=told.append)
    assert list(result.curves) == list(result.predictions) == [1, 2]
    assert sum(told) == 2 * 6 * 5
    for steps, predictions in result.predictions.items():
        for k in range(5):
            by_hand = [
                np.mean([abs(int(a) - int(b)) for a, b in zip(x[k].ravel(), y[k].ravel(), strict=True)])
                for x, y in zip(predictions.real, predictions.imagined, strict=True)
            ]
            assert result.curves[steps].mean_absolute[k] == pytest.approx(np.mean(by_hand), rel=1e-6)
            half = t_quantile_975(5) * np.std(by_hand, ddof=1) / np.sqrt(6)
            assert result.curves[steps].mean_absolute_ci95[k] == pytest.approx(half, rel=1e-6)
    predictions = result.predictions[1]
    still = np.abs(predictions.real.astype(int) - predictions.last_seen[:, None].astype(int)).mean((0, 2, 3, 4))
    np.testing.assert_allclose(result.unchanged.mean_absolute, still, rtol=1e-6)
    assert (predictions.imagined != result.predictions[2].imagined).any()
    assert (predictions.real == result.predictions[2].real).all()


def test_noise_seeds_are_averaged_per_segment(agent, monkeypatch):
    """Imagined frames are off by a known amount that depends on the noise: 10 the first time, 30 the second."""
    offsets, seeds = iter((10, 30)), []

    def imagine(agent, replay, cfg, path, seed, *rest, **_):
        seeds.append(seed)
        real = np.full((6, 5, 8, 8, 3), 100, np.uint8)
        return Predictions(real[:, 0], real, real + np.uint8(next(offsets)))

    monkeypatch.setattr(compounding, "imagine_held_out", imagine)
    curve = measure(agent, None, seeds=2).curves[1]
    assert curve.mean_absolute.tolist() == [20] * 5
    assert curve.mean_absolute_ci95.tolist() == [0] * 5  # over segments, which do not differ
    assert len(set(seeds)) == 2


def test_results_depend_on_the_seed_alone(agent):
    replay = make_replay([40])
    torch.manual_seed(1)
    a = measure(agent, replay).predictions[1].imagined
    torch.manual_seed(2)
    assert (a == measure(agent, replay).predictions[1].imagined).all()
    assert (a != measure(agent, replay, seed=1).predictions[1].imagined).any()


def test_nothing_to_imagine_from(agent):
    replay = make_replay([9, 3])
    assert measure(agent, replay) is None
