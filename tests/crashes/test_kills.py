"""A run killed at random moments and resumed ends exactly as one that never was, and repeats one epoch at most."""

import random
import time
from collections import Counter

import pytest
from crashed_runs import final_state, kill

from diamond_fast.runs.checkpoint import latest_epoch, load_latest
from diamond_fast.runs.metrics import read_metrics


def finished_epochs(folder):
    lines = read_metrics(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else []
    return max((line["epoch"] for line in lines), default=0)


def check_nothing_is_lost(folder):
    """What a resume would find, after however many crashes."""
    committed = latest_epoch(folder / "checkpoints")
    if committed is not None:
        load_latest(folder / "checkpoints", say=pytest.fail)  # none is damaged, so none is passed over
    assert finished_epochs(folder) - (committed or 0) <= 1


def kill_repeatedly(runs, folder, whole, kills, phases, seed):
    """Where the kills struck. Runs that get to their end in between are compared and begun anew.

    On a busy machine few phases may be reached in time: it goes on until so many were struck, for a while.
    """
    rng, struck, number = random.Random(seed), Counter(), 0
    while struck.total() < kills or (len(struck) < phases and struck.total() < 5 * kills):
        run = folder / str(number)
        pid = runs.start(run)
        time.sleep(rng.uniform(0.0, 1.2))
        phase = runs.phase
        kill(pid)
        code = runs.wait()
        if code == -9:
            struck[phase] += 1
            check_nothing_is_lost(run)
        else:
            assert code == 0, runs.said()
            assert final_state(run) == whole
            number += 1
    assert runs.finish(run) == 0, runs.said()
    assert final_state(run) == whole
    return struck


def test_10_kills(runs, whole, tmp_path):
    struck = kill_repeatedly(runs, tmp_path, whole[0], 10, phases=3, seed=0)
    assert len(struck) >= 3, struck


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_200_kills(runs, whole, tmp_path, capsys):
    struck = kill_repeatedly(runs, tmp_path, whole[0], 200, phases=5, seed=1)
    with capsys.disabled():
        print(f"\n200 kills: {dict(struck)}")
    assert len(struck) >= 5, struck
