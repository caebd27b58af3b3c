"""Candidates against each other: what is found out about each, with injected times and injected faults."""

from dataclasses import replace

import pytest
import torch
from small_world import SMALL_WORLD, make_agent

from diamond_fast.engine import contest as contest_module
from diamond_fast.engine.choose import candidates
from diamond_fast.engine.contest import Row, Work, best, contest
from diamond_fast.engine.contest_in_child import contest_in_child
from diamond_fast.engine.fused_convs import FusedConvs
from diamond_fast.engine.path import WITHOUT_TRITON, Path
from diamond_fast.world_model import Denoiser

CPU = torch.device("cpu")
STEPS = SMALL_WORLD.world_model.sampler


@pytest.fixture(autouse=True)
def two_engines(monkeypatch):
    """torch and readable, whatever the processor has."""
    monkeypatch.setattr("diamond_fast.engine.cpu_program.instruction_set", lambda dtype: None)


def small_work(n=4):
    return replace(Work.of(make_agent().denoiser, STEPS, n), alone=True)


def held(work, times, extra=()):
    """The rows by name, if calls took these times; and the names in the order in which they ran."""
    begun = []
    paths = [*extra, *candidates(CPU, torch.float32, work=work)]
    rows = contest(work, paths, begun.append, lambda name, call, device: call() or times[name])
    return {row.name: row for row in rows}, begun


@pytest.fixture
def broken(monkeypatch):
    """Spoils what the torch engine's network gives."""

    def by(spoil):
        make = contest_module.fast_sampler

        def fast_sampler(*args):
            sampler = make(*args)
            evaluate = sampler.network.evaluate
            sampler.network.evaluate = lambda *inputs: spoil(evaluate(*inputs))
            return sampler

        monkeypatch.setattr(contest_module, "fast_sampler", fast_sampler)

    return by


def test_the_faster_one_of_two_that_agree():
    rows, begun = held(small_work(n=2), {"torch": 0.01, "readable": 0.03})
    assert begun[:4] == ["torch", "readable", "torch", "readable"]  # held against the twin, then timed in turns
    assert 0 < rows["torch"].error < 1e-5
    assert rows["readable"].error == 0
    assert rows["torch"].seconds == pytest.approx(0.005)  # for a frame
    assert best(list(rows.values())) == rows["torch"]
    assert rows["torch"].gain(list(rows.values())) == "3.00 times as fast as readable"


def test_a_memory_is_wider_than_the_past_is_long():
    """What it says stands in place of the actions, and says nothing of how many frames the network sees."""
    denoiser = Denoiser(SMALL_WORLD.denoiser, replace(make_agent().denoiser.spec, memory=7))
    rows, _ = held(replace(Work.of(denoiser, STEPS, 2), alone=True), {"torch": 0.01, "readable": 0.03})
    assert [row.why_not for row in rows.values()] == [None, None]
    assert 0 < rows["torch"].error < 1e-5


def test_readable_may_win():
    rows, _ = held(small_work(), {"torch": 0.03, "readable": 0.02})
    taken = best(list(rows.values()))
    assert taken.name == "readable"
    assert taken.gain(list(rows.values())) == "the next takes 1.50 times as long"


def test_what_gains_no_more_than_noise_is_not_taken():
    for seconds, taken in ((0.98, "readable"), (0.96, "torch")):
        assert best([Row("torch", 1e-6, seconds), Row("readable", 0.0, 1.0)]).name == taken
    assert best([Row("fused", 1e-6, 0.99), Row("torch", 1e-6, 0.98)]).name == "torch"
    assert best([Row("torch", 1.0, 0.1, "it differs")]) is None


def test_bfloat16_is_within_its_tolerance():
    work = small_work()
    coarse = replace(candidates(CPU, torch.bfloat16, work=work)[-2], variant="bf16")
    rows, _ = held(work, {"torch bf16": 0.01, "torch": 0.02, "readable": 0.03}, extra=[coarse])
    assert 1e-4 < rows["torch bf16"].error < 1e-2
    assert rows["torch bf16"].why_not is None


@pytest.mark.parametrize(
    ("spoil", "why_not"),
    [
        (lambda y: 1.001 * y, "it differs from readable by 1.0e-03, more than 1.0e-04"),
        (lambda y: y * torch.nan, "it differs from readable by nan, more than 1.0e-04"),
        (lambda y: 1 / 0, "it fails: division by zero"),
        (lambda y: y[:, :2], "it fails: The size of tensor"),
    ],
)
def test_what_disagrees_or_fails_is_left_out_and_its_cost_is_told(broken, spoil, why_not):
    broken(spoil)
    rows, _ = held(small_work(), {"torch": 0.01, "readable": 0.03})
    assert rows["torch"].why_not.startswith(why_not)
    assert best(list(rows.values())).name == "readable"
    timed = rows["torch"].seconds is not None
    cost = "readable takes 3.00 times as long" if timed else "what it would have gained over readable is not known"
    assert rows["torch"].cost(list(rows.values())) == cost
    assert timed == ("differs" in why_not)


