"""Launches and bytes of the fused path at the paper's shapes, by count: what a change costs or saves shows here."""

import pytest
from fused_launch_counts import Fakes, counted, of_step

from diamond_fast.engine.fused_torch import Techniques


@pytest.mark.slow  # ten seconds for the networks that are made
@pytest.mark.parametrize(
    ("fused_convs", "evaluation", "step", "beside", "burn_in"),
    [
        (False, (186, 2.27), (774, 7.68), (110, 7.19), (97, 8.92)),
        (True, (81, 1.38), (414, 4.79), (89, 5.14), (71, 6.20)),
    ],
)
def test_an_imagined_rollout(fused_convs, evaluation, step, beside, burn_in):
    found = counted(Techniques(fused_convs=fused_convs))
    assert {what: (count, round(gigabytes, 2)) for what, (count, gigabytes) in found.items()} == {
        "evaluation": evaluation,
        "step": step,
        "beside": beside,
        "burn-in": burn_in,
    }


@pytest.mark.slow
@pytest.mark.parametrize(("fused_convs", "step"), [(False, (400, 3.12)), (True, (250, 2.01))])
def test_a_students_imagined_step_is_less_than_half_of_three_evaluations(fused_convs, step):
    """774 launches and 7.68 GB, with fused convolutions 414 and 4.79, are those of ``test_an_imagined_rollout``."""
    count, gigabytes = of_step(Techniques(fused_convs=fused_convs), num_steps=1)[1]
    assert (count, round(gigabytes, 2)) == step


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fused_convs", "share", "step"), [(False, (50, 0.33), (731, 7.87)), (True, (45, 0.25), (404, 5.02))]
)
def test_a_memorys_imagined_step(fused_convs, share, step):
    """Of the bytes 0.22 GB are the whole pool of starts, which counts as an operand; its rows for one step are 7 MB."""
    found = counted(Techniques(fused_convs=fused_convs), "mamba")
    assert [(found[what].count, round(found[what].gigabytes, 2)) for what in ("its share", "step")] == [share, step]


def test_an_evaluation():
    """Convolutions: two in each of 22 blocks, 8 between them, 2 after attention, which has norm, product and itself.

    The norms before convolutions of 64x64 and 32x32 pixels are passes of their own.
    """
    plain, fused = (Fakes(Techniques(fused_convs=f)).evaluation() for f in (False, True))
    assert fused.counts == {"fused_conv": 54, "ada_group_norm_silu": 23, "addmm": 2, "addcmul": 2}
    for counted_there, (count, gigabytes) in ((plain, (186, 2.27)), (fused, (81, 1.38))):
        assert (counted_there.launches.count, round(counted_there.launches.gigabytes, 2)) == (count, gigabytes)
