"""Errors over the horizon against loops over segments, and the sampling rate against a sampler of known speed."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_world import SMALL_WORLD as CFG
from small_world import make_agent, make_replay

from diamond_fast.config import SamplerConfig
from diamond_fast.engine.fast_denoiser import FastDenoiser
from diamond_fast.training import compounding
from diamond_fast.training.compounding import ErrorCurve, measure_compounding, measure_sampling_rate
from diamond_fast.training.evaluate import t_quantile_975
from diamond_fast.world_model import DiffusionSampler


@pytest.fixture(scope="module")
def agent():
    return make_agent()


def measure(agent, replay, steps=(1,), segments=6, seeds=1, **overrides):
    options = {"seed": 0, "batch_size": 4, **overrides}
    return measure_compounding(agent, replay, CFG, steps, segments, seeds, **options)


def test_means_and_intervals_over_segments():
    errors = np.array([[1.0, 4.0], [2.0, 4.0], [6.0, 4.0]])  # 3 segments, 2 steps
    curve = ErrorCurve.of(errors, 2 * errors)
    assert curve.mean_absolute.tolist() == [3, 4]
    assert curve.root_mean_square.tolist() == [6, 8]
    np.testing.assert_allclose(curve.mean_absolute_ci95, [t_quantile_975(2) * np.sqrt(7 / 3), 0])
    np.testing.assert_allclose(curve.root_mean_square_ci95, [2 * t_quantile_975(2) * np.sqrt(7 / 3), 0])


def test_curves_are_those_of_the_strips(agent):
    told = []
    result = measure(agent, make_replay([40, 30]), steps=(1, 2), advance=told.append)
    assert list(result.curves) == list(result.strips) == [1, 2]
    assert sum(told) == 2 * 6 * 5
    for steps, strips in result.strips.items():
        for k in range(5):
            by_hand = [
                np.mean([abs(int(a) - int(b)) for a, b in zip(x[k].ravel(), y[k].ravel(), strict=True)])
                for x, y in zip(strips.real, strips.imagined, strict=True)
            ]
            assert result.curves[steps].mean_absolute[k] == pytest.approx(np.mean(by_hand), rel=1e-6)
            half = t_quantile_975(5) * np.std(by_hand, ddof=1) / np.sqrt(6)
            assert result.curves[steps].mean_absolute_ci95[k] == pytest.approx(half, rel=1e-6)
    strips = result.strips[1]
    still = np.abs(strips.real.astype(int) - strips.last_seen[:, None].astype(int)).mean((0, 2, 3, 4))
    np.testing.assert_allclose(result.unchanged.mean_absolute, still, rtol=1e-6)
    assert (strips.imagined != result.strips[2].imagined).any()
    assert (strips.real == result.strips[2].real).all()


def test_noise_seeds_are_averaged_per_segment(agent, monkeypatch):
    """Imagined frames are off by a known amount that depends on the noise: 10 the first time, 30 the second."""
    offsets, seeds = iter((10, 30)), []

    def imagine(agent, replay, cfg, seed, *rest):
        seeds.append(seed)
        real = np.full((6, 5, 8, 8, 3), 100, np.uint8)
        return compounding.Strips(real[:, 0], real, real + np.uint8(next(offsets)))

    monkeypatch.setattr(compounding, "imagine_held_out", imagine)
    curve = measure(agent, None, seeds=2).curves[1]
    assert curve.mean_absolute.tolist() == [20] * 5
    assert curve.mean_absolute_ci95.tolist() == [0] * 5  # over segments, which do not differ
    assert len(set(seeds)) == 2


def test_results_depend_on_the_seed_alone(agent):
    replay = make_replay([40])
    torch.manual_seed(1)
    a = measure(agent, replay).strips[1].imagined
    torch.manual_seed(2)
    assert (a == measure(agent, replay).strips[1].imagined).all()
    assert (a != measure(agent, replay, seed=1).strips[1].imagined).any()


def test_nothing_to_imagine_from(agent):
    replay = make_replay([9, 3])
    assert measure(agent, replay) is None
    assert measure_sampling_rate(agent, make_replay([4, 3]), CFG, 4) is None


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(("order", "calls"), [(1, 3), (2, 5)])
def test_the_sampling_rate_of_a_sampler_that_takes_20_ms(agent, monkeypatch, order, calls, fast):
    """By a clock of our own. The first batch, which is slow, does not count; of the others the median does."""
    now, durations = [0.0], iter([9.0, 0.02, 0.02, 0.5, 0.02, 0.02])

    def sample(self, prev_obs, prev_act):
        assert prev_obs.shape == (2, 4, 3, 8, 8)
        now[0] += next(durations)
        return prev_obs[:, -1], []

    monkeypatch.setattr(FastDenoiser if fast else DiffusionSampler, "sample", sample)
    monkeypatch.setattr(compounding, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    sampler = SamplerConfig(num_steps=3, order=order)
    cfg = replace(CFG, world_model=replace(CFG.world_model, sampler=sampler))
    rate = measure_sampling_rate(agent, make_replay([40]), cfg, batch_size=2, fast=fast, seconds=0.57)
    assert next(durations, None) is None  # five batches until 0.57 s were over
    assert rate.batch_size == 2
    assert (rate.path == "plain") != fast
    assert rate.frames_per_second == pytest.approx(2 / 0.02)
    assert rate.denoiser_calls_per_second == pytest.approx(calls * 2 / 0.02)