@pytest.mark.parametrize(("flag", "kernels"), [("works", "fused_convs"), ("hopper_works", "hopper_convs")])
def test_a_path_that_goes_on_without_its_kernels_is_left_out(monkeypatch, flag, kernels):
    monkeypatch.setattr(FusedConvs, flag, False)
    monkeypatch.setattr(FusedConvs, "failure", "RuntimeError: out of resource")
    with_them = Path(CPU, torch.float32, "torch", False, "test", replace(WITHOUT_TRITON, **{kernels: True}), "its own")
    rows, _ = held(small_work(), {"torch": 0.1, "readable": 0.1}, [with_them])
    assert rows["torch its own"].why_not == "it fails: RuntimeError: out of resource"
    assert rows["torch"].why_not is None


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_drawn_in_a_graph_must_be_captured(monkeypatch, fails):
    class Captured:
        def __init__(self, name, function):
            self.call, self.failed = function, False

        def __call__(self, *inputs):
            self.failed = fails
            return self.call(*inputs)

    monkeypatch.setattr(contest_module, "Captured", Captured)
    work = small_work()
    paths = [replace(path, graphs=path.engine == "torch") for path in candidates(CPU, torch.float32, work=work)]
    rows = {row.name: row for row in contest(work, paths, lambda name: None, lambda *_: 0.1)}
    assert rows["torch"].why_not == ("it fails: it cannot be captured as a CUDA graph" if fails else None)
    assert rows["readable"].why_not is None


def test_a_failure_while_it_is_timed_leaves_it_out():
    work, count = small_work(), {"torch": 0, "readable": 0}

    def timer(name, call, device):
        count[name] += 1
        if name == "torch" and count[name] == 2:
            raise RuntimeError("an illegal memory access")
        return 0.1

    rows = contest(work, candidates(CPU, torch.float32, work=work), lambda name: None, timer)
    assert rows[0].why_not == "it fails: an illegal memory access"
    assert best(rows).name == "readable"
    assert count["torch"] == 2
    assert count["readable"] >= 3


def test_what_is_hopeless_is_timed_once():
    _, begun = held(small_work(), {"torch": 1.0, "readable": 0.1})
    assert begun.count("torch") == 2  # held against the twin, timed
    assert begun.count("readable") > 2


def test_readable_networks_that_fail_end_it(monkeypatch):
    work = small_work()
    monkeypatch.setattr(type(work.network), "forward", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        held(work, {})


def test_random_numbers_and_weights_are_left_alone():
    work = small_work()
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in work.network.state_dict().items()}
    held(work, {"torch": 1.0, "readable": 1.0})
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(state[k], v) for k, v in work.network.state_dict().items())


def test_work_is_told_apart_by_its_shapes_and_not_by_weights():
    work = small_work()
    with torch.no_grad():
        for p in (other := small_work()).network.parameters():
            p.add_(1.0)
    assert work.fingerprint() == other.fingerprint()
    different = [
        small_work(n=5),
        replace(work, steps=replace(STEPS, num_steps=7)),
        replace(work, frames=(4, 3, 16, 8)),
        replace(work, network=make_agent().rew_end_model),
    ]
    assert len({w.fingerprint() for w in [work, *different]}) == 5


def test_a_row_that_cannot_have_been_written_is_none():
    Row("torch", 1e-6, 0.1).checked()
    for wrong in (Row("torch"), Row("torch", "0.1", 0.1), Row(3, 0.1, 0.1), Row("torch", 0.1, 0.1, 3)):
        with pytest.raises(ValueError, match=r"row|measured"):
            wrong.checked()


def test_what_kills_its_process_is_left_out_in_a_child():
    """A network whose operations, run one by one, end the process; as it is written, it works."""
    from toys.deadly import Deadly

    work, begun = replace(small_work(), network=Deadly()), []
    rows = contest_in_child(work, candidates(CPU, torch.float32, work=work), begun.append)
    assert [row.name for row in rows] == ["torch", "readable"]
    assert rows[0].why_not == "the process was ended by SIGKILL"
    assert rows[1].why_not is None
    assert rows[1].seconds > 0
    assert begun[:2] == ["torch", "readable"]
