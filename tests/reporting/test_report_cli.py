"""``python -m diamond_fast.report``: what it writes, prints and refuses."""

import json
import resource
import subprocess
import sys

import pytest
from PIL import Image
from refusals import one_line_refusal

from diamond_fast import report

pytestmark = pytest.mark.usefixtures("few_samples")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refusal(capsys, *args):
    """The one line that a command line is refused with."""
    return one_line_refusal(capsys, report.main, args)


def test_help_is_instant_and_imports_nothing_heavy():
    program = (
        "import sys\n"
        "from diamond_fast.report import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'gymnasium'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "python -m diamond_fast.report runs/*" in done.stdout


def test_a_report_of_runs(write_run, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    paths = [str(write_run("Pong", seed, final=[14.6] * 100)) for seed in (0, 1)]
    report.main([*paths, "--out", "here/there"])
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["agent", "seeds", "mean", "median", "IQM", "optimality", "gap"]
    assert out.splitlines()[1].split() == [
        "diamond_fast", "2", *["1.000", "[1.00,", "1.00]"] * 3, "0.000", "[0.00,", "0.00]"
    ]  # fmt: skip
    assert "are over 1 game: Pong. Missing: Alien" in out
    assert out.endswith("Page: here/there/index.html\n")
    folder = tmp_path / "here" / "there"
    pictures = {"aggregates.png", "profiles.png", "improvement.png", "games.png", "curves.png"}
    assert {path.name for path in folder.iterdir()} == pictures | {"index.html", "table.tex"}
    for name in pictures:
        with Image.open(folder / name) as picture:
            assert picture.width > 1_500
            assert len(picture.convert("L").resize((64, 64)).getcolors()) > 10  # something is drawn
    page = (folder / "index.html").read_text()
    assert page.count("data:image/svg+xml;base64,PD94bWwg") == 5  # each begins with <?xml


def test_json_draws_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report.main(["--json"])
    data = json.loads(capsys.readouterr().out)
    assert len(data["games"]) == 26
    assert len(data["agents"]) == 17
    assert list(tmp_path.iterdir()) == []


def test_json_beside_a_page(capsys, monkeypatch, tmp_path, write_run):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(report, "write", lambda comparison, out: (out / "index.html").write_text("drawn"))
    report.main([str(write_run("Hero")), "--json", "--out", "page"])
    printed = capsys.readouterr()
    assert json.loads(printed.out)["runs"][0]["game"] == "Hero"
    assert printed.err == "Page: page/index.html\n"
    assert (tmp_path / "page" / "index.html").read_text() == "drawn"


def test_what_is_no_run_is_skipped_with_a_line(capsys, few_samples, tmp_path, write_run):
    (tmp_path / "Pong-profile").mkdir()
    report.main([str(write_run("Hero")), "Pong-profile", "--json"])
    printed = capsys.readouterr()
    assert [run["game"] for run in json.loads(printed.out)["runs"]] == ["Hero"]
    assert printed.err == "Skipped: Pong-profile: not the folder of a run (it has no config.json)\n"


def test_a_full_disk_is_one_line_and_leaves_no_half_file(capsys, few_samples, monkeypatch, tmp_path):
    monkeypatch.setattr("diamond_fast.reporting.figures.draw_all", lambda comparison: {})
    monkeypatch.setattr("diamond_fast.reporting.page.render", lambda comparison, svgs: 5000 * "a page")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("the one before")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # as a full disk, the system refuses
    try:
        line = refusal(capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert line == "report/index.html: File too large"
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["index.html"]
    assert (tmp_path / "report" / "index.html").read_text() == "the one before"


def test_a_reader_that_leaves_is_no_error():
    program = (
        "from diamond_fast.reporting import statistics\n"
        "statistics.MOST_SAMPLES = statistics.FEWEST_SAMPLES = 40\n"
        "from diamond_fast.report import main\n"
        "main(['--json'])\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


def test_missing_matplotlib_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    assert refusal(capsys) == "matplotlib is not installed; pip install 'diamond_fast[report]', or take --json"


def test_bad_input_is_one_line(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert refusal(capsys, "nowhere") == "nowhere: no such folder"
    assert refusal(capsys, "empty") == "empty: not the folder of a run (it has no config.json)"
    assert refusal(capsys, "nowhere", "empty") == "nowhere: no such folder (and 1 more like it)"
    assert refusal(capsys, "--out", "file") == "--out file: is a file; name a folder"
    assert refusal(capsys, "--jsn") == "--jsn: unknown flag; did you mean --json?"
    assert not (tmp_path / "report").exists()
