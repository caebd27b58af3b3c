"""Who may import whom: arrows point down, there is no cycle between packages, and no file grows too long."""

import ast
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
MOST_LINES = 500
FOLDERS = ("diamond_fast", "kernels", "csrc", "benchmarks", "tests", "examples")
SOURCES = {".py", ".cpp", ".hpp", ".c", ".js", ".css", ".html", ".sh"}

# From the bottom up. A module's layer is that of its longest prefix here; it may import its own layer and those below.
LAYERS = [
    [
        "_replay",
        "_cpu",
        "one_line",
        "openmp",
        "arguments",
        "area",
        "control_groups",
        "drawing",
        "devices",
        "settings",
        "spec",
        "threads",
        "timing",
    ],
    ["controls", "cache"],
    ["registry"],
    [
        "networks.config",
        "networks.unet.config",
        "networks.cross_attention.config",
        "networks.dit.config",
        "networks.unet3d.config",
        "networks.reward_end.config",
        "networks.actor_critic.config",
        "networks.recurrent.config",
    ],
    ["formulations.config"],
    ["config", "recording_presets", "architecture_presets", "domains.atari.games", "torch_file"],
    ["frames"],
    ["networks", "formulations"],
    ["kernels"],
    [
        "formulations.edm_fused",
        "formulations.linear_fused",
        "world_model",
        "upsampling",
        "distillation",
        "consistency",
        "remembering",
        "official",
        "exporting",
    ],
    ["runs"],
    ["replay"],
    ["engine"],
    ["envs", "domains"],
    ["envs.of_agent"],
    ["presets", "config_checks"],
    ["evaluation"],
    ["training"],
    ["playing", "reporting", "health", "speed", "estimate"],
    ["studies", "sweeps"],
    # Command lines, and the public names.
    [
        "",
        "cli",
        "browser",
        "agent_flags",
        "gymnasium_envs",
        "hub",
        "train",
        "play",
        "evaluate",
        "report",
        "study",
        "sweep",
        "doctor",
        "bench",
        "record",
        "five_actions",
        "replay.__main__",
    ],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


class Arrow(NamedTuple):
    """An import: who, whom, and the place where it says so. Names are without ``diamond_fast.``."""

    importer: str
    imported: str
    place: str


def modules() -> dict[str, Path]:
    """Every module, by its name without ``diamond_fast.``."""
    found = {}
    for folder, prefix in ((ROOT / "diamond_fast", ""), (ROOT / "kernels", "kernels")):
        for path in folder.rglob("*.py"):
            parts = [*prefix.split(), *path.relative_to(folder).with_suffix("").parts]
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


def arrows(importer: str, path: Path, known: set[str]) -> list[Arrow]:
    """All imports of this project's modules in a file, those inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, module = name.partition(".")
            if package == "diamond_fast":
                imported = module if module in known else module.rpartition(".")[0]
                found.append(Arrow(importer, imported, f"{path.relative_to(ROOT)}:{node.lineno}"))
    return found


def layer_name(module: str) -> str:
    """The longest prefix that stands in LAYERS."""
    while module not in RANK:
        assert module, "a new module: give it a layer"
        module = module.rpartition(".")[0]
    return module


def all_arrows() -> list[Arrow]:
    found = modules()
    known = {*found, "_replay", "_cpu"}
    return [arrow for name, path in found.items() for arrow in arrows(name, path, known)]


def test_arrows_point_down():
    upward = [
        f"{arrow.place}: {arrow.importer} imports {arrow.imported}"
        for arrow in all_arrows()
        if RANK[layer_name(arrow.imported)] > RANK[layer_name(arrow.importer)]
    ]
    assert not upward, "\n".join(upward)


def test_packages_form_no_cycle():
    graph: dict[str, set[str]] = {}
    for arrow in all_arrows():
        importer, imported = layer_name(arrow.importer), layer_name(arrow.imported)
        if importer != imported:
            graph.setdefault(importer, set()).add(imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_every_package_is_installed():
    """The list in pyproject.toml is what an installation has."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "diamond_fast").rglob("__init__.py")}
    assert listed == sorted({".".join(folder.parts) for folder in folders} | {"diamond_fast.kernels"})


def test_no_file_is_too_long():
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SOURCES]
    lengths = {path.relative_to(ROOT): path.read_text().count("\n") for path in files}
    assert not [f"{path}: {length} lines" for path, length in lengths.items() if length > MOST_LINES]
