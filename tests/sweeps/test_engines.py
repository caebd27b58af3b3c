"""Sweeps of real, tiny runs on every engine, with whatever is killed. In the end all runs are as one alone would be.

Slurm: ``apt-get install slurmctld slurmd slurm-client munge``; Ray and submitit: ``pip install -e '.[ray,slurm]'``.
"""

import json
import os
import random
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from crashes.crashed_runs import final_state, kill
from crashes.tiny_run import TINY
from sweeps.slurm_here import kill_node, slurm, why_not

from diamond_fast.config_checks import checked
from diamond_fast.presets import PRESETS
from diamond_fast.settings import flag, leaves
from diamond_fast.sweeps.attempts import standings
from diamond_fast.sweeps.folder import SweepFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
PRESET = "catch"
SWEEP = (sys.executable, "-m", "diamond_fast.sweep")


def tiny_flags() -> list[str]:
    """What makes the preset as small as ``TINY``."""
    before = {path: value for path, _, value in leaves(PRESETS[PRESET])}
    changed = [(path, value) for path, _, value in leaves(checked(TINY)) if value != before.get(path)]
    words = [[flag(path), *map(str, value if isinstance(value, tuple) else [value])] for path, value in changed]
    return ["--preset", PRESET, *(word for line in words for word in line)]


