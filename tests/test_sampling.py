from dataclasses import replace

import numpy as np
import pytest
import torch
from golden_vectors import denoiser, load, replay_draws, tensors

from diamond_fast.config import SamplerConfig
from diamond_fast.formulations.edm import noise_schedule
from diamond_fast.world_model import DiffusionSampler

CASES = {
    "sample_small_euler1": SamplerConfig(num_steps=1),
    "sample_small_euler3": SamplerConfig(num_steps=3),
    "sample_small_heun3": SamplerConfig(num_steps=3, order=2),
    "sample_small_churn5": SamplerConfig(num_steps=5, s_churn=2.0, s_noise=1.003),
    "sample_paper_euler3": SamplerConfig(num_steps=3),
}


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10])
def test_noise_schedule_golden(n):
    np.testing.assert_allclose(noise_schedule(SamplerConfig(num_steps=n)), load("sigmas")[f"n{n}"], rtol=1e-6)


def one_level_after(step, sigmas, order):
    """How far a pixel moves that truncation put one grey level off: Heun divides it by the next, smaller sigma."""
    if order == 1 or step == 0 or sigmas[step] == 0:
        return 1.0
    return max(1.0, (sigmas[step - 1] - sigmas[step]) / (2 * sigmas[step]))


@pytest.mark.parametrize("case", CASES)
def test_sample_golden(case):
    v = tensors(case)
    sampler = DiffusionSampler(denoiser(case.split("_")[1]), CASES[case])
    np.testing.assert_allclose(sampler.sigmas, v["sigmas"], rtol=1e-6)
    randn = replay_draws([v[f"noise_{i}"] for i in range(sum(k.startswith("noise_") for k in v))])
    sample, trajectory = sampler.sample(v["obs"], v["act"], randn)
    assert not randn.left
    assert len(trajectory) == len(v["trajectory"])
    for step, (actual, expected) in enumerate(zip(trajectory, v["trajectory"], strict=True)):
        off = (actual - expected).abs() > 1e-4 * expected.abs() + 1e-5
        assert off.float().mean() <= 1e-3
        assert (actual - expected).abs().max() * 127.5 < 1.01 * one_level_after(step, sampler.sigmas, CASES[case].order)
    torch.testing.assert_close(sample, trajectory[-1], rtol=0, atol=0)


def test_no_steps_is_refused():
    with pytest.raises(ValueError, match="num_steps"):
        noise_schedule(replace(SamplerConfig(), num_steps=0))
