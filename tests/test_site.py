"""The site of the documents: every public name is explained, every link leads somewhere."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import diamond_fast

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def test_every_public_name_is_explained():
    shown = re.findall(r"^::: diamond_fast\.([\w.]+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    constants = {"PRESETS"}
    assert set(diamond_fast.__all__) - constants <= {name.rpartition(".")[2] for name in shown}
    for name in shown:
        module, _, attribute = name.rpartition(".")
        path = ROOT / "diamond_fast" / module.replace(".", "/")
        source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
        assert re.search(rf"\b{attribute}\b", source), name


@pytest.mark.slow
def test_it_is_built_and_no_link_is_broken(tmp_path):
    if find_spec("mkdocs") is None or find_spec("mkdocstrings") is None:
        pytest.skip("needs pip install 'diamond_fast[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Draws next frames from a denoiser" in (tmp_path / "site" / "api" / "index.html").read_text()
