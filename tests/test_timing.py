import pytest

from diamond_fast import timing
from diamond_fast.timing import timed


class Clock:
    """A clock and the processors' time, which pass only while something is computed."""

    def __init__(self):
        self.wall = self.cpu = 0.0

    def perf_counter(self):
        return self.wall

    def process_time(self):
        return self.cpu

    def computing(self, wall, cpu):
        def call():
            self.wall += wall
            self.cpu += cpu

        return call


def test_what_is_quick_is_repeated_for_a_second(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    assert len(timed(clock.computing(0.01, 0.01), 1.0, at_least=2)) == pytest.approx(100, abs=1)
    assert timed(clock.computing(9.0, 3.0), 1.0, at_least=2) == [pytest.approx((9.0, 3.0))] * 2
