"""What fits into the time: costs, order, and what is learned from the rows that were measured."""

import ast
from types import SimpleNamespace

import pytest
from measuring import EFFORTS
from plan import COSTS, PRIOR, REFERENCE, Cost, Plan, expected, in_order
from suite import BENCHMARKS


def item(name: str, **params):
    return SimpleNamespace(name=name, callspec=SimpleNamespace(params=params))


DENOISER, EPOCH = item("test_update[denoiser-32]", model="denoiser", batch=32), SimpleNamespace(name="test_epoch")
FRAMES = item("test_sampling[32-3]", batch=32, steps=3)


def test_every_benchmark_of_a_cpu_has_a_cost():
    tests = set()
    for path in BENCHMARKS.glob("test_*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        tests |= {node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}
    assert tests - set(COSTS) == {"test_training_through_the_kernels"}
    assert set(COSTS) <= tests


@pytest.mark.parametrize("effort", ["full", "quick"])
def test_every_part_gets_its_most_telling_row_first(effort):
    n = 8 if effort == "quick" else 32
    names = [
        "test_checkpoint",
        "test_append",
        "test_sampling[256-3]",
        f"test_update[denoiser-{n}]",
        "test_epoch",
        f"test_step[{n}]",
        f"test_sampling[{n}-3]",
    ]
    ordered = [x.name for x in in_order([SimpleNamespace(name=name) for name in names], effort)]
    first = [f"test_sampling[{n}-3]", f"test_update[denoiser-{n}]", f"test_step[{n}]", "test_epoch"]
    assert ordered == [*first, "test_sampling[256-3]", "test_checkpoint", "test_append"]


def test_what_a_row_takes():
    """At 8 evaluations a second: 16 take 2 s, of which full effort takes a warm-up and three rounds."""
    assert REFERENCE == 1 / 8
    full = EFFORTS["full"]
    assert expected(Cost(5, 16), full) == 5 + 2 + 3 * 2
    assert expected(Cost(0, 80), full) == 3 * 10  # a warm-up and two turns
    assert expected(Cost(0, 0.08), full) == pytest.approx(0.5 + 0.1)  # ten rounds of a hundredth of a second


def test_a_slow_machine_leaves_out_what_does_not_fit_and_measures_what_does():
    fast, slow = Plan(600, "full", REFERENCE / 10), Plan(600, "full", REFERENCE * 3)
    items = [FRAMES, DENOISER, EPOCH]
    assert all(slow.expects(x) == pytest.approx(30 * fast.expects(x)) for x in items)
    assert "no time" not in fast.describe(items, 0)
    text = slow.describe(items, 10.0)
    assert text.startswith("Planned: 2 benchmarks in about")
    assert text.endswith("of 10 minutes; no time for test_epoch")


def test_the_plan_never_exceeds_its_time():
    """Rows that take exactly what is expected, at any speed: the last one ends in time, and nothing else would fit."""
    items = [item(f"test_update[{m}-{n}]", model=m, batch=n) for n in (32, 8) for m in ("denoiser", "reward_end")]
    for slowness in (0.1, 1, 3, 10, 100):
        plan, now, left_out = Plan(300, "full", REFERENCE * slowness), 7.0, []
        for x in items:
            if plan.why_not(x, now):
                left_out.append(x)
                continue
            takes = plan.expects(x)
            now += takes
            plan.measured(x, takes)
            assert plan.expects(x) == pytest.approx(takes)
        assert now <= 300
        assert all(plan.expects(x) > 300 - now for x in left_out)


def test_rows_that_take_longer_slow_the_plan_down():
    plan = Plan(600, "full", REFERENCE)
    before = plan.expects(DENOISER)
    plan.measured(EPOCH, 3 * plan.expects(EPOCH))
    epoch = expected(COSTS["test_epoch"](), EFFORTS["full"])
    pace = (3 * epoch + PRIOR) / (epoch + PRIOR)
    assert plan.expects(DENOISER) == pytest.approx(before * pace)
    assert "takes about" in plan.why_not(DENOISER, 590)


def test_what_is_skipped_anyway_needs_no_time_but_some_must_be_left():
    plan = Plan(60, "full", REFERENCE)
    kernel = SimpleNamespace(name="test_edm_step[a]")
    assert plan.why_not(kernel, 59) is None
    assert plan.why_not(kernel, 61) is not None
