"""The student's loss against its definition in float64, what it leads to, and the fast ways of computing it."""

import copy
import math
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from diamond_fast.config import DenoiserConfig, InnerModelConfig, SamplerConfig
from diamond_fast.distillation import HUBER_WIDTH, METRICS, distillation_loss, only_step, single_step
from diamond_fast.engine.cpu_training import as_programs
from diamond_fast.engine.fused_torch import Techniques
from diamond_fast.engine.fused_training import fused
from diamond_fast.formulations.config import FlowConfig, FlowStepsConfig, StepsConfig
from diamond_fast.spec import Discrete, Frame, Spec
from diamond_fast.world_model import Denoiser, DiffusionSampler

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from straight_line import StraightLineConfig

N, CONTEXT, LENGTH, HEIGHT, WIDTH = 2, 2, 4, 5, 7
STEPS = SamplerConfig()
INNER = InnerModelConfig(
    num_steps_conditioning=CONTEXT, cond_channels=16, depths=(1, 1), channels=(32, 32), attn_depths=(0, 0)
)
KINDS = {
    "edm": (DenoiserConfig(INNER), STEPS),
    "flow": (FlowConfig(INNER), FlowStepsConfig()),
    "straight_line": (StraightLineConfig(INNER, noise_std=0.7), StepsConfig()),
}


def make(kind="edm", seed=0):
    torch.manual_seed(seed)
    denoiser = Denoiser(KINDS[kind][0], Spec(Frame(HEIGHT, WIDTH), Discrete(3), CONTEXT))
    for p in denoiser.parameters():
        nn.init.normal_(p, std=0.1)  # some layers are zero at the start
    return denoiser


STEP = only_step(make(), STEPS)


def batch():
    generator = torch.Generator().manual_seed(1)
    obs = torch.randint(256, (N, LENGTH, 3, HEIGHT, WIDTH), generator=generator) / 255 * 2 - 1
    act = torch.randint(3, (N, LENGTH), generator=generator)
    mask = torch.tensor([[True] * LENGTH, [True] * (LENGTH - 1) + [False]])
    return obs, act, mask


class Noise:
    """Draws that are kept."""

    def __init__(self, seed=2):
        self.generator, self.drawn = torch.Generator().manual_seed(seed), []

    def __call__(self, *shape, device=None):
        self.drawn.append(torch.randn(*shape, generator=self.generator))
        return self.drawn[-1]


def by_definition(student, denoiser, obs, act, mask, noises, metric):
    """Loss and distance in float64, with EDM's formulas as numbers; of the modules only the networks are called."""
    sigma_data, offset = 0.5, 0.3

    def scales(sigma):
        s = math.sqrt(sigma**2 + offset**2)
        root = math.sqrt(s**2 + sigma_data**2)
        return 1 / root, s * sigma_data / root, sigma_data**2 / root**2, math.log(s) / 4

    def output(network, x, sigma, past, acts):
        c_in, *_, c_noise = scales(sigma)
        told = torch.full((len(x),), c_noise, dtype=torch.float64)
        return network(c_in * x, told, past.flatten(1, 2) / sigma_data, acts)

    def clean(x, out, sigma):
        _, c_out, c_skip, _ = scales(sigma)
        levels = ((c_skip * x + c_out * out).clamp(-1, 1) + 1) / 2 * 255
        return (levels + 1e-9).floor() / 255 * 2 - 1

    hi, lo = 5.0 ** (1 / 7), 2e-3 ** (1 / 7)
    sigmas = [(hi + i / 2 * (lo - hi)) ** 7 for i in range(3)] + [0.0]
    frames, losses, distances = [x.double() for x in obs.unbind(1)], [], []
    for i in range(LENGTH - CONTEXT):
        past, acts, x = torch.stack(frames[i : i + CONTEXT], 1), act[:, i : i + CONTEXT], noises[i].double()
        with torch.no_grad():
            for sigma, following in pairwise(sigmas):
                d = clean(x, output(denoiser.inner_model, x, sigma, past, acts), sigma)
                x = x + (x - d) / sigma * (following - sigma)
        noise, (_, c_out, c_skip, _) = noises[i].double(), scales(5.0)
        out = output(student.inner_model, noise, 5.0, past, acts)
        wrong = (out - (x - c_skip * noise) / c_out).flatten(1)
        squares = [sum(v * v for v in row) / len(row) for row in wrong]
        if metric == "pseudo-huber":
            squares = [torch.sqrt(s + HUBER_WIDTH**2) - HUBER_WIDTH for s in squares]
        counted = [n for n in range(N) if mask[n, i + CONTEXT]]
        losses.append(sum(squares[n] for n in counted) / len(counted))
        frames[i + CONTEXT] = clean(noise, out, 5.0).detach()
        apart = (frames[i + CONTEXT] - x).abs().flatten(1).mean(1) * 127.5
        distances.append(sum(apart[n] for n in counted) / len(counted))
    return sum(losses) / len(losses), sum(distances) / len(distances)


