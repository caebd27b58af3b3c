"""Every write, fsync and rename of a run fails in turn, or is the last thing the process does; nothing is lost."""

import errno
import itertools
import os
import shutil

import pytest
from crashed_runs import FAIL_FROM_THEN_ON, FAIL_ONCE, KILL, final_state
from test_kills import check_nothing_is_lost

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)


def strike(runs, whole, folder, call, action, error=0):
    """One fault, what it leaves, and the run resumed on a disk that works again."""
    code = runs.finish(folder, (call, action, error))
    if action == KILL:
        assert code == -9
    else:
        said = runs.said()
        assert code in (1, 2), said
        last = said.strip().splitlines()[-1]
        assert os.strerror(error) in last, said
        assert "TRACEBACK" not in said
        assert "Traceback" not in said
    check_nothing_is_lost(folder)
    assert runs.finish(folder) == 0, runs.said()
    assert final_state(folder) == whole
    shutil.rmtree(folder)


def test_some_calls_fail_and_some_are_the_last(runs, whole, tmp_path):
    """A sample of what follows: one of each kind, spread over the whole run."""
    state, calls = whole
    cases = itertools.cycle([(FAIL_ONCE, errno.ENOSPC), (FAIL_FROM_THEN_ON, errno.EIO), (KILL, 0)])
    for call, (action, error) in zip(range(3, calls, calls // 3), cases, strict=False):
        strike(runs, state, tmp_path / "run", call, action, error)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
def test_every_call_fails(runs, whole, tmp_path, error):
    state, calls = whole
    for call in range(1, calls + 1):
        strike(runs, state, tmp_path / "run", call, (FAIL_ONCE, FAIL_FROM_THEN_ON)[call % 2], error)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_call_is_the_last(runs, whole, tmp_path):
    state, calls = whole
    for call in range(1, calls + 1):
        strike(runs, state, tmp_path / "run", call, KILL)
