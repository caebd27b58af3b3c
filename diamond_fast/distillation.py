"""One evaluation a frame: a student of the sampler (Luhman & Luhman 2021, knowledge distillation of a sampler).

The denoiser, called the teacher, draws a frame from noise in n steps, and its sampler adds no noise on the way: a
frame follows from its context, its actions and the noise at the start. The student has the same network. It learns to
draw from the same noise, in the single step that the formulation has for one, what the teacher draws in n.

    x = noise,    y = the teacher's frame drawn from x,    F = the student's output for x at the highest noise level
    loss = d(F - target(y, x)),    target = what the output must be for a single step to lead to y

With EDM that is ((y - c_skip x) / c_out - F), so an error of the frame, divided by c_out. A mean over futures would not
do: each noise has a future of its own to be drawn.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from diamond_fast.formulations.config import StepsConfig
from diamond_fast.formulations.protocol import Randn, Step
from diamond_fast.networks.masking import masked_mean
from diamond_fast.upsampling import FrameSampler
from diamond_fast.world_model import Denoiser

HUBER_WIDTH = 0.03
"""Root mean square error of an output up to which the pseudo-Huber metric is a square, more or less; then a length."""
GREY_LEVELS = 127.5  # of a difference of 1 between frames in [-1, 1]


def squared(difference: Tensor) -> Tensor:
    """[N,C,H,W] -> mean square [N]."""
    return difference.square().mean(dim=(1, 2, 3))


def pseudo_huber(difference: Tensor) -> Tensor:
    """[N,C,H,W] -> sqrt(mean square + c^2) - c [N] (Song & Dhariwal 2023): frames far off do not drown the others."""
    return (squared(difference) + HUBER_WIDTH**2).sqrt() - HUBER_WIDTH


Metric = Callable[[Tensor], Tensor]
METRICS: dict[str, Metric] = {"pseudo-huber": pseudo_huber, "squared": squared}


class Drawn(NamedTuple):
    """A frame of the teacher's, and what it was drawn from."""

    context: Tensor  # [N,T*C,H,W]
    act: Tensor  # [N,T,...]
    trajectory: list[Tensor]
    """[N,C,H,W] each, from the noise at the start to the frame."""


Objective = Callable[[Denoiser, Step, Drawn, Metric], tuple[Tensor, Tensor]]
"""Called as objective(student, its only step, what the teacher drew, metric): the losses [N], with gradients, and the
student's frames [N,C,H,W] from the same noise, without."""


def regression(student: Denoiser, step: Step, drawn: Drawn, metric: Metric) -> tuple[Tensor, Tensor]:
    """The ``Objective`` above: onto the teacher's frame, from the noise at the start."""
    formulation, noise, frame = student.formulation, drawn.trajectory[0], drawn.trajectory[-1]
    noisy = formulation.perturb(noise, step, iter(()))
    level = torch.full((len(noise),), step.level, dtype=torch.float32, device=noise.device)
    output = student.predict(noisy, level, drawn.context, drawn.act)
    target = formulation.target(frame, noisy, level, noisy)  # nothing but noise is in them
    losses = metric(output.float() - target)
    with torch.no_grad():
        return losses, formulation.estimate(noisy, output, level)


class Distilled(NamedTuple):
    total: Tensor
    """Scalar: the loss."""
    distance: Tensor
    """Scalar: mean absolute difference of the student's frames from the teacher's, in grey levels of 255."""


def distillation_loss(
    student: Denoiser,
    teacher: FrameSampler,
    step: Step,
    obs: Tensor,
    act: Tensor,
    mask: Tensor,
    metric: Metric = pseudo_huber,
    randn: Randn = torch.randn,
    objective: Objective = regression,
) -> Distilled:
    """How far the student's single steps are from the teacher's frames, averaged over autoregressive steps.

    The first frame is drawn on a real context; later ones on contexts that hold the student's own frames, as they do in
    imagination.

    Args:
        student: is trained.
        teacher: draws with the denoiser as it is now; no gradient flows into it.
        step: the student's (``only_step``).
        obs: [N,L,C,H,W] in [-1, 1], L > T. The L - T last frames are not looked at: only how many there are.
        act: [N,L,...].
        mask: [N,L] bool, False where a frame is padding; what would be drawn in its place does not count.
        metric: of the difference from the target: [N,C,H,W] -> [N].
        randn: source of standard normal numbers. One draw [N,C,H,W] a step, the noise that both begin with.
        objective: what the student learns of the teacher's trajectory.
    """
    t = student.spec.context
    frames, losses, distances = list(obs.unbind(1)), [], []
    with student.learning():
        for i in range(obs.size(1) - t):
            noise = randn(*frames[0].shape, device=obs.device)
            past, acts, counts = torch.stack(frames[i : i + t], dim=1), act[:, i : i + t], mask[:, i + t]
            frame, trajectory = teacher.sample(past, acts, _only(noise))
            values, frames[i + t] = objective(
                student, step, Drawn(past.flatten(1, 2), acts, [noise, *trajectory[1:]]), metric
            )
            losses.append(masked_mean(values, counts))
            difference = (frames[i + t] - frame).abs().mean(dim=(1, 2, 3)) * GREY_LEVELS
            distances.append(masked_mean(difference, counts))
    return Distilled(torch.stack(losses).mean(), torch.stack(distances).mean())


def single_step(steps: StepsConfig) -> StepsConfig:
    """How the student draws."""
    return replace(steps, num_steps=1)


def only_step(denoiser: Denoiser, steps: StepsConfig) -> Step:
    """The student's step, of a teacher that draws with these settings. Not while a graph is captured."""
    return denoiser.formulation.plan(single_step(steps))[0]


def _only(noise: Tensor) -> Randn:
    """A source that gives this noise, once."""
    left: Iterator[Tensor] = iter((noise,))
    return lambda *shape, device: next(left)
