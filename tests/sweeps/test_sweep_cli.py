"""The command line: what it refuses, what it says, and a whole sweep of stubs."""

import json
from types import SimpleNamespace

import pytest
from refusals import one_line_refusal

from diamond_fast import report, sweep
from diamond_fast.sweeps import local
from diamond_fast.sweeps.attempts import standings
from diamond_fast.sweeps.folder import Planned, SweepFolder
from diamond_fast.sweeps.worker import Attempt


def refused(capsys, *argv):
    return one_line_refusal(capsys, sweep.main, argv)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "Missing from python -m diamond_fast.sweep: --out DIR"),
        (["--games", "Boxng"], '--game: unknown game "Boxng"; did you mean Boxing?'),
        (["--games", "Boxing", "--game", "Pong"], "--game: a sweep sets it for each run; take --games"),
        (["--games", "Boxing", "--seed", "1"], "--seed: a sweep sets it for each run; take --seeds"),
        (["--games", "Boxing", "--seeds", "0"], "--seeds: must be at least 1, got 0"),
        (["--games", "Boxing", "--sedes", "3"], "--sedes: unknown flag"),
        (["--games", "Boxing", "--grid", "seed", "1", "2"], "--grid seed: a sweep sets it for each run"),
        (["--games", "Boxing", "--grid", "denoiser-update.lr", "1e-4", "x"], "--denoiser-update.lr"),
        (["--games", "Boxing", "--engine", "slurm"], "--preset: name one with --engine slurm"),
        (["--games", "Boxing", "--preset", "quick", "--cores-per-run", "4096"], "--cores-per-run: this"),
        (["--games", "Boxing", "--preset", "quick", "--gpus-per-run", "-1"], "--gpus-per-run: must be at least 0"),
    ],
)
def test_one_line_says_what_is_wrong(capsys, tmp_path, argv, message):
    out = [] if not argv else ["--out", str(tmp_path / "s")]
    assert message in refused(capsys, *out, *argv)
    assert not (tmp_path / "s").exists()


def test_an_engine_that_is_not_installed(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "find_spec", lambda name: None)
    argv = ["--out", str(tmp_path / "s"), "--games", "Boxing", "--preset", "quick", "--engine", "ray"]
    assert "--engine ray: ray is not installed; pip install 'diamond_fast[ray]'" in refused(capsys, *argv)


def test_commands_on_no_sweep(capsys, tmp_path):
    for command in ("status", "cancel", "retry"):
        assert "not the folder of a sweep" in refused(capsys, command, str(tmp_path))


def test_the_runs_of_the_paper(tmp_path):
    argv = ["--out", str(tmp_path / "s"), "--games", "all", "--seeds", "5"]
    runs = sweep.planned(*sweep.parse_known(sweep.SweepArgs, argv))
    assert len({run.name for run in runs}) == len(runs) == 130
    assert runs[0].argv == ("--game", "Alien", "--preset", "quick", "--seed", "0")


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(monkeypatch, tmp_path, capsys):
    class Estimate:
        def seconds(self, speed):
            return speed

    monkeypatch.setattr("diamond_fast.estimate.estimate", lambda config, action: Estimate())
    hours = {1: 2, 3: 5}
    speed = lambda config, *_: SimpleNamespace(now=3600 * hours[config.world_model.sampler.num_steps])  # noqa: E731
    monkeypatch.setattr("diamond_fast.estimate.measure_speed", speed)
    argv = ["--out", str(tmp_path / "s"), "--games", "Boxing", "Pong", "--seeds", "3", "--preset", "quick"]
    sweep.main([*argv, "--grid", "world-model.sampler.num-steps", "1", "3", "--concurrent", "4", "--dry-run"])
    first, second, whole, at_a_time = capsys.readouterr().out.splitlines()
    assert first.startswith("num-steps=1: 6 runs of 2 h")
    assert second.startswith("num-steps=3: 6 runs of 5 h")
    assert whole.startswith("12 runs, 42.0 machine-hours one after the other")
    assert at_a_time == "10.5 hours with 4 at a time, each on a machine of its own"
    assert not (tmp_path / "s").exists()


