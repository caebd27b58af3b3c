"""A process of its own: its answers as they come, and how it ended if it did not end well."""

import os
import signal
import time
from contextlib import closing

import pytest

from diamond_fast.engine.child import ChildFailedError, answer, ask


def main() -> None:
    """The child of every test here."""
    answer(_work)


def _work(request, say):
    print("a library's words")
    for value in request["answers"]:
        say(value)
    if request["then"] == "fail":
        raise ValueError("no such kernel\nat 7:4")
    if request["then"] == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if request["then"] == "hang":
        time.sleep(600)


def asked(then, patience=60.0):
    return ask(__name__, {"answers": ["one", [2.5, None]], "then": then}, patience)


def test_answers_come_one_by_one_and_nothing_else():
    assert list(asked("end")) == ["one", [2.5, None]]


@pytest.mark.parametrize(("then", "how"), [("fail", "at 7:4"), ("die", "the process was ended by SIGSEGV")])
def test_how_it_ended_is_told_behind_its_answers(then, how):
    answers = asked(then)
    assert [next(answers), next(answers)] == ["one", [2.5, None]]
    with pytest.raises(ChildFailedError) as failed:
        next(answers)
    assert str(failed.value) == how


def test_one_that_hangs_is_given_up():
    with pytest.raises(ChildFailedError, match=r"^no answer within 0\.01 s$"):
        list(asked("hang", patience=0.01))


def test_one_that_is_not_followed_to_its_end_is_ended():
    with closing(asked("hang")) as answers:
        assert next(answers) == "one"
