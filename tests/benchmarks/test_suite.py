"""The command line, and benchmarks at their smallest: a broken one fails here, a slow one does not."""

import json
import os
import re
import signal
import subprocess
import sys
import threading

import pytest
import suite
from refusals import one_line_refusal

from diamond_fast import bench


def refused(capsys, *args: str) -> str:
    return one_line_refusal(capsys, bench.main, args)


def test_bad_input_is_one_line(capsys, tmp_path):
    assert "--only denoise: no such benchmark; one of" in refused(capsys, "--only", "denoise")
    assert "--quick and --render-only: take one of the two" in refused(capsys, "--quick", "--render-only")
    assert "--minutes -1.0: expected a number above 0" in refused(capsys, "--minutes", "-1")
    missing = str(tmp_path / "a.json")
    assert f"--compare {missing}: no such file" in refused(capsys, "--compare", missing, missing)
    (tmp_path / "a.json").write_text("{}")
    assert "not a result of" in refused(capsys, "--compare", missing, missing)
    assert f"--out {missing}: is a file" in refused(capsys, "--out", missing)


def test_a_missing_package_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(bench, "find_spec", lambda name: None if name == "pytest_benchmark" else object())
    assert "pytest-benchmark is not installed; pip install -e '.[dev]'" in refused(capsys, "--quick")


def test_an_installation_without_the_benchmarks_says_so(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "BENCHMARKS", tmp_path / "benchmarks")
    expected = "the benchmarks are not part of an installation: clone the project and pip install -e '.[dev]'"
    assert refused(capsys, "--render-only") == refused(capsys, "--compare", "a", "b") == expected


def test_help_needs_no_torch():
    code = (
        "import sys; from diamond_fast import bench\n"
        "try: bench.main(['--help'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "False"


ALL = sorted(p.stem.removeprefix("test_") for p in suite.BENCHMARKS.glob("test_*.py"))


def measured(folder, names, expected):
    """All of these benchmarks worked. Returns the document's rows."""
    assert suite.measure(folder, "tiny", [suite.benchmark_file(name) for name in names]) == 0
    (path,) = folder.glob("*.json")
    document = json.loads(path.read_text())
    assert document["failed"] == []
    assert {row["stem"] for row in document["rows"]} >= expected
    for row in document["rows"]:
        assert row["ours"] in row["figures"]
        assert all(figure["median"] > 0 for figure in row["figures"].values())
    assert (folder / "benchmarks.md").stat().st_size > 1000
    return document["rows"]


def test_what_was_measured_before_ctrl_c_is_written_and_gone_on_from(tmp_path, capfd):
    command = [sys.executable, "-u", "-m", "diamond_fast.bench", "--tiny", "--out", str(tmp_path)]
    command += ["--only", "startup", "checkpoint"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    with subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert any("PASSED" in line for line in process.stdout)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert err.endswith("Stopped; what was measured until then is written, and the same command goes on\n")
    (path,) = tmp_path.glob("*.json")
    before = json.loads(path.read_text())["rows"]
    assert before
    rows = measured(tmp_path, ["startup", "checkpoint"], {"start-up", "checkpoint"})
    assert [row for row in rows if row in before] == before  # with the time each took: not measured again
    done = capfd.readouterr().out
    assert " PASSED" in done
    assert not any(row["benchmark"].rpartition(":")[2] + " PASSED" in done for row in before)


WRITES_ONCE_TOLD = """
import signal, sys, time
def write(number, frame):
    print("written", file=sys.stderr, flush=True)
    time.sleep({seconds})
    sys.exit(2)
signal.signal(signal.SIGINT, write)
print("begun", file=sys.stderr, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("told", "seconds", "code"), [
    ([signal.SIGINT], 0, 2), ([signal.SIGTERM], 0, 2), ([signal.SIGHUP], 0, 2),
    ([signal.SIGTERM, signal.SIGTERM], 60, -signal.SIGKILL),
])  # fmt: skip
def test_whoever_is_told_to_stop_tells_pytest_once(tmp_path, monkeypatch, capfd, told, seconds, code):
    """Not only Ctrl-C, which a terminal sends to both. A second time ends it at once: rows are written already."""
    monkeypatch.setattr(suite, "PYTEST", (sys.executable, "-S", "-c", WRITES_ONCE_TOLD.format(seconds=seconds)))
    heard = []

    def tell():
        for word, number in zip(("begun", "written"), told, strict=False):
            while word not in heard:
                heard.extend(capfd.readouterr().err.split())
            os.kill(os.getpid(), number)

    at_hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has these tests ignore it
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=tell)
    thread.start()
    try:
        assert suite.run_suite(tmp_path, "tiny", [], None) == (code, True)
        thread.join()
    finally:
        signal.signal(signal.SIGHUP, at_hangup)
    heard += capfd.readouterr().err.split()
    assert heard == ["begun", "written"]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow  # a rehearsal runs them, too
def test_every_benchmark_works(tmp_path):
    measured(tmp_path, ALL, {"denoiser", "imagined step", "imagined rollout", "update", "epoch", "checkpoint"})


def test_what_does_not_fit_into_the_time_is_listed(tmp_path, capfd):
    assert suite.measure(tmp_path, "quick", [suite.benchmark_file("startup")], minutes=0.02) == 0
    (path,) = tmp_path.glob("*.json")
    document = json.loads(path.read_text())
    assert document["rows"] == []
    (left_out,) = document["not_run"]
    assert left_out["benchmark"] == "test_start_up"
    assert re.fullmatch(r"takes about \d+ s here, for which 0.02 minutes left no time", left_out["reason"])
    assert "Planned: 0 benchmarks in about" in capfd.readouterr().out
    assert left_out["reason"] in (tmp_path / "benchmarks.md").read_text()
