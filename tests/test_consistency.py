"""Consistency distillation against its definition in float64, and what students do if the future is open."""

import copy
import math

import pytest
import torch
from test_distillation import CONTEXT, LENGTH, STEP, STEPS, N, Noise, batch, make
from torch import nn

from diamond_fast.config import DenoiserConfig, InnerModelConfig
from diamond_fast.consistency import Consistency
from diamond_fast.distillation import HUBER_WIDTH, distillation_loss, only_step, pseudo_huber
from diamond_fast.engine.cpu_training import as_programs
from diamond_fast.spec import Discrete, Frame, Spec
from diamond_fast.world_model import Denoiser, DiffusionSampler

PLAN = make().formulation.plan(STEPS)


def edm(network, x, sigma, past, acts):
    """Output and estimate of one row [1,C,H,W] in float64, before grey levels, with EDM's formulas as numbers."""
    s = math.sqrt(sigma**2 + 0.3**2)
    root = math.sqrt(s**2 + 0.5**2)
    c_out, c_skip, told = s * 0.5 / root, 0.25 / root**2, torch.tensor([math.log(s) / 4], dtype=torch.float64)
    output = network(x / root, told, past.flatten(1, 2) / 0.5, acts)
    return output, c_skip * x + c_out * output, (c_out, c_skip)


def grey(x):
    return ((x.clamp(-1, 1) + 1) / 2 * 255 + 1e-9).floor() / 255 * 2 - 1


def by_definition(student, teacher, obs, act, mask, noises):
    """The loss, row by row."""
    hi, lo = 5.0 ** (1 / 7), 2e-3 ** (1 / 7)
    sigmas = [(hi + i / 2 * (lo - hi)) ** 7 for i in range(3)]
    frames, total = [x.double() for x in obs.unbind(1)], 0.0
    for i in range(LENGTH - CONTEXT):
        losses, following_frames = [], []
        for row in range(N):
            past = torch.stack([f[row : row + 1] for f in frames[i : i + CONTEXT]], 1)
            acts, points = act[row : row + 1, i : i + CONTEXT], [noises[i][row : row + 1].double()]
            with torch.no_grad():
                for sigma, following in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
                    d = grey(edm(teacher, points[-1], sigma, past, acts)[1])
                    points.append(points[-1] + (points[-1] - d) / sigma * (following - sigma))
                following_frames.append(grey(edm(student, points[0], 5.0, past, acts)[1]))
                here = row % 3
                last = here == 2
                wanted = points[3] if last else grey(edm(student, points[here + 1], sigmas[here + 1], past, acts)[1])
            output, _, (c_out, c_skip) = edm(student, points[here], sigmas[here], past, acts)
            square = (output - (wanted - c_skip * points[here]) / c_out).square().mean()
            if mask[row, i + CONTEXT]:
                losses.append((square + HUBER_WIDTH**2).sqrt() - HUBER_WIDTH)
        frames[i + CONTEXT] = torch.cat(following_frames)
        total = total + sum(losses) / len(losses)
    return total / (LENGTH - CONTEXT)


