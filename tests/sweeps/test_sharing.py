"""Several small runs on one GPU, as each engine gives it to them. No GPU is needed: what they are told counts."""

import os
import signal
import sys
import types
from concurrent.futures import Future
from importlib.util import find_spec
from pathlib import Path

import pytest

from diamond_fast import sweep
from diamond_fast.sweeps import local, on_ray, slurm, worker
from diamond_fast.sweeps.attempts import TO_DO, note, standings
from diamond_fast.sweeps.plan import Share
from diamond_fast.sweeps.slurm import Job, Queue


def told(sweep, name) -> str:
    return sweep.log_file(name).read_text().splitlines()[0]


@pytest.fixture
def five(make_sweep, tmp_path):
    return make_sweep(**dict.fromkeys("abcde", f"--until {tmp_path / 'four'}"))


@pytest.fixture
def look(five, tmp_path):
    """Counts the runs at work, whenever it is called. They wait until there are four, however long that takes."""

    def count():
        count.at_once.append(sum(s.state == "running" for s in standings(five)))
        if count.at_once[-1] == 4:
            (tmp_path / "four").touch()

    count.at_once = []
    return count


@pytest.mark.parametrize(("gpus", "expected"), [(0, 1), (0.25, 4), (0.1, 10), (0.3, 3), (0.5, 2), (1, 1), (2, 1)])
def test_how_many_share_a_gpu(gpus, expected):
    assert Share(None, gpus, 1).runs_per_gpu == expected


def test_processes_of_this_machine(five, look, stub, monkeypatch):
    monkeypatch.setattr(local, "LOOK_EVERY", 0.05)
    cores = sorted(os.sched_getaffinity(0))[:1] * 4  # four names for one core
    places = local.slots(Share(None, 0.25, 1), ["3"], cores)
    local.drive(five, places, look)
    assert max(look.at_once) == 4
    assert {told(five, name) for name in "abcde"} == {"GPU 3, threads 1"}


@pytest.fixture
def submitit(monkeypatch):
    """Stands in for submitit: what was asked for, and jobs that never begin."""
    asked, jobs, refusals = {}, [], []

    class Asked:
        def __init__(self, folder, job_id):
            self.job_id, self.paths, self.cancelled = job_id, types.SimpleNamespace(stderr=f"{job_id}.err"), 0

        def cancel(self, check):
            self.cancelled += 1

    class Executor:
        def __init__(self, folder, cluster, **more):
            asked["cluster"] = cluster

        def update_parameters(self, **parameters):
            asked.update(parameters)

        def map_array(self, job, folders, names):
            if refusals:
                raise FailedJobError(refusals.pop())
            jobs.append([*zip(folders, names, strict=True)])
            return [Asked(None, f"{len(jobs)}_{i}") for i in range(len(names))]

    module, utils = types.ModuleType("submitit"), types.ModuleType("submitit.core.utils")
    module.AutoExecutor, module.SlurmJob, module.LocalJob = Executor, Asked, Asked
    FailedJobError = utils.FailedJobError = type("FailedJobError", (RuntimeError,), {})
    for part in (module, types.ModuleType("submitit.core"), utils):
        monkeypatch.setitem(sys.modules, part.__name__, part)
    return types.SimpleNamespace(asked=asked, jobs=jobs, refusals=refusals)


def test_one_job_of_slurm_has_as_many_runs_as_share_its_gpu(five, submitit):
    jobs = slurm._Jobs(five, Share(8, 0.25, 2), Queue(60, "gpu", ("account=me",)))
    assert submitit.asked["gpus_per_node"] == 1
    assert submitit.asked["cpus_per_task"] == 8
    assert submitit.asked["slurm_srun_args"] == ["--cpus-per-task=8"]
    assert submitit.asked["slurm_setup"] == ["export OMP_NUM_THREADS=2"]
    assert submitit.asked["slurm_array_parallelism"] == 2
    assert submitit.asked["slurm_additional_parameters"] == {"requeue": True, "account": "me"}
    jobs.submit(list("abcde"))
    assert submitit.jobs == [[(five.path.resolve(), ("a", "b", "c", "d")), (five.path.resolve(), ("e",))]]
    again = slurm._Jobs(five, Share(8, 0.25, 2), Queue(60, None, ()))
    assert {name: job.job_id for name, job in again._jobs.items()} == dict.fromkeys("abcd", "1_0") | {"e": "1_1"}
    jobs.cancel({"a", "b"})
    assert jobs._jobs["a"].cancelled == 1


@pytest.mark.parametrize(("gpus", "concurrent", "runs", "jobs", "parallel"), [
    (0.25, 2, 2, 3, 1), (1, 3, 1, 5, 3), (2, None, 1, 5, 256), (0, None, 1, 5, 256),
])  # fmt: skip
def test_jobs_of_slurm(five, submitit, gpus, concurrent, runs, jobs, parallel):
    all_jobs = slurm._Jobs(five, Share(concurrent, gpus, 1), Queue(60, None, ()))
    all_jobs.submit(list("abcde"))
    assert len(submitit.jobs[0]) == jobs
    assert {len(names) for _, names in submitit.jobs[0][:-1]} == {runs}
    assert submitit.asked["gpus_per_node"] == gpus or gpus == 0.25
    assert submitit.asked["slurm_array_parallelism"] == parallel


