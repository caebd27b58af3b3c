import threading
import time
from types import SimpleNamespace

import pytest

from diamond_fast.playing import loop
from diamond_fast.playing.commands import Command
from diamond_fast.playing.loop import MAX_WAITING, GameLoop


@pytest.fixture
def play(make_session):
    """Starts a loop over a session; all are stopped in the end."""
    games = []

    def start(**settings):
        session = make_session(**settings)
        games.append(GameLoop(session))
        games[-1].start()
        return games[-1], session

    yield start
    for game in games:
        game.stop()


def until(condition, seconds=60.0):
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it never came"
        time.sleep(0.005)


def test_it_goes_no_faster_than_its_speed(play):
    """How much slower it goes on a busy machine is not tested."""
    game, _ = play(world="real", speed=20)
    game.watch(1)
    game.submit(Command("pause", False))
    until(lambda: game.view.step >= 1)
    started, first = time.monotonic(), game.view.step
    until(lambda: game.view.step >= first + 20)
    assert time.monotonic() - started > 0.9
    assert 0 < game.frames_per_second < 30


def test_a_late_step_does_not_make_the_rate_large(monkeypatch):
    """What follows it follows at once."""
    game = GameLoop(SimpleNamespace(view=lambda: None, step=lambda: None, over=False))
    times = iter((0.0, 0.1, 0.2, 0.35, 0.3501, 0.45))
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(times)))
    rates = []
    for _ in range(6):
        game._step()
        rates.append(game.frames_per_second)
    seconds, expected = 0.1, [0.0, 10.0]
    for each in (0.1, 0.15, 0.0001, 0.0999):
        seconds = 0.8 * seconds + 0.2 * each
        expected.append(1 / seconds)
    assert rates == pytest.approx(expected)


def test_what_a_recorder_lost_is_seen_at_once(play):
    game, session = play()
    session.recorder.problem = "episode_001: journal not written (No space left on device)"
    until(lambda: game.view.notice == session.recorder.problem)


def test_it_stands_still_while_paused_or_unwatched(play):
    game, session = play(world="real", speed=60)
    game.submit(Command("pause", False))
    until(lambda: not session.paused)
    time.sleep(0.2)
    assert game.view.step == 0
    game.watch(1)
    until(lambda: game.view.step > 3)
    game.submit(Command("pause", True))
    until(lambda: game.view.paused)
    step = game.view.step
    time.sleep(0.2)
    assert game.view.step == step
    game.submit(Command("step"))
    until(lambda: game.view.step == step + 1)


def test_commands_that_fail_are_told_and_play_goes_on(play):
    game, _ = play(world="real", speed=60)
    game.watch(1)
    game.submit(Command("pause", False))
    game.submit(Command("horizon", -5))
    until(lambda: "horizon: expected 1 to 10000, got -5" in game.view.notice)
    assert not game.view.paused
    step = game.view.step
    until(lambda: game.view.step > step)
    game.submit(Command("speed", 50))
    until(lambda: not game.view.notice)


def test_a_step_that_fails_pauses_and_can_be_left(play, monkeypatch):
    game, session = play(world="real", speed=60)

    def fail(action):
        raise TimeoutError("the game\ndoes not answer")

    monkeypatch.setattr(session._world, "step", fail)
    game.watch(1)
    game.submit(Command("pause", False))
    until(lambda: game.view.notice == "the game does not answer")
    assert game.view.paused
    game.submit(Command("world", "model"))
    game.submit(Command("pause", False))
    until(lambda: game.view.world == "model" and game.view.step > 0)


def test_too_many_commands_at_once_are_refused(make_session):
    game = GameLoop(make_session())  # not started: nothing takes them
    taken = [game.submit(Command("step")) for _ in range(MAX_WAITING + 10)]
    assert taken == [True] * MAX_WAITING + [False] * 10


def test_a_slow_model_does_not_hold_up_the_loop(play, monkeypatch):
    """While a step takes long, commands are accepted at once; no steps are owed afterwards."""
    game, session = play(world="real", speed=60)
    plain, begun, go_on = session._world.step, threading.Event(), threading.Event()

    def slow(action):
        begun.set()
        assert go_on.wait(60)
        return plain(action)

    monkeypatch.setattr(session._world, "step", slow)
    game.watch(1)
    game.submit(Command("pause", False))
    assert begun.wait(60)
    time.sleep(0.2)  # a dozen steps would be due by now
    assert game.submit(Command("pause", True))  # returns although the step has not ended
    assert game.view.step == 0
    go_on.set()
    until(lambda: game.view.step > 0 and game.view.paused)
    assert game.view.step == 1