def test_a_whole_sweep(stub, monkeypatch, capsys, tmp_path):
    """A run of three fails; then it is retried, and the same command goes on."""
    out = tmp_path / "s"
    monkeypatch.setattr(sweep.train, "read_command_line", lambda argv: sweep.train.TrainArgs(preset="quick"))
    monkeypatch.setattr(sweep, "plan", lambda *args: runs)
    monkeypatch.setattr(local, "LOOK_EVERY", 0.05)
    reports = []
    monkeypatch.setattr(sweep.report, "main", reports.append)
    runs = [sweep.Planned("a", "x=1", ("--epochs", "1")), sweep.Planned("b", "x=2", ("--fate", "1", "2"))]
    argv = ["--out", str(out), "--games", "Boxing", "--preset", "quick", "--concurrent", "2", "--then", "report"]
    with pytest.raises(SystemExit) as stop:
        sweep.main(argv)
    assert stop.value.code == 1
    said = capsys.readouterr()
    assert f"{out}: 1 failed, 1 finished" in said.out
    assert "b: out of memory on cpu: lower the batch" in said.err
    page = (out / "index.html").read_text()
    assert "out of memory on cpu: lower the batch" in page
    assert 'http-equiv="refresh"' not in page
    assert reports == [[str(out), "--out", str(out / "report")]]

    sweep.main(["retry", "--failed", str(out)])
    assert "1 failed run may be gone on with: b." in capsys.readouterr().out
    sweep.main(["retry", str(out)])
    assert capsys.readouterr().out == "No run has failed.\n"
    sweep.main(argv)
    assert f"{out}: 2 finished" in capsys.readouterr().out
    sweep.main(["status", str(out)])
    assert "2 finished" in capsys.readouterr().out

    sweep.main(["cancel", str(out)])
    assert SweepFolder.open(out).cancelled_file.exists()
    sweep.main(argv)  # goes on, with nothing left to do
    assert {s.state for s in standings(SweepFolder.open(out))} == {"finished"}


def test_a_report_takes_a_sweep_and_names_what_is_missing(make_sweep, stub, few_samples, capsys):
    folder = make_sweep(a="", b="")
    with pytest.raises(SystemExit):
        report.main([str(folder.path), "--json"])
    assert "none of its runs has finished an epoch yet" in capsys.readouterr().err
    Attempt(folder, "a").run()
    report.main([str(folder.path), "--json"])
    data = json.loads(capsys.readouterr().out)
    assert data["remarks"][-1] == "Missing, since they have not finished an epoch: b."
    assert data["games"] == ["Boxing"]


def test_a_report_of_a_grid_is_one_page_for_each_variant(stub, few_samples, monkeypatch, tmp_path, capsys):
    runs = [Planned(f"{i}", f"data=a/b,x={i // 2}", ("--seed", f"{i}", "--epochs", "2")) for i in range(6)]
    folder = SweepFolder.create(tmp_path / "sweep", "", runs)
    for i in range(4):
        Attempt(folder, f"{i}").run()
    drawn = {}
    monkeypatch.setattr(report, "write", lambda comparison, out: drawn.update({out.name: comparison}))
    report.main([str(folder.path), "--out", str(tmp_path / "report")])
    said = capsys.readouterr()
    assert "Skipped: data=a/b,x=2: none of its runs has finished an epoch yet" in said.err
    assert said.out.count("Page:") == 2
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"data=a_b,x=0", "data=a_b,x=1"} == set(drawn)
    assert {run.path.name for run in drawn["data=a_b,x=1"].runs} == {"2", "3"}
    report.main([str(folder.path), "--json"])
    data = json.loads(capsys.readouterr().out)
    assert {variant: [run["seed"] for run in of["runs"]] for variant, of in data.items()} == {
        "data=a/b,x=0": [0, 1],
        "data=a/b,x=1": [2, 3],
    }
