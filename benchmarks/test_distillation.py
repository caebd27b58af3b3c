"""An imagined step whose frames a student draws in one evaluation, beside the denoiser's three: all else is the same.

    pytest benchmarks/test_distillation.py --benchmark-only

A step is of all its episodes, as in ``test_imagination.py``. The student is meant to take at most half the time.
"""

from dataclasses import replace

import pytest
import torch
from measuring import not_quick
from workloads import NUM_ACTIONS, fast_imagination, make_agent

STUDENT, TEACHER = "student, 1 evaluation", "denoiser, 3 evaluations"


@pytest.mark.parametrize("num_envs", [8, not_quick(32, "half a minute on a CPU")])
def test_students_step(measure, device, cfg, replay, num_envs):
    act = torch.randint(NUM_ACTIONS, (num_envs,), device=device)

    def stepping(student):
        settings = replace(cfg, world_model=replace(cfg.world_model, student=student))
        env, _ = fast_imagination(settings, make_agent(settings, device), replay, num_envs, device)
        env.reset()
        left = 0

        def step():
            nonlocal left
            if left == 0:
                env.begin_rollout()
                left = cfg.actor_critic_loss.backup_every
            env.step(act)
            left -= 1

        return step

    candidates = {STUDENT: stepping(True), TEACHER: stepping(False)}
    turns = measure.take_turns(candidates)
    measure.row("imagined step with a student", {"episodes": num_envs}, turns, STUDENT)
