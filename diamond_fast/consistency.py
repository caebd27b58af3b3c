"""Consistency distillation (Song et al. 2023), another way to learn a single step than ``distillation.regression``.

The student is to lead from any point of the teacher's trajectory to the same frame, and learns it from point to point:

    D(x_i, level_i) = D(x_i+1, level_i+1),    without a gradient on the right;    at the end it is the teacher's frame

As a rule consistency training makes its own points, clean frames with noise on them (ECT). DIAMOND's sampler begins
with noise of deviation 1 at level 5, which no noised frame looks like: the points are therefore the trajectory's own.
With EDM only: what another formulation's output must be for a given frame is not known behind the start.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from diamond_fast.distillation import METRICS, Drawn, Metric, pseudo_huber, regression
from diamond_fast.formulations.protocol import Step
from diamond_fast.world_model import Denoiser

CONSISTENCY = "consistency"
TRAINED_WITH: dict[str, Metric] = METRICS | {CONSISTENCY: pseudo_huber}
"""What students are compared by: regression with each metric, and this."""


class Consistency:
    """The ``Objective`` of ``distillation.py``. Not while a graph is captured.

    Args:
        steps: the teacher's, first-order.
    """

    def __init__(self, steps: Sequence[Step]):
        self.levels = [step.level for step in steps]

    def __call__(self, student: Denoiser, step: Step, drawn: Drawn, metric: Metric) -> tuple[Tensor, Tensor]:
        """Row r learns the point r modulo the number of steps. Rows are drawn at random, so each point has its turn."""
        formulation, points = student.formulation, torch.stack(drawn.trajectory)
        n, steps, device = points.size(1), len(self.levels), points.device
        rows = torch.arange(n, device=device)
        here = rows % steps
        levels = torch.tensor([*self.levels, self.levels[-1]], device=device)  # the last one is not looked at
        with torch.no_grad():
            _, frames = regression(student, step, drawn, metric)
            following, level = points[here + 1, rows], levels[here + 1]
            output = student.predict(following, level, drawn.context, drawn.act)
            wanted = formulation.estimate(following, output, level)
            wanted = torch.where((here == steps - 1).view(-1, 1, 1, 1), drawn.trajectory[-1], wanted)
        x, level = points[here, rows], levels[here]
        output = student.predict(x, level, drawn.context, drawn.act)
        return metric(output.float() - formulation.target(wanted, x, level, None)), frames