def test_loss_and_gradients_are_those_of_the_definition():
    denoiser, student, noise = make(), make(seed=3), Noise()
    sampler, data = DiffusionSampler(denoiser, STEPS), batch()
    loss = distillation_loss(student, sampler, STEP, *data, pseudo_huber, noise, Consistency(PLAN))
    loss.total.backward()
    assert all(p.grad is None for p in denoiser.parameters())
    assert len(noise.drawn) == LENGTH - CONTEXT
    exact = copy.deepcopy(student).double()
    exact.zero_grad()
    total = by_definition(exact.inner_model, copy.deepcopy(denoiser).double().inner_model, *data, noise.drawn)
    total.backward()
    # a pixel that is rounded to the next grey level is 0.008 away
    torch.testing.assert_close(loss.total.double(), total, rtol=2e-3, atol=0)
    for p, q in zip(student.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(p.grad.double(), q.grad, rtol=1e-2, atol=2e-3 * q.grad.abs().max().item())


def test_every_point_of_the_trajectory_is_learned_from():
    """Rows of one context and noise: three losses, over and over; the last is the teacher's own last step."""
    student = make()
    obs, act, mask = (x[:1, : CONTEXT + 1].expand(6, *x[:, : CONTEXT + 1].shape[1:]) for x in batch())
    z = Noise()(1, *obs.shape[2:]).expand(6, -1, -1, -1)
    rows = []

    def kept(difference):
        rows.append(pseudo_huber(difference))
        return rows[-1]

    sampler = DiffusionSampler(student, STEPS)
    distillation_loss(student, sampler, STEP, obs, act, mask, kept, lambda *a, **k: z, Consistency(PLAN))
    losses = rows[-1]
    torch.testing.assert_close(losses[3:], losses[:3], rtol=1e-4, atol=1e-6)
    # The student is still its teacher, and rounds its last step down by up to a grey level: 1/127.5, over c_out.
    assert losses[2] < ((1 / 127.5 / 0.257) ** 2 / 3 + HUBER_WIDTH**2) ** 0.5 - HUBER_WIDTH + 0.001
    assert losses[:2].min() > 5 * losses[2]


def test_the_program_agrees():
    teacher, grads, totals = DiffusionSampler(make(), STEPS), [], []
    for fast in (False, True):
        student = make(seed=3).to(memory_format=torch.channels_last)
        trained = as_programs(student, torch.float32) if fast else student
        loss = distillation_loss(trained, teacher, STEP, *batch(), pseudo_huber, Noise(), Consistency(PLAN))
        loss.total.backward()
        totals.append(loss.total.detach())
        grads.append([p.grad for p in student.parameters()])
    torch.testing.assert_close(totals[1], totals[0], rtol=1e-3, atol=0)
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=2e-3 * b.abs().max().item())


# --- an open future: left or right half white, and nobody can know

HEIGHT, WIDTH = 2, 4


class Exact(nn.Module):
    """The mean of the two futures behind a noisy frame, by Bayes, as an EDM network puts it out."""

    def forward(self, noisy, c_noise, context, act):
        s2 = (8 * c_noise).exp().view(-1, 1, 1, 1)
        x = noisy * (s2 + 0.25).sqrt()
        left = -torch.ones(HEIGHT, WIDTH)
        left[:, : WIDTH // 2] = 1
        chance = torch.sigmoid(2 * (x * left).sum((1, 2, 3), keepdim=True) / s2)  # |x - right|^2 - |x - left|^2
        clean = (2 * chance - 1) * left
        return (clean - 0.25 / (s2 + 0.25) * x) / (0.5 * (s2 / (s2 + 0.25)).sqrt())


@pytest.mark.parametrize("paired", [True, False])
def test_a_student_takes_the_side_that_its_teacher_takes(paired):
    """Not so one that is trained on frames drawn from another noise: it draws the mean."""
    inner = InnerModelConfig(num_steps_conditioning=1, cond_channels=16, depths=(1,), channels=(16,), attn_depths=(0,))
    torch.manual_seed(0)
    student = Denoiser(DenoiserConfig(inner), Spec(Frame(HEIGHT, WIDTH), Discrete(2), context=1))
    exact = copy.copy(student)
    exact._modules = {**student._modules, "inner_model": Exact()}
    exact.register_parameter("anchor", nn.Parameter(torch.zeros(())))  # tells its device and dtype
    teacher, noise, n = DiffusionSampler(exact, STEPS), Noise(), 48

    class Other:
        def sample(self, obs, act, randn):
            return teacher.sample(obs, act, Noise(len(noise.drawn)))

    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    data = torch.zeros(n, 2, 3, HEIGHT, WIDTH), torch.zeros(n, 2, dtype=torch.int64), torch.ones(n, 2).bool()
    for _ in range(60 if paired else 15):
        loss = distillation_loss(student, teacher if paired else Other(), only_step(student, STEPS), *data, randn=noise)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    z = Noise(7)(256, 3, HEIGHT, WIDTH)
    obs, act = torch.zeros(256, 1, 3, HEIGHT, WIDTH), torch.zeros(256, 1, dtype=torch.int64)
    wanted, drawn = (
        DiffusionSampler(*x).sample(obs, act, lambda *a, **k: z)[0] for x in ((exact, STEPS), (student, type(STEPS)(1)))
    )
    spread, wanted_spread = drawn.std(dim=0).mean().item(), wanted.std(dim=0).mean().item()
    assert wanted_spread > 0.7  # of at most 1: the teacher takes sides
    if paired:
        assert spread > 0.8 * wanted_spread
        assert (drawn[:, 0, 0, 0].sign() == wanted[:, 0, 0, 0].sign()).float().mean() > 0.8
    else:
        assert spread < 0.5 * wanted_spread
