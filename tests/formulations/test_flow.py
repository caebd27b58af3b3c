"""Flow matching against its formulas, and against Gaussian frames, whose velocity field is known exactly."""

import math
from itertools import pairwise

import pytest
import torch
from fake_cuda import fake, fake_cuda, move_to_fake_cuda, no_host_traffic
from golden_vectors import denoiser, replay_draws

from diamond_fast.engine.denoiser_networks import fast_sampler
from diamond_fast.formulations.config import FlowConfig, FlowStepsConfig, FlowTimesConfig
from diamond_fast.formulations.flow import Flow, times
from diamond_fast.frames import quantise

MEAN, STD = 0.3, 0.4  # of the pixels
FLOW = Flow(FlowConfig(), quantised=False)


def velocity(x, t):
    """E[noise - clean | x] for clean ~ N(MEAN, STD^2)."""
    centred = x - (1 - t) * MEAN
    return (t - (1 - t) * STD**2) / ((1 - t) ** 2 * STD**2 + t**2) * centred - MEAN


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("n", "shift"), [(1, 1.0), (3, 1.0), (4, 3.0), (7, 0.5), (100, 3.0)])
def test_times_are_even_and_shifted(n, shift):
    ts = times(FlowStepsConfig(n, shift=shift))
    assert len(ts) == n + 1
    assert (ts[0], ts[-1]) == (1, 0)
    assert all(later < t for t, later in pairwise(ts))
    for i, t in enumerate(ts[1:-1], 1):  # the odds of noise are those of even times, multiplied by the shift
        assert t / (1 - t) == pytest.approx(shift * (n - i) / i)
    assert [(s.level, s.next_level) for s in FLOW.plan(FlowStepsConfig(n, shift=shift))] == list(pairwise(ts))


def draw(start, num_steps, shift=1.0, predict=velocity, flow=FLOW):
    x = start
    for step in flow.plan(FlowStepsConfig(num_steps, shift=shift)):
        x, _, _ = flow.step(x, predict(x, step.level), step, None, None, iter(()))
    return x


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_draws_converge_to_the_exact_ones(shift):
    """The flow of a Gaussian takes noise z to MEAN + STD z; Euler's error falls as 1 / n."""
    start = random(50, 3, 2, 2)
    errors = [(draw(start, n, shift) - (MEAN + STD * start)).abs().max().item() for n in (20, 40, 80)]
    assert errors[2] < 0.06
    for error, half in pairwise(errors):
        assert half == pytest.approx(error / 2, rel=0.15)


def test_a_certain_frame_takes_one_step():
    """If the past leaves no doubt, the lines are straight: any number of steps draws the frame itself."""
    frame, start = random(2, 3, 4, 5, seed=1), random(2, 3, 4, 5)
    for n in (1, 2, 5):
        torch.testing.assert_close(draw(start, n, 3.0, lambda x, t: (x - frame) / t), frame)


def test_draws_follow_the_formula_and_are_quantised():
    start, outputs = random(1, 3, 2, 2).float(), random(3, 1, 3, 2, 2, seed=1).float()
    ts = [1, 3 * 2 / 3 / (1 + 2 * 2 / 3), 3 / 3 / (1 + 2 / 3), 0]
    expected = start.double() + sum((ts[i + 1] - ts[i]) * outputs[i].double() for i in range(3))
    replies = iter(outputs)
    torch.testing.assert_close(draw(start, 3, 3.0, lambda x, t: next(replies)).double(), expected)
    replies = iter(outputs)
    y = draw(start, 3, 3.0, lambda x, t: next(replies), Flow(FlowConfig()))
    assert ((y - quantise(expected.float())).abs() * 127.5).max() < 1.01


def test_training_follows_the_formulas():
    n, levels = 5, FlowTimesConfig(loc=0.5, scale=2.0)
    clean, noise, z = random(n, 3, 2, 4).float(), random(n, 3, 2, 4, seed=1).float(), random(n, seed=2).float()
    t, drawn = FLOW.draw(clean, levels, replay_draws([z, noise]))
    assert torch.equal(drawn, noise)
    assert t.tolist() == pytest.approx([1 / (1 + math.exp(-(0.5 + 2 * v))) for v in z.tolist()], rel=1e-5)
    noisy, target = FLOW.corrupt(clean, t, drawn), FLOW.target(clean, noisy=None, t=t, noise=drawn)
    for i, ti in enumerate(t.tolist()):
        torch.testing.assert_close(noisy[i], (1 - ti) * clean[i] + ti * noise[i])
        torch.testing.assert_close(target[i], noise[i] - clean[i])
    torch.testing.assert_close(FLOW.estimate(noisy, target, t), clean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(FLOW.estimate(noisy[:1], target[:1], t[0].item()), clean[:1], rtol=1e-4, atol=1e-5)


def test_the_loss_is_least_at_the_velocity_field():
    """Over many draws of one time, the best linear prediction of the target is the known field."""
    n, t = 200_000, 0.7
    clean, noise = MEAN + STD * random(n, 1, 1, 1), random(n, 1, 1, 1, seed=1)
    level = torch.full((n,), t, dtype=torch.float64)
    noisy = FLOW.corrupt(clean, level, noise)
    target = FLOW.target(clean, noisy, level, noise).flatten()
    design = torch.stack([noisy.flatten(), torch.ones(n, dtype=torch.float64)], 1)
    slope, intercept = torch.linalg.lstsq(design, target[:, None]).solution.flatten().tolist()
    x = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(slope * x + intercept, velocity(x, t), rtol=0, atol=0.02)


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="num_steps: needs at least 1 denoising step, got 0"):
        times(FlowStepsConfig(num_steps=0))


@torch.no_grad()
def test_nothing_leaves_the_gpu():
    network = denoiser("small").inner_model
    sampler = fast_sampler(
        Flow(FlowConfig()), network, FlowStepsConfig(2), torch.device("cpu"), torch.bfloat16, engine="fused"
    )
    inputs = torch.zeros(2, 12, 32, 32), torch.zeros(2, 4, dtype=torch.int64), torch.zeros(1, 2, 3, 32, 32)
    with fake_cuda():
        move_to_fake_cuda(sampler)
        inputs = [fake(x) for x in inputs]
        with no_host_traffic():
            trajectory = sampler.sample(*inputs)
            level, noise = FLOW.draw(trajectory[0], FlowTimesConfig(), torch.randn)
            FLOW.estimate(FLOW.corrupt(trajectory[0], level, noise), noise, level)
    assert [x.dtype for x in trajectory] == [torch.float32] * 3
