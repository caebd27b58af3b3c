"""What is handed out: the source distribution holds every tracked file that building and testing need."""

import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"benchmarks", "csrc", "diamond_fast", "docker", "docs", "examples", "kernels", "tests"}
FILES = {"LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "pyproject.toml", "setup.py"}


def test_the_source_distribution_is_complete(tmp_path):
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no checkout: nothing says which files belong to it")
    tracked = {path for path in listed.stdout.split("\0") if (ROOT / path).is_file()}
    expected = {path for path in tracked if path.partition("/")[0] in FOLDERS} | FILES
    command = f"-q egg_info --egg-base {tmp_path} sdist --dist-dir {tmp_path} --formats tar"
    subprocess.run([sys.executable, "setup.py", *command.split()], cwd=ROOT, check=True, capture_output=True, text=True)
    (archive,) = tmp_path.glob("*.tar")
    with tarfile.open(archive) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    assert expected - held == set()
    assert not [name for name in held if name.endswith((".so", ".pyc"))]


def test_every_package_is_installed():
    """One that setuptools is not told of would be missing from wheels alone."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in ROOT.glob("diamond_fast/**/*.py")}
    assert found | {"diamond_fast.kernels"} == set(settings["packages"])
