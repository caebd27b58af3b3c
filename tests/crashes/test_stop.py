"""SIGTERM, Ctrl-C and SIGHUP in every phase: saved and out in time, with the code shells know and how to go on."""

import signal
import time

import pytest
from crashed_runs import PHASES, final_state, kill

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
EVERYWHERE = [*PHASES[1:], "saving"]


def stop_in(runs, folder, phase, number):
    """Its exit code and the seconds it took to leave."""
    pid = runs.start(folder)
    while runs.phase != phase and runs.phase != "final evaluation":
        time.sleep(0.0005)
    sent = time.monotonic()
    kill(pid, number)
    return runs.wait(), time.monotonic() - sent


def check(runs, whole, folder, phase, number):
    for attempt in range(5):  # the end of a run may be faster than the signal
        run = folder / str(attempt)
        code, seconds = stop_in(runs, run, phase, number)
        if code != 0:
            break
    assert code == 128 + number, runs.said()
    assert seconds < 10
    assert runs.said().splitlines()[-1] == "Stopped. Go on from the last checkpoint with: the same again"
    assert "TRACEBACK" not in runs.said()
    assert runs.finish(run) == 0, runs.said()
    assert final_state(run) == whole


@pytest.mark.parametrize(("phase", "number"), [(phase, SIGNALS[i % 3]) for i, phase in enumerate(EVERYWHERE)])
def test_stopped_in_a_phase(runs, whole, tmp_path, phase, number):
    check(runs, whole[0], tmp_path, phase, number)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "number"), [(phase, SIGNALS[(i + j) % 3]) for i, phase in enumerate(EVERYWHERE) for j in (1, 2)]
)
def test_stopped_in_a_phase_by_the_other_signals(runs, whole, tmp_path, phase, number):
    check(runs, whole[0], tmp_path, phase, number)


def test_work_done_before_a_stop_is_not_done_again(runs, whole, tmp_path):
    """Stopped in the policy's updates, a run has kept the epoch's updates of the other two models."""
    from diamond_fast.runs.checkpoint import load_latest

    code, _ = stop_in(runs, tmp_path / "run", "actor_critic", signal.SIGTERM)
    assert code == 143
    state = load_latest(tmp_path / "run" / "checkpoints").state
    assert state["figures"]["denoiser/updates"] == state["figures"]["reward_end/updates"] == 2
