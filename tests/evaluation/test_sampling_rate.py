"""The sampling rate against a sampler of known speed."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from small_world import SMALL_WORLD as CFG
from small_world import make_agent, make_replay

from diamond_fast import timing
from diamond_fast.config import SamplerConfig
from diamond_fast.engine.choose import candidates, choose_path
from diamond_fast.engine.fast_denoiser import FastDenoiser
from diamond_fast.evaluation.sampling_rate import measure_sampling_rate
from diamond_fast.world_model import DiffusionSampler


@pytest.fixture(scope="module")
def agent():
    return make_agent()


def test_nothing_to_draw_from(agent):
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
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: 0.0))
    sampler = SamplerConfig(num_steps=3, order=order)
    cfg = replace(CFG, world_model=replace(CFG.world_model, sampler=sampler))
    path = choose_path(torch.device("cpu"), "fp32") if fast else None
    rate = measure_sampling_rate(agent, make_replay([40]), cfg, batch_size=2, path=path, seconds=0.57)
    assert next(durations, None) is None  # five batches until 0.57 s were over
    assert rate.batch_size == 2
    assert (rate.path == "plain") != fast
    assert rate.frames_per_second == pytest.approx(2 / 0.02)
    assert rate.denoiser_calls_per_second == pytest.approx(calls * 2 / 0.02)


@pytest.mark.parametrize("engine", dict.fromkeys(path.engine for path in candidates(torch.device("cpu"), "fp32")))
def test_the_engine_asked_for_draws_the_frames(agent, engine):
    path = choose_path(torch.device("cpu"), "fp32", engine)
    rate = measure_sampling_rate(agent, make_replay([40]), CFG, batch_size=2, path=path, seconds=0.0)
    assert rate.path == path.short
    assert path.engine == engine
