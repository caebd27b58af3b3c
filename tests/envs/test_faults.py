"""What users' environments do wrong: one line that names the environment, or it works all the same."""

import os
import signal

import faulty_env
import numpy as np
import pytest

from diamond_fast.domains.environments import make_real_env
from diamond_fast.envs.failure import EnvironmentFailedError

ENV_ID = "faulty_env:Faulty-v0"


def make(num_envs=1, frame_size=12, timeout=60.0, runs_in="thread", max_steps=None, start_timeout=None, **env_kwargs):
    return make_real_env(
        None,
        ENV_ID,
        num_envs,
        frame_size,
        False,
        timeout,
        env_kwargs=env_kwargs,
        runs_in=runs_in,
        start_timeout=start_timeout,
        max_steps=max_steps,
    )


def play(env, steps):
    """All that a few steps give, the first frames included."""
    obs, _ = env.reset(seed=3)
    return [obs, *(part for t in range(steps) for part in env.step(np.full(env.num_envs, t % 3))[:4])]


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("error in make", r"failed in being made: KeyError: 'no\\nsuch thing' .*\(\w+.py, line \d+\)$"),
        ("error in reset", r"failed in reset: KeyError: 'no\\nsuch thing' \(faulty_env.py, line \d+\)$"),
        ("error in step", r"failed in step: KeyError: 'no\\nsuch thing' \(faulty_env.py, line \d+\)$"),
        ("exit in step", r"failed in step: SystemExit: 3 \(faulty_env.py"),
        ("fractions", r"gave a frame of float64 from 0 to 1, .* says uint8; .* return \(255 \* frame\).astype"),
        ("floats", r"gave a frame of float64 from 0 to 255, .* says uint8; .* return uint8 values from 0 to 255"),
        ("small", r"gave a frame of shape \[6, 12, 3\], its observation_space says \[12, 12, 3\]"),
        ("huge", r"gave a reward of 1e\+39; expected a finite number that fits in float32"),
        ("nothing", r"gave a reward of None; expected a finite number"),
        ("two", r"gave a reward of \[1.0, 2.0\]; expected a finite number"),
        ("handlers in reset", r"failed in reset: ValueError: signal only works in main .*; --env-runs-in process"),
        ("event loop in step", r"failed in step: RuntimeError: There is no current event loop .*; --env-runs-in proc"),
    ],
)
def test_one_line_names_the_environment(fault, line):
    with pytest.raises(EnvironmentFailedError, match=f"^the environment {ENV_ID} {line}") as caught:
        play(make(fault=fault), steps=2)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("runs_in", "fault"),
    [("process", "handlers in reset"), ("process", "event loop in step"), ("main", "handlers in reset")],
)
def test_what_wants_the_main_thread_gets_one(runs_in, fault):
    before = signal.getsignal(signal.SIGINT)
    env = make(2, runs_in=runs_in, fault=fault)
    there = play(env, steps=12)
    env.close()
    assert signal.getsignal(signal.SIGINT) is before
    env = make(2)
    for a, b in zip(there, play(env, steps=12), strict=True):
        np.testing.assert_array_equal(a, b)
    env.close()


def test_in_the_main_thread_nothing_else_changes():
    """The calls' order is checked, errors come through, and what was closed stays closed."""
    env = make(runs_in="main", fault="error in step", at=2)
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match="nothing to do"):
        env.recv()
    env.send(np.zeros(1, int))
    with pytest.raises(RuntimeError, match="take that result first"):
        env.send(np.zeros(1, int))
    env.recv()
    with pytest.raises(EnvironmentFailedError, match="failed in step"):
        env.step(np.zeros(1, int))
    env.close()
    with pytest.raises(RuntimeError, match="is closed"):
        env.reset(seed=0)


def test_a_process_that_fails_or_dies():
    with pytest.raises(ValueError, match='unknown environment "Faulty-v0"'):  # known here, but not there
        make_real_env(None, "Faulty-v0", 1, 12, False, runs_in="process")
    env = make(runs_in="process", fault="death in step", at=2)
    env.reset(seed=0)
    env.step(np.zeros(1, int))
    for _ in range(2):
        with pytest.raises(EnvironmentFailedError, match=rf"process of the environment {ENV_ID} ended \(exit code 7"):
            env.step(np.zeros(1, int))
    env.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_ends_the_terminal_leaves_the_environments_process_to_the_program(number):
    """Both go to all processes of a terminal. The program, which saves, still needs its environments."""
    env = make(runs_in="process")
    env.reset(seed=0)
    env._slots[0]._process.send_signal(number)
    for _ in range(3):
        env.step(np.zeros(1, int))
    env.close()


def test_what_a_process_prints_for_nobody_is_no_fault():
    (read, nobody), shown = os.pipe(), os.dup(1)
    os.close(read)
    os.dup2(nobody, 1)  # as after `| head`
    try:
        env = make(runs_in="process", fault="print in step")
        play(env, steps=2)
        env.close()
    finally:
        os.dup2(shown, 1)
        os.close(shown)
        os.close(nobody)


def test_an_environment_that_cannot_be_closed_says_so(capsys):
    env = make(fault="error in close")
    env.close()
    assert "failed in close: KeyError" in capsys.readouterr().err


def test_starts_have_a_time_limit_of_their_own():
    """Making and resetting waits for a start's time, whatever a step may take; who hangs is given up."""
    faulty_env.released.clear()
    with pytest.raises(EnvironmentFailedError, match=r"did not answer within 0\.1 s; a larger --env-start-timeout"):
        make(fault="hanging in make", start_timeout=0.1)
    env = make(fault="hanging in reset")
    env._start_timeout = 0.1  # only now: to be made takes as long as the machine is busy
    with pytest.raises(EnvironmentFailedError, match=r"did not answer within 0\.1 s; a larger --env-start-timeout"):
        env.reset(seed=0)
    faulty_env.released.set()


def test_numbers_in_arrays_of_one_are_numbers():
    env = make(fault="array")
    assert play(env, steps=1)[2].tolist() == [1.5]
    env.close()


def test_wide_integers_are_frames():
    for a, b in zip(play(make(fault="integers"), steps=3), play(make(), steps=3), strict=True):
        np.testing.assert_array_equal(a, b)


def test_frames_in_0_to_1_are_told_once_and_scaled_where_that_is_certain(capsys):
    for _ in range(2):  # as train and test environments
        play(make(fault="dark", length=50), steps=110)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"The environment {ENV_ID} has shown 100 frames with no value above 1 of 255" in err
    play(make(), steps=110)
    assert capsys.readouterr().err == ""
    black_and_white = play(make(high=1), steps=1)[0]
    assert set(np.unique(black_and_white)) == {0, 255}
    assert capsys.readouterr().err == ""


def test_games_are_cut_short():
    """One that ends by itself sooner is not; after a cut the next game begins."""
    env = make(2, length=10**9, max_steps=4)
    env.reset(seed=0)
    steps = [env.step(np.zeros(2, int)) for _ in range(9)]
    assert [step[3].tolist() for step in steps] == [[t in (3, 7)] * 2 for t in range(9)]
    assert not any(step[2].any() for step in steps)
    state, after = env.state_dict(), env.step(np.zeros(2, int))[0]
    again = make(2, length=10**9, max_steps=4)
    again.load_state_dict(state)
    np.testing.assert_array_equal(again.step(np.zeros(2, int))[0], after)
    env = make(length=3, max_steps=4)
    env.reset(seed=0)
    steps = [env.step(np.zeros(1, int)) for _ in range(6)]
    assert [(*step[2], *step[3]) for step in steps] == [(t % 3 == 2, False) for t in range(6)]
