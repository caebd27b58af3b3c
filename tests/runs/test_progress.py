"""Progress: times left that add up, quiet plain lines away from a terminal."""

import io

import pytest

from diamond_fast.runs.progress import Progress, duration


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run_phase(progress, clock, name, steps, seconds_per_step, total=None):
    with progress.phase(name, total or steps) as phase:
        for _ in range(steps):
            clock.now += seconds_per_step
            phase.advance()
    return phase


def test_time_left_weighs_each_phase_with_its_own_speed():
    clock, out = Clock(), io.StringIO()
    with Progress(3, {"denoiser": 30, "actor_critic": 6}, stream=out, clock=clock) as progress:
        assert progress.seconds_left() == (0.0, False)
        phase = run_phase(progress, clock, "denoiser", 10, 0.1)
        assert phase.seconds == pytest.approx(1.0)
        assert progress.seconds_left() == (pytest.approx(2.0), False)
        progress.epoch_done("one")
        run_phase(progress, clock, "actor_critic", 2, 5.0)
        assert progress.seconds_left() == (pytest.approx(2.0 + 20.0), True)
        progress.epoch_done("two")
        run_phase(progress, clock, "denoiser", 20, 0.1)
        run_phase(progress, clock, "actor_critic", 4, 5.0)
        assert progress.seconds_left() == (0.0, True)
        progress.epoch_done("three")
    assert out.getvalue().splitlines() == [
        "epoch 1/3: one, over 2 s left",
        "epoch 2/3: two, 22 s left",
        "epoch 3/3: three",
    ]


def test_one_line_a_minute_in_a_long_phase_and_none_in_a_short_one():
    clock, out = Clock(), io.StringIO()
    progress = Progress(12, {"denoiser": 400}, done=10, stream=out, clock=clock)
    run_phase(progress, clock, "denoiser", 29, 2.0)
    assert out.getvalue() == ""
    run_phase(progress, clock, "denoiser", 100, 2.0)
    assert out.getvalue().splitlines() == [
        "epoch 11/12: denoiser 30/100, 2 min 20 s left",
        "epoch 11/12: denoiser 60/100, 1 min 20 s left",
        "epoch 11/12: denoiser 90/100, 20 s left",
    ]


def test_what_is_counted_may_be_something_else():
    clock, out = Clock(), io.StringIO()
    with Progress(2, {"play": 4}, stream=out, clock=clock, unit="part") as progress:
        run_phase(progress, clock, "play", 4, 40.0)
        progress.epoch_done("played")
    assert out.getvalue().splitlines() == [
        "part 1/2: play 2/4, 1 min 20 s left",
        "part 1/2: play 4/4, 0 s left",
        "part 1/2: played",
    ]


def test_a_phase_may_end_early_or_be_unplanned():
    clock, out = Clock(), io.StringIO()
    progress = Progress(1, {"collect": 100}, stream=out, clock=clock)
    phase = run_phase(progress, clock, "collect", 60, 1.0, total=100)
    assert (phase.done, phase.total) == (60, 100)
    run_phase(progress, clock, "pictures", 2, 1.0)
    assert progress.seconds_left() == (pytest.approx(40.0), True)


def test_no_control_characters_away_from_a_terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    clock, out = Clock(), io.StringIO()
    with Progress(1, {"collect": 2}, stream=out, clock=clock) as progress:
        run_phase(progress, clock, "collect", 2, 61.0)
        progress.say("[bold]as it is[/bold]")
        progress.epoch_done("return 3.5")
    assert all(c == "\n" or c.isprintable() for c in out.getvalue())
    assert "[bold]as it is[/bold]\n" in out.getvalue()


def test_a_terminal_gets_bars_and_unbroken_lines(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    clock, out = Clock(), Terminal()
    with Progress(2, {"denoiser": 20}, stream=out, clock=clock) as progress:
        run_phase(progress, clock, "denoiser", 10, 1.0)
        progress.epoch_done("[2, 3] " + "x" * 300)
    text = out.getvalue()
    assert "\x1b" in text
    assert "epoch 1/2: [2, 3] " + "x" * 300 + ", 10 s left\n" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
        (86400 * 3 + 3600 * 4 + 59, "3 d 4 h"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text
