"""Plots hold the numbers they should, each at its step and at its time."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import diamond_fast
from diamond_fast.runs.plots import BASELINE, points, save_error_curves, save_learning_curves

LINES = [
    {"epoch": 0, "env_steps": 200, "seconds": 30.0, "collect/return_mean": -3.0},
    {"epoch": 1, "env_steps": 300, "seconds": 90.0, "collect/return_mean": -2.0, "denoiser/loss": 0.5},
    {
        "epoch": 2,
        "env_steps": 400,
        "seconds": 150.0,
        "denoiser/loss": 0.2,
        "denoiser/held_out_loss": 0.3,
        "actor_critic/policy_entropy_bits": 1.5,
        "test/return_mean": -1.0,
        "test/return_ci95": 0.5,
    },
    {"epoch": 2, "env_steps": 400, "seconds": 240.0, "final_test/return_mean": 1.0, "final_test/return_ci95": None},
]


@pytest.fixture
def drawn(monkeypatch):
    """Figures that are saved, after they were."""
    figures, save = [], Figure.savefig

    def savefig(figure, *args, **kwargs):
        save(figure, *args, **kwargs)
        figures.append(figure)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


def curves_of(ax):
    """Every line with its points; an error bar's are those of its markers."""
    return [
        np.column_stack(line.get_data()).astype(float).tolist() for line in ax.lines if line.get_marker() not in "_|"
    ]


def test_learning_curves_by_steps_and_by_wall_clock(tmp_path, drawn):
    path = save_learning_curves(tmp_path / "curves.png", LINES)
    assert Image.open(path).format == "PNG"
    [figure] = drawn
    (returns, returns_by_time), (loss, loss_by_time), (entropy, _) = np.array(figure.axes).reshape(-1, 2)
    assert curves_of(returns) == [[[200, -3], [300, -2]], [[400, -1]], [[400, 1]]]
    assert curves_of(returns_by_time) == [[[0.5, -3], [1.5, -2]], [[2.5, -1]], [[4, 1]]]
    assert curves_of(loss) == [[[300, 0.5], [400, 0.2]], [[400, 0.3]]]
    assert curves_of(loss_by_time) == [[[1.5, 0.5], [2.5, 0.2]], [[2.5, 0.3]]]
    assert curves_of(entropy) == [[[400, 1.5]]]
    intervals = [bars.get_segments()[0] for bars in returns.collections]
    np.testing.assert_allclose(intervals, [[[400, -1.5], [400, -0.5]], [[400, 1], [400, 1]]])
    assert [ax.get_xlabel() for ax in figure.axes[-2:]] == ["environment steps", "minutes"]


def test_a_run_from_a_recording_is_drawn_over_the_clock_alone(tmp_path, drawn):
    save_learning_curves(tmp_path / "curves.png", [{**line, "env_steps": 300} for line in LINES])
    assert [ax.get_ylabel() for ax in drawn[0].axes] == ["return", "denoiser loss", "policy entropy (bits)"]
    assert drawn[0].axes[-1].get_xlabel() == "minutes"
    assert curves_of(drawn[0].axes[1]) == [[[1.5, 0.5], [2.5, 0.2]], [[2.5, 0.3]]]


def test_long_runs_are_drawn_in_hours(tmp_path, drawn):
    save_learning_curves(tmp_path / "curves.png", [{**LINES[0], "seconds": 7200.0}])
    assert drawn[0].axes[1].get_xlabel() == "hours"
    assert curves_of(drawn[0].axes[1])[0] == [[2, -3]]


def test_a_run_that_has_logged_nothing_yet_can_be_drawn(tmp_path):
    assert Image.open(save_learning_curves(tmp_path / "curves.png", [])).size[0] > 500


def test_points_skip_lines_without_the_figure():
    x, y = points([{"t": 2, "a": 1}, {"t": 4}, {"t": 6, "a": None}, {"t": 8, "a": 3}], "a", "t", 2.0)
    assert (x.tolist(), y.tolist()) == ([1, 4], [1, 3])


def test_error_curves_have_their_intervals(tmp_path, drawn):
    curves = {
        "3 denoising steps": np.array([[1, 2, 4], [0.5, 0.5, 1]]),
        BASELINE: np.array([[3, 3, 3], [math.nan] * 3]),
    }
    path = save_error_curves(tmp_path / "errors.png", curves, "Catch")
    assert Image.open(path).format == "PNG"
    [ax] = drawn[0].axes
    assert curves_of(ax) == [[[1, 1], [2, 2], [3, 4]], [[1, 3], [2, 3], [3, 3]]]
    corners = {tuple(v) for v in ax.collections[0].get_paths()[0].vertices}
    assert {(1, 0.5), (1, 1.5), (2, 1.5), (2, 2.5), (3, 3.0), (3, 5.0)} <= corners
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["3 denoising steps", "last real frame"]
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--"]


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "svg"])
def test_a_notebooks_backend_need_not_be_installed(backend):
    """As set in a shell that a notebook has opened: importing matplotlib itself fails on it."""
    program = (
        "import os, sys\n"
        "from diamond_fast.drawing import Figure\n"
        "Figure().subplots().figure.savefig(os.devnull, format='png')\n"
        "import matplotlib\n"
        "print(matplotlib.rcParams._get('backend') == 'svg', os.environ['MPLBACKEND'])\n"
    )
    environment = {**os.environ, "MPLBACKEND": backend}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.split() == [str(backend == "svg"), backend]  # one that is there stays chosen


def test_matplotlib_is_imported_in_one_place():
    package = Path(diamond_fast.__file__).parent
    imports = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(r"^\s*(import|from) matplotlib", path.read_text(), re.MULTILINE)
    ]
    assert imports == ["drawing.py"]
