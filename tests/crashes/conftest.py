import subprocess
from pathlib import Path

import pytest
from crashed_runs import ONLY_COUNT, Runs, final_state


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Runs on a disk that fails when it is told to."""
    scratch = tmp_path_factory.mktemp("crashes")
    library = scratch / "faulty_disk.so"
    source = Path(__file__).parent / "faulty_disk.c"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    runs = Runs(scratch, library)
    yield runs
    runs.close()


@pytest.fixture(scope="session")
def whole(runs, tmp_path_factory):
    """A run that nothing interrupted: its folder's final state and the calls to the disk it made."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert runs.finish(folder, ONLY_COUNT) == 0, runs.said()
    return final_state(folder), runs.disk_calls
