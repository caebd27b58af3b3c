"""A disk that fills up in the middle of a run, for real: a small tmpfs with something else on it."""

import subprocess

import pytest
from crashed_runs import Runs, final_state
from test_kills import check_nothing_is_lost

SIZE = 4 << 20
UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """Runs for which a folder is a disk of its own, and that folder."""
    if subprocess.run([*UNSHARE, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount anything")
    folder = tmp_path_factory.mktemp("disk")
    mount = f'mount -t tmpfs -o size={SIZE} none {folder} && exec "$@"'
    runs = Runs(tmp_path_factory.mktemp("full"), wrapper=(*UNSHARE, "sh", "-c", mount, "sh"))
    yield runs, folder
    runs.close()


def fill_up(small_disk, whole, kilobytes_left):
    """A run that finds so much space; then, with more of it, the rest."""
    runs, folder = small_disk
    ballast = runs.seen_here(folder) / "ballast"
    ballast.write_bytes(bytes(SIZE - 1024 * kilobytes_left))
    run = folder / f"run{kilobytes_left}"
    code, said = runs.finish(run), runs.said()
    assert code in (1, 2), said
    assert "No space left on device" in said.strip().splitlines()[-1]
    assert "TRACEBACK" not in said
    check_nothing_is_lost(runs.seen_here(run))
    ballast.unlink()
    assert runs.finish(run) == 0, runs.said()
    assert final_state(runs.seen_here(run)) == whole
    subprocess.run(["rm", "-r", runs.seen_here(run)], check=True)
    return code


def test_a_disk_that_fills_up(small_disk, whole):
    assert [fill_up(small_disk, whole[0], left) for left in (8, 120, 300)] == [2, 1, 1]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_disk_that_fills_up_anywhere(small_disk, whole):
    codes = [fill_up(small_disk, whole[0], left) for left in range(4, 504, 20)]
    assert codes.count(1) > 10
