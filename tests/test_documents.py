"""README's map and table, CONTRIBUTING and CHANGELOG speak of what is there."""

import ast
import re
from pathlib import Path

import pytest

import diamond_fast
from diamond_fast.world_model import Sampler

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ROWS = re.findall(r"^\| (.*?) \| (.*?) \|$", README.partition("| to change | edit |\n| --- | --- |\n")[2], re.MULTILINE)


def is_there(path: str) -> bool:
    return any((folder / path).exists() for folder in (ROOT, ROOT / "diamond_fast"))


def names_in(path: Path) -> set[str]:
    """Functions and classes, and methods as Class.method."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return found


def test_there_are_rows():
    assert len(ROWS) >= 8


@pytest.mark.parametrize(("what", "where"), ROWS)
def test_what_to_edit_is_there(what, where):
    for path in re.findall(r"`([\w/]+(?:\.\w+|/))`", where):
        if "/" in path or path.endswith((".py", ".cpp")):
            assert is_there(path), path
    for name, path in re.findall(r"`([\w.]+)` in `([\w/.]+)`", where):
        assert name in names_in(ROOT / "diamond_fast" / path), f"{name} in {path}"


def test_the_map_is_of_the_tree():
    tree = re.search(r"^```text\ndiamond_fast/\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[1]
    for line in tree.splitlines():
        paths = re.findall(r"[\w/]+(?:\.(?:py|cpp|md)|/)", line)
        for path in paths:
            inside = re.match(r"\s*(\w+/)", line)
            assert is_there(path) or (inside and is_there(inside[1] + path)), path


def test_the_loop_that_draws_frames_is_one(monkeypatch):
    """The row of the table: what is changed in it changes the plain sampler and FastDenoiser alike."""
    import torch
    from small_world import SMALL_WORLD, make_agent

    agent = make_agent()
    monkeypatch.setattr(Sampler, "sample", lambda self, context, act, noise: [torch.full((1, 3, 8, 8), 0.25)])
    obs, act = torch.zeros(1, 4, 3, 8, 8), torch.zeros(1, 4, dtype=torch.int64)
    for sampler in (
        diamond_fast.DiffusionSampler(agent.denoiser, SMALL_WORLD.world_model.sampler),
        diamond_fast.FastDenoiser(agent.denoiser, SMALL_WORLD.world_model.sampler),
    ):
        assert (sampler.sample(obs, act)[0] == 0.25).all()


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(name):
    page = ROOT / name
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_sizes_and_versions():
    assert len(README.splitlines()) <= 200
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 100
    assert f"\nversion: {diamond_fast.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {diamond_fast.__version__} " in (ROOT / "CHANGELOG.md").read_text()