def command(out, seeds, *more) -> list[str]:
    return [*SWEEP, "--out", str(out), "--seeds", str(seeds), "--cores-per-run", "1", *more, *tiny_flags()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What the runs of the seeds 0, 1 and 2 leave if nobody disturbs them."""
    out = tmp_path_factory.mktemp("alone")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for seed in range(3):
        argv = [*tiny_flags(), "--seed", str(seed), "--out", str(out / str(seed))]
        subprocess.run([sys.executable, "-m", "diamond_fast.train", *argv], check=True, env=environment)
    return [final_state(out / str(seed)) for seed in range(3)]


def check(out, alone) -> None:
    sweep = SweepFolder.open(out)
    assert [s.state for s in standings(sweep)] == ["finished"] * len(sweep.runs)
    for run in sweep.runs:
        assert final_state(sweep.run(run.name).path) == alone[int(run.argv[-1])]


needs_slurm = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


def attempts(out, name) -> list[dict]:
    file = out / "attempts" / f"{name}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def pids(pattern: str) -> list[int]:
    found = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split() if int(pid) != os.getpid()]


def test_the_driver_workers_and_trainers_are_killed_fifty_times(tmp_path, alone):
    out, rng, killed = tmp_path / "s", random.Random(0), 0
    while killed < 50:
        driver = subprocess.Popen(command(out, 3, "--concurrent", "2"), start_new_session=True)
        while killed < 50 and driver.poll() is None:
            time.sleep(rng.uniform(0.5, 8))
            what = rng.choice([f"sweeps.worker {out} ", f"diamond_fast.train .*{out}/runs/", "driver"])
            victims = [driver.pid] if what == "driver" else pids(what)
            for pid in victims[:1]:
                kill(pid)
                killed += 1
        if driver.poll() is not None and driver.returncode in (0, 1):
            # done before enough was killed, or given up for being killed too often: both go on
            subprocess.run([*SWEEP, "retry", str(out)], check=True)
            if driver.returncode == 0:
                break
        driver.kill()
        driver.wait()
    while subprocess.run(command(out, 3, "--concurrent", "2"), check=False).returncode:
        subprocess.run([*SWEEP, "retry", str(out)], check=True)
    assert killed > 10
    check(out, alone)


def test_130_runs(tmp_path):
    out = tmp_path / "s"
    subprocess.run(command(out, 130), check=True)
    sweep = SweepFolder.open(out)
    assert [s.state for s in standings(sweep)] == ["finished"] * 130
    assert "130 finished" in (out / "index.html").read_text()


@pytest.mark.skipif(find_spec("ray") is None, reason="needs ray: pip install -e '.[ray]'")
def test_ray_with_a_worker_that_is_killed(tmp_path, alone):
    out = tmp_path / "s"
    driver = subprocess.Popen(command(out, 3, "--engine", "ray"))
    while not (workers := pids("ray::attempt")):
        assert driver.poll() is None
        time.sleep(0.2)
    time.sleep(5)
    kill(workers[0])
    assert driver.wait() == 0
    assert "lost" in "".join(path.read_text() for path in (out / "attempts").glob("*.jsonl"))
    check(out, alone)


@pytest.mark.skipif(find_spec("submitit") is None, reason="needs submitit: pip install -e '.[slurm]'")
class TestSubmitit:
    def test_its_own_processes(self, tmp_path, alone):
        code = (
            "import sys; from pathlib import Path; from diamond_fast.sweeps import slurm; "
            "from diamond_fast.sweeps.folder import SweepFolder; from diamond_fast.sweeps.plan import Share; "
            "slurm.drive(SweepFolder.open(Path(sys.argv[1])), Share(None, 0, 1), "
            "slurm.Queue(60, None, (), 'local'), lambda: None)"
        )
        out = tmp_path / "s"
        assert subprocess.run([*command(out, 2), "--dry-run"], check=False).returncode == 0
        from diamond_fast import sweep

        args, settings = sweep.parse_known(sweep.SweepArgs, command(out, 2)[3:])
        SweepFolder.create(out, "", sweep.planned(args, settings))
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-c", code, str(out)], check=True, env=environment)
        check(out, alone)

    @needs_slurm
    def test_slurm_with_jobs_that_are_told_their_time_is_up_killed_and_cancelled(self, tmp_path, alone):
        out = tmp_path / "s"
        with slurm(tmp_path, "n1", cores=len(os.sched_getaffinity(0))):
            argv = command(out, 3, "--engine", "slurm", "--gpus-per-run", "0", "--minutes-per-job", "30")
            driver = subprocess.Popen(argv)
            while len(pids(f"diamond_fast.train .*{out}/runs/")) < 1:
                assert driver.poll() is None
                time.sleep(0.2)
            time.sleep(6)
            kill(driver.pid)  # Slurm goes on by itself
            driver.wait()
            jobs = subprocess.run(["squeue", "-h", "-t", "R", "-o", "%i"], capture_output=True, text=True, check=True)
            (first, *others) = jobs.stdout.split()
            subprocess.run(["scancel", "--signal=USR2", first], check=True)  # as before the end of its time
            for job in others:
                subprocess.run(["scancel", job], check=True)
            deadline = time.monotonic() + 1500
            while subprocess.run(argv, check=False).returncode:
                assert time.monotonic() < deadline
            events = "".join(path.read_text() for path in (out / "attempts").glob("*.jsonl"))
        assert "stopped" in events
        check(out, alone)

    @needs_slurm
    def test_a_node_of_slurm_is_lost_and_its_run_goes_on_at_another(self, tmp_path, alone):
        out = tmp_path / "s"
        with slurm(tmp_path, "n1", "n2", cores=1):
            driver = subprocess.Popen(command(out, 2, "--engine", "slurm", "--gpus-per-run", "0"))
            while not any(out.glob("runs/*/metrics.jsonl")):
                assert driver.poll() is None
                time.sleep(0.02)
            name = next(out.glob("runs/*/metrics.jsonl")).parent.name
            kill_node(tmp_path, node := attempts(out, name)[0]["node"])
            assert driver.wait() == 0
        starts = [line["node"] for line in attempts(out, name) if line["event"] == "start"]
        assert (starts[0], {*starts[1:]}) == (node, {"n1", "n2"} - {node})
        check(out, alone)

    @needs_slurm
    def test_two_runs_in_one_job_share_a_gpu_of_slurm(self, tmp_path, alone):
        out = tmp_path / "s"
        with slurm(tmp_path, "n1", cores=4):
            driver = subprocess.Popen(command(out, 3, "--engine", "slurm", "--gpus-per-run", "0.5"))
            while len(trainers := pids(f"diamond_fast.train .*{out}/runs/")) < 2:
                assert driver.poll() is None
                time.sleep(0.2)
            told = [Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in trainers]
            assert len(told) == 2
            assert all({b"CUDA_VISIBLE_DEVICES=0", b"OMP_NUM_THREADS=1"} <= {*environment} for environment in told)
            time.sleep(6)
            (job,) = subprocess.check_output(["squeue", "-h", "-t", "R", "-o", "%i"], text=True).split()
            subprocess.run(["scancel", "--signal=USR2", job], check=True)  # as before the end of its time
            assert driver.wait() == 0
        check(out, alone)
