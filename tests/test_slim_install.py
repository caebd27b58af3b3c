"""An installation without matplotlib, Pillow and huggingface_hub trains, and says what it goes without."""

import ast
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from crashes.tiny_run import TINY

from diamond_fast import train

TESTS = Path(__file__).parent
PROGRAM = """
import sys
for package in ("matplotlib", "PIL", "huggingface_hub"):
    sys.modules[package] = None
sys.path.insert(0, sys.argv[1])
from dataclasses import replace
from crashes.tiny_run import TINY
import diamond_fast
for name in diamond_fast.__all__:
    getattr(diamond_fast, name)
from diamond_fast import hub, play, study, train
train.PRESETS["quick"] = replace(TINY, evaluation=replace(TINY.evaluation, every=1))
train.main(["--preset", "quick", "--env-id", TINY.env_id, "--out", "run"])
for program, flags in (
    (study, "drift --data run --quick --denoising-steps 1"),
    (play, "--pretrained Boxing"),
    (hub, "push run --repo me/run"),
):
    try:
        program.main(flags.split())
    except SystemExit as stop:
        print(program.__name__, stop.code)
"""


PACKAGES = ("matplotlib", "PIL", "huggingface_hub")
DRAWING = {"drawing", "evaluation/fixed_actions_picture"}
"""Modules that import them at once, and are imported where something is drawn."""


def test_only_what_draws_imports_them_at_once():
    package = TESTS.parent / "diamond_fast"
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if {name.partition(".")[0] for name in names} & set(PACKAGES):
                found.add(path.relative_to(package).with_suffix("").as_posix())
    assert found == DRAWING


def test_training_says_what_it_does_not_draw(tmp_path, monkeypatch, capsys):
    for name in (*PACKAGES, "diamond_fast.drawing"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(train.PRESETS, "quick", replace(TINY, evaluation=replace(TINY.evaluation, every=2)))
    train.main(["--preset", "quick", "--env-id", str(TINY.env_id), "--out", "run"])
    out = capsys.readouterr().out
    assert "Return: " in out
    assert "Not drawn: import of PIL halted" in out
    assert "Not drawn: import of diamond_fast.drawing halted" in out
    assert not [*(tmp_path / "run" / "pictures").glob("*.png"), *(tmp_path / "run" / "pictures").glob("*.gif")]


@pytest.mark.slow
@pytest.mark.timeout(600)  # a process of its own, on a machine that may be busy
def test_it_trains_and_draws_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, TESTS], cwd=tmp_path, capture_output=True, text=True, timeout=550
    )
    assert done.returncode == 0, done.stderr
    assert "Return: " in done.stdout
    assert "Not drawn: import of PIL halted" in done.stdout
    assert "Not drawn: import of matplotlib halted" in done.stdout
    assert not [*(tmp_path / "run" / "pictures").glob("*.png"), *(tmp_path / "run" / "pictures").glob("*.gif")]
    for program in ("study", "play", "hub"):
        assert f"diamond_fast.{program} 2" in done.stdout
    assert done.stderr.splitlines() == [
        f"{package} is not installed, and needed here; pip install {package}"
        for package in ("matplotlib", "huggingface_hub", "huggingface_hub")
    ]
