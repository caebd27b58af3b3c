"""What workflows and Dockerfiles run is there: nobody sees them fail before they are needed."""

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")  # comes with huggingface_hub

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def check(command: str) -> None:
    """Extras, tests and modules that a command names are there."""
    for extra in re.findall(r"(?:\.|wheel)\[([\w,]+)\]", command):
        assert set(extra.split(",")) <= set(EXTRAS), command
    for path in re.findall(r"\b(?:tests|docs|benchmarks|docker)/[\w/.]+", command):
        assert (ROOT / path).exists(), command
    for module in re.findall(r'-m",? "?(diamond_fast\.\w+)', command):
        assert find_spec(module), command


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow[True]  # which YAML takes "on" for
    for job in workflow["jobs"].values():
        assert job["runs-on"]
        for step in job["steps"]:
            assert len({"uses", "run"} & set(step)) == 1
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@v\d[\d.]*", step["uses"])
            else:
                check(step["run"])


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_dockerfiles(path):
    text = path.read_text()
    assert f"docker build -f docker/{path.name} " in text
    stages = set(re.findall(r"^FROM \S+ AS (\w+)$", text, re.MULTILINE))
    for source, what in re.findall(r"^COPY (?:--from=(\w+) )?(\S+) ", text, re.MULTILINE):
        assert source in stages if source else (ROOT / what).exists()
    check(text)


def test_a_command_that_names_what_is_not_there_is_found():
    for command in ("pip install .[deb]", "pytest tests/test_notebok.py", 'CMD ["python", "-m", "diamond_fast.doctr"]'):
        with pytest.raises(AssertionError):
            check(command)


def test_the_notebook_runs_in_a_workflow():
    assert any("tests/test_notebook.py" in path.read_text() for path in WORKFLOWS)
