"""Launches and bytes of the fused path at the paper's shapes, by count: what a change costs or saves shows here."""

import pytest
from fused_launch_counts import Fakes, counted, of_step

from diamond_fast.engine.fused_torch import Techniques

PLAIN, FUSED = Techniques(), Techniques(fused_convs=True)
HOPPER = Techniques(fused_convs=True, hopper_convs=True)


@pytest.mark.slow  # ten seconds for the networks that are made
@pytest.mark.parametrize(
    ("techniques", "evaluation", "step", "beside", "burn_in"),
    [
        (PLAIN, (186, 2.27), (774, 7.68), (110, 7.19), (97, 8.92)),
        (FUSED, (81, 1.38), (414, 4.79), (89, 5.14), (71, 6.20)),
        (HOPPER, (61, 0.83), (344, 3.01), (83, 3.67), (51, 4.03)),
    ],
)
def test_an_imagined_rollout(techniques, evaluation, step, beside, burn_in):
    found = counted(techniques)
    assert {what: (count, round(gigabytes, 2)) for what, (count, gigabytes) in found.items()} == {
        "evaluation": evaluation,
        "step": step,
        "beside": beside,
        "burn-in": burn_in,
    }


@pytest.mark.slow
@pytest.mark.parametrize(("techniques", "step"), [(PLAIN, (400, 3.12)), (FUSED, (250, 2.01)), (HOPPER, (220, 1.32))])
def test_a_students_imagined_step_beside_three_evaluations(techniques, step):
    """774 launches and 7.68 GB, with fused convolutions 414 and 4.79, are those of ``test_an_imagined_rollout``."""
    count, gigabytes = of_step(techniques, num_steps=1)[1]
    assert (count, round(gigabytes, 2)) == step


@pytest.mark.slow
@pytest.mark.parametrize(
    ("techniques", "share", "step"),
    [
        (PLAIN, (50, 0.33), (731, 7.87)),
        (FUSED, (45, 0.25), (404, 5.02)),
        (HOPPER, (43, 0.18), (340, 3.26)),
    ],
)
def test_a_memorys_imagined_step(techniques, share, step):
    """Of the bytes 0.22 GB are the whole pool of starts, which counts as an operand; its rows for one step are 7 MB."""
    found = counted(techniques, "mamba")
    assert [(found[what].count, round(found[what].gigabytes, 2)) for what in ("its share", "step")] == [share, step]


def test_an_evaluation():
    """Convolutions: two in each of 22 blocks, 8 between them, 2 after attention, which has norm, product and itself.

    The norms before convolutions of 64x64 and 32x32 pixels are passes of their own, but for Hopper.
    """
    plain, fused, hopper = (Fakes(techniques).evaluation() for techniques in (PLAIN, FUSED, HOPPER))
    further = {"addmm": 2, "addcmul": 2}
    assert fused.counts == {"fused_conv": 54, "ada_group_norm_silu": 23, **further}
    assert hopper.counts == {"hopper_conv": 33, "fused_conv": 21, "ada_group_norm_silu": 3, **further}
    for counted_there, (count, gigabytes) in ((plain, (186, 2.27)), (fused, (81, 1.38)), (hopper, (61, 0.83))):
        assert (counted_there.launches.count, round(counted_there.launches.gigabytes, 2)) == (count, gigabytes)
