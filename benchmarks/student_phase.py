"""Counts the policy's phase with a student beside three evaluations: launches, bytes, evaluations of the denoiser.

    python benchmarks/student_phase.py

For each update of the policy: a rollout of 15 imagined steps, the update, and the student's updates of an epoch shared
out among the policy's 400. Counted as in ``fused_launch_counts.py`` and ``update_counts.py``. A pass back counts as
two evaluations.
"""

import fused_launch_counts
import update_counts
from fused_launch_counts import Launches

from diamond_fast.config import RunConfig
from diamond_fast.engine.fused_torch import Techniques

CFG = RunConfig()
ROLLOUT, UPDATES = CFG.actor_critic_loss.backup_every, CFG.actor_critic_update.steps_per_epoch
STEPS, FRAMES = CFG.world_model.sampler.num_steps, 1 + CFG.num_autoregressive_steps


def phase(step: Launches, beside: Launches, policy: Launches, student: Launches, updates: int) -> Launches:
    """For each update of the policy, if the student has so many updates an epoch."""
    parts = ((ROLLOUT, step), (1, beside), (1, policy), (updates / UPDATES, student))
    return Launches(*(sum(n * part[i] for n, part in parts) for i in range(2)))


def evaluations(per_frame: int, updates: int) -> float:
    """Of the denoiser's network: in the rollout, by the teacher, and by the student forward and back."""
    return ROLLOUT * per_frame + updates / UPDATES * FRAMES * (STEPS + 3)


def counted_update(model: str) -> Launches:
    found = update_counts.count(model)
    return Launches(found.launches.total(), found.bytes.total() / 1e9)


def main() -> None:
    policy, student = counted_update("actor_critic"), counted_update("student")
    plain = fused_launch_counts.Fakes(Techniques()).evaluation().launches
    for fused_convs in (False, True):
        techniques = Techniques(fused_convs=fused_convs)
        one = fused_launch_counts.Fakes(techniques).evaluation().launches
        saved = [FRAMES * STEPS * (a - b) for a, b in zip(plain, one, strict=True)]  # by the teacher, in an update
        update = Launches(student.count - int(saved[0]), student.gigabytes - saved[1])
        rollouts = {n: fused_launch_counts.of_step(techniques, n) for n in (STEPS, 1)}
        for per_frame, updates in ((STEPS, 0), (1, 50), (1, 25), (1, 0)):
            first, step = rollouts[per_frame]
            beside = Launches(first.count - step.count, first.gigabytes - step.gigabytes)
            count, gigabytes = phase(step, beside, policy, update, updates)
            print(
                f"fused_convs={fused_convs}, {per_frame} a frame, {updates} updates of the student: {count:.0f} "
                f"launches, {gigabytes:.1f} GB, {evaluations(per_frame, updates):.1f} evaluations"
            )


if __name__ == "__main__":
    main()
