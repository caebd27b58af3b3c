"""Turns, with a clock that only the candidates move: every figure is known beforehand."""

import json
from types import SimpleNamespace

import measuring
import pytest
import torch
from machine import Machine
from measuring import Effort, Measurement


class Benchmark:
    """What is used of pytest-benchmark's fixture."""

    def pedantic(self, call, rounds):
        for _ in range(rounds):
            call()


@pytest.fixture
def clock(monkeypatch):
    """``clock.takes(seconds)`` makes a candidate that takes so long, and notes each call under its name."""
    clock = SimpleNamespace(now=0.0, calls=[])

    def takes(name, *seconds):
        times = iter([*seconds, *[seconds[-1]] * 1000])

        def call():
            clock.now += next(times)
            clock.calls.append(name)

        return call

    clock.takes = takes

    def sleep(seconds):
        clock.now += seconds
        if seconds:
            clock.calls.append(seconds)

    monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=lambda: clock.now, sleep=sleep))
    return clock


def measurement(**effort) -> Measurement:
    defaults = {"warm_up": 0.0, "seconds": 0.0, "turn": 0.0, "min_rounds": 3, "max_rounds": 5, "rest": 0.0}
    return Measurement(Benchmark(), torch.device("cpu"), Effort(**(defaults | effort)))


def test_candidates_take_turns_after_a_warm_up_each_and_a_rest_that_does_not_count(clock):
    turns = measurement(rest=0.25).take_turns({"a": clock.takes("a", 3, 1, 2, 3), "b": clock.takes("b", 0.5)})
    assert clock.calls == ["a", "b"] + [0.25, "a", 0.25, "b"] * 3
    assert turns.seconds == {"a": [1, 2, 3], "b": [0.5, 0.5, 0.5]}


def test_the_warm_up_lasts_its_time(clock):
    measurement(warm_up=1.0, min_rounds=1).take_turns({"a": clock.takes("a", 0.4)})
    assert len(clock.calls) == 3 + 1


def test_on_a_gpu_compilation_and_capture_are_no_turns(clock, monkeypatch):
    """The first call compiles kernels and takes seconds, and so may the one that captures a graph."""
    monkeypatch.setattr(Measurement, "_timed", lambda self, call, calls: _seconds_of(clock, call, calls))
    monkeypatch.setattr(Measurement, "_memory", lambda self: 0)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 0)
    m = measurement()
    m.device = torch.device("cuda")
    assert m.take_turns({"a": clock.takes("a", 10, 1, 1, 5, 0.25)}).seconds == {"a": [0.25] * 3}


def _seconds_of(clock, call, calls):
    started = clock.now
    for _ in range(calls):
        call()
    return (clock.now - started) / calls


def test_short_calls_are_repeated_and_rounds_fill_the_time(clock):
    turns = measurement(turn=1.0, seconds=4.5).take_turns({"a": clock.takes("a", 0.25)})
    assert len(clock.calls) == 1 + 4 * 4  # a turn of 4 calls takes a second
    assert turns.seconds["a"] == pytest.approx([0.25] * 4)
    turns = measurement(turn=1.0, seconds=100).take_turns({"a": clock.takes("a", 0.25)})
    assert len(turns.seconds["a"]) == 5  # the most rounds


def test_of_slow_rounds_two_have_to_do_and_the_warm_up_is_none(clock):
    """A first call may build a program, or compile kernels."""
    turns = measurement().take_turns({"a": clock.takes("a", 80, 7), "b": clock.takes("b", 4, 5)})
    assert turns.seconds == {"a": [7, 7], "b": [5, 5]}


def test_when_the_time_is_up_no_further_round_begins(clock):
    m = measurement(seconds=1000)
    m.deadline = 4.5  # the warm-up takes 1 s, a round 1 s
    assert m.take_turns({"a": clock.takes("a", 1)}).seconds == {"a": [1, 1, 1, 1]}
    assert m.take_turns({"a": clock.takes("a", 1)}).seconds == {"a": [1]}


def test_what_a_compiler_takes_is_no_turn(clock):
    turns = measurement().take_turns({"a": clock.takes("a", 8, 7), "b": clock.takes("b", 100, 4)}, optional=("b",))
    assert turns.seconds == {"a": [7, 7], "b": [4, 4]}


def test_others_may_fail_and_ours_may_not(clock):
    def fails():
        raise RuntimeError("no\nkernel")

    turns = measurement().take_turns({"a": clock.takes("a", 1), "b": fails}, optional=("b",))
    assert turns.left_out == {"b": "failed: RuntimeError: no kernel"}
    assert list(turns.seconds) == ["a"]
    with pytest.raises(RuntimeError):
        measurement().take_turns({"a": fails}, optional=("b",))


def test_a_row_of_rates(clock):
    m = measurement()
    turns = m.take_turns({"ours": clock.takes("ours", 0.25, 0.25, 0.5, 1), "theirs": clock.takes("theirs", 2)})
    machine = Machine({"float32": 1e12}, 1e9)
    floor = machine.arithmetic(1.25e11, torch.float32)
    m.row("s", {"n": 2}, turns, "ours", work=2, unit="NFE/s", floor=floor, left_out={"x": "y"}, also={"path": "amx"})
    row = m.written[-1]
    assert row["figures"]["ours"] == {"median": 4.0, "best": 8.0, "low": 2.0, "high": 8.0, "turns": 3}
    assert row["ratios"] == {"theirs": {"ratio": 4.0, "low": 2.0, "high": 8.0, "decided": True}}
    assert row["floor"] == {
        "ms": 125.0,
        "what": "125 GFLOP at 1 TFLOP/s, a float32 matrix product's rate on the whole machine",
        "share": 0.5,
    }
    assert (row["unit"], row["higher_is_better"], row["left_out"], row["also"]) == (
        "NFE/s",
        True,
        {"x": "y"},
        {"path": "amx"},
    )


def test_a_row_of_times(clock):
    m = measurement()
    turns = m.take_turns({"ours": clock.takes("ours", 2)})
    m.row("s", {}, turns, "ours", floor=Machine({}, 1e9).memory(1e9))
    row = m.written[-1]
    assert (row["unit"], row["higher_is_better"], row["ratios"]) == ("ms", False, {})
    assert row["figures"]["ours"]["median"] == 2000.0
    assert row["floor"]["share"] == 0.5


def test_rivals_may_be_left_out_or_nothing_else_be_measured(clock):
    def fails():
        raise AssertionError("a rival was called")

    m = measurement()
    m.rivals = "without"
    turns = m.take_turns({"ours": clock.takes("ours", 1), "rival": fails}, optional=("rival", "another"))
    assert (list(turns.seconds), turns.left_out) == (["ours"], {"rival": "rivals are measured apart"})
    m.rivals = "only"
    assert (
        len(m.take_turns({"ours": clock.takes("ours", 1), "rival": clock.takes("rival", 1)}, ("rival",)).seconds) == 2
    )
    with pytest.raises(pytest.skip.Exception):
        m.take_turns({"ours": fails}, optional=("rival",))


def test_each_row_is_written_at_once(clock, tmp_path):
    m = measurement()
    m.rows = tmp_path / "rows.jsonl"
    for n in (1, 2):
        m.row("s", {"n": n}, m.take_turns({"ours": clock.takes("ours", 2)}), "ours")
        rows = [json.loads(line) for line in m.rows.read_text().splitlines()]
        assert [row["case"] for row in rows] == [{"n": i + 1} for i in range(n)]
    assert rows[1] == m.written[-1]