@pytest.mark.parametrize("metric", list(METRICS))
def test_loss_and_gradients_are_those_of_the_definition(metric):
    denoiser, student = make(), make(seed=3)
    obs, act, mask = batch()
    noise = Noise()
    teacher = DiffusionSampler(denoiser, STEPS)
    loss = distillation_loss(student, teacher, STEP, obs, act, mask, METRICS[metric], noise)
    loss.total.backward()
    assert [x.shape for x in noise.drawn] == [(N, 3, HEIGHT, WIDTH)] * 2  # one a step, and the teacher draws none
    assert all(p.grad is None for p in denoiser.parameters())

    exact = copy.deepcopy(student).double()
    exact.zero_grad()
    total, distance = by_definition(exact, copy.deepcopy(denoiser).double(), obs, act, mask, noise.drawn, metric)
    total.backward()
    # a pixel of the teacher's that is rounded to the next grey level is 0.008 away
    torch.testing.assert_close(loss.total.double(), total, rtol=2e-3, atol=0)
    torch.testing.assert_close(loss.distance.double(), distance, rtol=0, atol=0.02)
    for p, q in zip(student.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(p.grad.double(), q.grad, rtol=1e-2, atol=2e-3 * q.grad.abs().max().item())


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_loss_of_nothing_is_the_teachers_frame(kind):
    """An output that is the target makes, in a single step of the sampler, the frame that the teacher drew."""
    denoiser, steps = make(kind), KINDS[kind][1]
    obs, act, _ = batch()
    noise = Noise()(N, 3, HEIGHT, WIDTH)
    wanted, trajectory = DiffusionSampler(denoiser, steps).sample(obs[:, :2], act[:, :2], lambda *a, **k: noise)
    assert len(trajectory) == 4
    formulation, step = denoiser.formulation, denoiser.formulation.plan(single_step(steps))[0]
    noisy = formulation.perturb(noise, step, iter(()))
    target = formulation.target(wanted, noisy, torch.full((N,), step.level), noisy)

    class Ideal(nn.Module):
        def forward(self, *arguments):
            return target

    ideal = copy.copy(denoiser)
    ideal._modules = {**denoiser._modules, "inner_model": Ideal()}
    ideal.register_parameter("anchor", nn.Parameter(torch.zeros(())))  # tells its device and dtype
    drawn, trajectory = DiffusionSampler(ideal, single_step(steps)).sample(
        obs[:, :2], act[:, :2], lambda *a, **k: noise
    )
    assert len(trajectory) == 2
    assert (drawn - wanted).abs().max() <= 2.01 / 255  # rounded down once more


def test_what_is_learned_is_what_the_sampler_draws_with_the_student():
    """On one context and four noises: the student ends up nearer to the teacher's frames."""
    torch.manual_seed(0)
    small = replace(INNER, depths=(1,), channels=(8,), attn_depths=(0,))
    denoiser = Denoiser(DenoiserConfig(small), Spec(Frame(HEIGHT, WIDTH), Discrete(3), CONTEXT))
    nn.init.normal_(denoiser.inner_model.conv_out.weight, std=0.5)
    student = copy.deepcopy(denoiser)
    obs, act, mask = (x[:1, : CONTEXT + 1].expand(4, *x[:, : CONTEXT + 1].shape[1:]) for x in batch())
    teacher, optimizer = DiffusionSampler(denoiser, STEPS), torch.optim.Adam(student.parameters(), lr=5e-3)

    def distance():
        samplers = teacher, DiffusionSampler(student, single_step(STEPS))
        a, b = (sampler.sample(obs[:, :CONTEXT], act[:, :CONTEXT], Noise(5))[0] for sampler in samplers)
        return (a - b).abs().mean().item() * 127.5

    before = distance()
    for i in range(25):
        loss = distillation_loss(student, teacher, STEP, obs, act, mask, randn=Noise(5))
        assert i or loss.distance.item() == pytest.approx(before, abs=0.05)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    assert distance() < 0.6 * before


def test_padding_and_real_later_frames_do_not_count():
    obs, act, mask = batch()
    losses = []
    for other in (0.0, 0.5):
        obs = obs.clone()
        obs[:, CONTEXT:] = other  # only their number matters
        student, teacher = make(seed=3), DiffusionSampler(make(), STEPS)
        with torch.no_grad():
            losses.append(distillation_loss(student, teacher, STEP, obs, act, mask, randn=Noise()).total.item())
        act = act.clone()
        act[:, -1] = 2 - act[:, -1]  # taken at the last frame, which leads to none of them
    assert losses[0] == losses[1]
    alone = distillation_loss(student, teacher, STEP, obs, act, mask & False, randn=Noise())
    assert alone.total.item() == alone.distance.item() == 0


@pytest.mark.parametrize("way", ["fused", "program"])
@pytest.mark.parametrize("kind", ["edm", "flow"])
def test_the_fast_ways_of_training_agree(kind, way):
    """In float32, with the kernels' plain twins: the ways in which the denoiser's own loss is computed."""
    obs, act, mask = batch()
    teacher = DiffusionSampler(make(kind), KINDS[kind][1])
    grads, totals = [], []
    for fast in (False, True):
        student = make(kind, seed=3).to(memory_format=torch.channels_last)
        trained = student
        if fast and way == "fused":
            trained = fused(student, torch.float32, replace(Techniques(), fused_edm=False))
        elif fast:
            trained = as_programs(student, torch.float32)
        loss = distillation_loss(trained, teacher, only_step(student, KINDS[kind][1]), obs, act, mask, randn=Noise())
        loss.total.backward()
        totals.append(loss.total.detach())
        grads.append([p.grad for p in student.parameters()])
    torch.testing.assert_close(totals[1], totals[0], rtol=1e-3, atol=0)
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=2e-3 * b.abs().max().item())
