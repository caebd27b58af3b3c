"""The notebook runs from its first cell to its last, at its tiny size."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "catch.ipynb"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOTEBOOK_SIZE", "tiny")
    monkeypatch.setenv("NOTEBOOK_RUN", str(tmp_path / "run"))


@pytest.mark.slow
def test_its_cells_one_after_the_other(capsys):
    names: dict = {"__name__": "__main__"}
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not [cell for cell in cells if cell.get("outputs")]
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    out = capsys.readouterr().out
    assert "Return: " in out
    assert names["film"].shape == (4, 24, 9 * 24, 3)
    assert names["difference"] < 13  # grey levels: an engine in bfloat16 may be that far off in a frame of noise
    assert names["frame"].std() > 0


@pytest.mark.slow
def test_it_runs_in_jupyter():
    nbclient = pytest.importorskip("nbclient", reason="needs pip install nbclient ipykernel")
    pytest.importorskip("ipykernel", reason="needs pip install nbclient ipykernel")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600).execute()
    text = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "largest difference: " in text
    assert any("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", []))
