"""The page of a run: what it shows, that it follows the run, and that it touches nothing else."""

import json
import re

import pytest

from diamond_fast.config import RunConfig
from diamond_fast.runs.folder import RunFolder
from diamond_fast.runs.page import curve, write_page

LINES = [
    {"epoch": 1, "env_steps": 1000, "seconds": 61.0, "denoiser/loss": 4.0, "denoiser/seconds": 30.0},
    {"epoch": 2, "env_steps": 1200, "seconds": 125.0, "denoiser/loss": 1.0, "denoiser/seconds": 15.0},
    {"epoch": 3, "env_steps": 1400, "seconds": 180.0, "denoiser/loss": 2.0, "collect/seconds": 15.0},
]


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run", RunConfig(game="Boxing"))


def log(folder, lines):
    folder.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_before_the_first_epoch_there_is_a_page(folder):
    page = write_page(folder, "Boxing")
    assert page == folder.page
    text = page.read_text()
    assert "<h1>Boxing</h1>" in text
    assert "No epoch is done yet" in text
    assert "<img" not in text
    assert "<svg" not in text


def test_pictures_curves_and_phases(folder):
    log(folder, LINES)
    for name in ("strip.png", "imagined.gif", "epoch_000002.png", "epoch_000003.png", "learning_curves.png"):
        (folder.pictures / name).touch()
    text = write_page(folder, "Boxing").read_text()
    shown = re.findall(r'<img src="([^?"]+)\?\d+"', text)
    assert shown == ["strip.png", "imagined.gif", "epoch_000003.png"]
    assert 'href="learning_curves.png"' in text
    assert "3 epochs and 1400 real steps in 3 min 00 s" in text
    assert text.count("<svg") == 1  # nothing else was logged
    assert "width: 75.0%" in text  # 45 of 60 seconds for the denoiser
    assert text.index("<td>denoiser</td>") < text.index("<td>collect</td>")
    assert "width: 25.0%" in text


def test_a_curve_is_drawn_from_its_greatest_to_its_least_value():
    drawn = curve("loss", [4.0, None, 1.0, float("nan"), 2.0])
    assert 'points="0.0,0.0 140.0,80.0 280.0,53.3"' in drawn  # 280 x 80 pixels, y downwards
    assert "loss, from 4 to 2" in drawn
    assert curve("loss", [None, None]) == ""
    assert 'points="0.0,0.0"' in curve("loss", [3.0])


def test_an_open_page_follows_until_the_run_ends(folder):
    first = write_page(folder, "Boxing").read_text()
    assert "newest !== 1)" in first
    assert (folder.pictures / "version.js").read_text() == "newest = 1;\n"
    assert "newest !== 2)" in write_page(folder, "Boxing").read_text()
    assert "<script" not in write_page(folder, "Boxing", ended=True).read_text()
    assert (folder.pictures / "version.js").read_text() == "newest = 3;\n"  # open pages load the last one


def test_a_damaged_version_begins_anew(folder):
    (folder.pictures / "version.js").write_text("alert(1)")
    write_page(folder, "Boxing")
    assert (folder.pictures / "version.js").read_text() == "newest = 1;\n"


def test_names_are_text(folder):
    log(folder, [LINES[0] | {"<i>/seconds": 1.0}])
    text = write_page(folder, "<b>&").read_text()
    assert "<b>" not in text
    assert "<i>" not in text
    assert "&lt;b&gt;&amp;" in text


def test_links_are_replaced_and_not_followed(folder, tmp_path):
    """A folder made by somebody else could hold them."""
    kept = tmp_path / "kept"
    kept.write_text("mine")
    for name in ("index.html", "version.js", "index.html.partial"):
        (folder.pictures / name).symlink_to(kept)
    write_page(folder, "Boxing")
    assert kept.read_text() == "mine"
    assert not folder.page.is_symlink()