def test_a_slurm_that_takes_no_job_ends_the_sweep_in_one_line(five, submitit, capsys, monkeypatch):
    monkeypatch.setattr(sweep, "find_spec", lambda name: name)
    monkeypatch.setattr(sweep, "which", lambda name: name)
    monkeypatch.setattr(slurm, "SQUEUE", ("true",))  # no Slurm need be here; none of its jobs is left
    submitit.refusals.append("sbatch: error: invalid partition\nsbatch: error: Batch job submission failed")
    drive = sweep.engine(sweep.SweepArgs(five.path, engine="slurm", partition="typo"))
    with pytest.raises(SystemExit) as stop:
        drive(five, lambda: None)
    assert stop.value.code == 2
    expected = "sbatch: error: invalid partition sbatch: error: Batch job submission failed"
    assert capsys.readouterr().err == f"--engine slurm: no job is taken: {expected}\n"


def test_one_that_takes_none_for_a_while_is_asked_again(five, submitit, capsys):
    jobs = slurm._Jobs(five, Share(None, 0, 1), Queue(60, None, ()))
    jobs.submit("a")
    submitit.refusals.extend(["full", "full"])
    for _ in range(3):
        assert jobs.ended_in_vain("b") == {}
        jobs.submit("b")
    assert capsys.readouterr().err == "--engine slurm: no job is taken: full\n"
    assert len(submitit.jobs) == 2


def test_jobs_that_end_before_they_begin_are_given_up(five, submitit, monkeypatch):
    """As on nodes that lack the program: Slurm would take them for ever."""
    monkeypatch.setattr(slurm, "LOOK_EVERY", 0.0)
    monkeypatch.setattr(slurm._Jobs, "queued", lambda self: set())
    slurm.drive(five, Share(None, 0, 1), Queue(60, None, ()), lambda: None)
    found = standings(five)
    assert {s.state for s in found} == {"failed"}
    assert found[4].line.endswith("job 3_4 ended before it began; see 3_4.err")
    assert len(submitit.jobs) == 3


def test_one_that_began_did_not_end_in_vain(five, submitit):
    jobs = slurm._Jobs(five, Share(None, 0, 1), Queue(60, None, ()))
    jobs.submit(["a", "b"])
    note(five, "a", "start", epochs=0)
    assert set(jobs.ended_in_vain(["a", "b", "c"])) == {"b"}
    assert jobs.ended_in_vain(["a", "b", "c"]) == {}


class TestJob:
    @pytest.fixture(autouse=True)
    def quick_looks(self, stub, monkeypatch):
        monkeypatch.setattr(worker, "WATCH_EVERY", 0.02)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")

    def test_its_runs_go_side_by_side(self, make_sweep):
        sweep = make_sweep(a="", b="--fate always 1", c="")
        assert Job()(sweep.path, ["a", "b", "c"]) == ["finished", "failed", "finished"]
        assert told(sweep, "a").startswith("GPU 7,")

    def test_sigterm_tells_all_of_them_to_save(self, make_sweep, once_at_work):
        sweep = make_sweep(a="--seconds 30", b="--seconds 30")
        once_at_work(sweep, "ab", lambda: os.kill(os.getpid(), signal.SIGTERM))
        before = signal.getsignal(signal.SIGTERM)
        assert Job()(sweep.path, ["a", "b"]) == ["stopped", "stopped"]
        assert signal.getsignal(signal.SIGTERM) is before

    def test_what_goes_on_is_said_once_all_have_saved(self, make_sweep, once_at_work, monkeypatch):
        helpers = types.ModuleType("submitit.helpers")
        helpers.DelayedSubmission = lambda *arguments: arguments
        monkeypatch.setitem(sys.modules, "submitit.helpers", helpers)
        sweep, job, again = make_sweep(a="--seconds 30", b="--seconds 30"), Job(), Future()
        once_at_work(sweep, "ab", lambda: again.set_result(job.checkpoint(sweep.path, ["a", "b"])))
        job(sweep.path, ["a", "b"])
        new, *arguments = again.result(60)
        assert isinstance(new, Job)
        assert new is not job
        assert arguments == [sweep.path, ["a", "b"]]
        assert {s.state for s in standings(sweep)} == {"stopped"} < set(TO_DO)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="needs ray: pip install -e '.[ray]'")
def test_tasks_of_ray(five, look, stub, monkeypatch):
    import ray

    trainer = worker.TRAIN

    def attempt(folder: Path, name: str, cores: int) -> None:  # within a function: Ray sends it whole
        worker.TRAIN = trainer
        on_ray_attempt(folder, name, cores)

    on_ray_attempt = on_ray.attempt
    monkeypatch.setattr(on_ray, "attempt", attempt)
    monkeypatch.setattr(on_ray, "LOOK_EVERY", 0.1)
    ray.init(num_gpus=1, num_cpus=8, log_to_driver=False, include_dashboard=False)
    on_ray.drive(five, Share(None, 0.25, 1), look)
    assert {s.state for s in standings(five)} == {"finished"}
    assert {told(five, name) for name in "abcde"} == {"GPU 0, threads 1"}
    assert max(look.at_once) == 4
