"""The policy's phase with a student, put together from counts."""

from fused_launch_counts import Launches
from student_phase import evaluations, phase


def test_the_phase_is_the_sum_of_its_parts():
    """15 steps, what a rollout has beside them, the policy's update, and 50 of 400 updates of the student."""
    step, beside, policy, student = Launches(250, 2.0), Launches(89, 5.0), Launches(353, 8.0), Launches(2000, 24.0)
    count, gigabytes = phase(step, beside, policy, student, 50)
    assert count == 15 * 250 + 89 + 353 + 2000 / 8
    assert gigabytes == 15 * 2.0 + 5.0 + 8.0 + 24.0 / 8


def test_evaluations_of_the_denoiser():
    """Two frames an update: three evaluations of the teacher, and one of the student with its pass back."""
    assert evaluations(3, 0) == 45
    assert evaluations(1, 400) == 15 + 2 * (3 + 1 + 2)
    assert evaluations(1, 50) == 16.5
