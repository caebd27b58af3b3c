"""Signals: out at a safe place, or after the deadline, or at the second one; with the code shells know."""

import signal
import subprocess
import sys
import time

import pytest

from diamond_fast.runs import signals
from diamond_fast.runs.signals import Stopped, StopSignals, stop_signals

PROGRAM = """
import os, signal, sys, time
from diamond_fast.runs import signals
signal.signal(signal.SIGHUP, signal.SIG_DFL if sys.argv[3] == "terminal" else signal.SIG_IGN)
signals.SECONDS_TO_SAVE = float(sys.argv[1])
handle = signals.StopSignals._handle

def handle_and_say(stop, number, frame):
    try:
        handle(stop, number, frame)
    finally:
        os.write(1, b"taken\\n")  # print may be what was interrupted

signals.StopSignals._handle = handle_and_say
with signals.stop_signals() as stop:
    stop.how_to_go_on = "again"
    if sys.argv[2] == "anywhere":
        print("ready", flush=True)
        time.sleep(60)
    with stop.deferred():
        print("ready", flush=True)
        for _ in range(int(sys.argv[2])):
            time.sleep(0.1)
            stop.check()
        time.sleep(60)
"""


def send(seconds_to_save, work, *numbers, started_by="terminal"):
    """Exit code, what was said, and seconds from the first signal to the end."""
    program = [sys.executable, "-c", PROGRAM, str(seconds_to_save), work, started_by]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    sent = time.monotonic()
    for i, number in enumerate(numbers):
        process.send_signal(number)
        is_ignored = number == signal.SIGHUP and (i > 0 or started_by == "nohup")
        if i < len(numbers) - 1 and not is_ignored:  # two that are sent before the first is taken may be one
            assert process.stdout.readline() == "taken\n"
    _, said = process.communicate(timeout=30)
    return process.returncode, said, time.monotonic() - sent


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("work", ["anywhere", "1000"])
def test_out_at_the_next_safe_place(number, code, work):
    outcome = send(20, work, number)
    assert outcome[:2] == (code, "Stopped. Go on from the last checkpoint with: again\n")
    assert outcome[2] < 5


def test_out_after_the_deadline_where_no_safe_place_comes():
    code, said, seconds = send(1, "0", signal.SIGTERM)
    assert code == 143
    assert said == (
        "Stopped in the middle of the work at hand, which is not saved. Go on from the last checkpoint with: again\n"
    )
    assert 0.9 < seconds < 6


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_kills_at_once(number):
    code, said, seconds = send(30, "0", number, number)
    assert (code, said) == (-number, "")  # shells show 128 + the number
    assert seconds < 5


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ((signal.SIGHUP, signal.SIGHUP, signal.SIGHUP), 129),  # the shell's and the kernel's
        ((signal.SIGHUP, signal.SIGTERM), 129),  # a session is ended with both, in either order
        ((signal.SIGTERM, signal.SIGHUP), 143),
    ],
)
def test_a_closed_terminal_is_one_signal_however_often_it_comes(numbers, code):
    found, said, _ = send(2, "0", *numbers)  # lives on until the deadline
    assert found == code
    assert said.startswith("Stopped in the middle of the work at hand")


def test_a_second_ctrl_c_after_a_closed_terminal_kills():
    code, said, _ = send(30, "0", signal.SIGHUP, signal.SIGTERM, signal.SIGTERM)
    assert (code, said) == (-signal.SIGTERM, "")


def test_what_nohup_ignores_stays_ignored():
    code, said, _ = send(20, "anywhere", signal.SIGHUP, signal.SIGTERM, started_by="nohup")
    assert (code, said) == (143, "Stopped. Go on from the last checkpoint with: again\n")


def test_the_deadline_leaves_time_for_the_10_seconds():
    assert signals.SECONDS_TO_SAVE <= 8


def test_nothing_happens_outside():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with stop_signals():
        assert [signal.getsignal(number) for number in numbers] != before
    assert [signal.getsignal(number) for number in numbers] == before
    stop = StopSignals()
    with stop.deferred():
        stop.check()


def test_a_signal_during_deferred_work_is_obeyed_at_its_end():
    done = []
    with pytest.raises(SystemExit) as left, stop_signals() as stop, stop.deferred():  # noqa: PT012
        signal.raise_signal(signal.SIGTERM)
        done.append("the rest")
    assert left.value.code == 143
    assert done == ["the rest"]


def test_a_stop_is_no_error_that_somebody_might_handle():
    assert not issubclass(Stopped, Exception)
