"""One JSON document for each machine: hardware, versions, commit, every row, and what was not run."""

import json
import re
from pathlib import Path
from typing import Any

FORMAT = 1

Document = dict[str, Any]
Row = dict[str, Any]


SETTINGS = ("format", "hardware", "software", "commit", "effort", "threads")
"""Rows belong together if these are the same."""


def new(hardware: dict[str, Any], **settings: Any) -> Document:
    """Without rows.

    Args:
        settings: ``software``, ``commit``, ``date``, ``effort``, ``threads`` and the machine's ``rates``.
    """
    first = {"format": FORMAT, "machine": _machine_line(hardware), "hardware": hardware}
    return {**first, **settings, "rows": [], "not_run": [], "failed": []}


def going_on(earlier: Document | None, document: Document) -> Document:
    """The document with the rows of an earlier one, unless its settings differ."""
    if earlier is None or any(earlier.get(name) != document[name] for name in SETTINGS):
        return document
    return {**document, "rows": earlier["rows"], "not_run": earlier["not_run"]}


def has(document: Document, name: str, rivals: str) -> bool:
    """Whether it has a benchmark's row, with rivals if they are wanted."""
    rows = [row for row in document["rows"] if row.get("benchmark") == name]
    return any(rivals == "without" or row["rivals"] != "without" for row in rows)


def add(document: Document, row: Row) -> None:
    """In the place of an earlier one of the same case."""
    rows = [earlier for earlier in document["rows"] if row_key(earlier) != row_key(row)]
    document["rows"] = [*rows, row]


def write(document: Document, path: Path) -> None:
    """As a whole or not at all, whenever it is stopped."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(document, indent=1) + "\n")
    unfinished.replace(path)


def row_key(row: Row) -> tuple[str, str]:
    """What tells a row from all others."""
    return row["stem"], json.dumps(row["case"], sort_keys=True)


def read(path: Path) -> Document:
    """
    Raises:
        ValueError: it is no such document.
    """
    try:
        document = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError):
        document = None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"{path}: not a result of python -m diamond_fast.bench")
    return document


def read_all(folder: Path) -> dict[str, Document]:
    """Those in a folder, by file name without its ending; other files are passed over."""
    documents = {}
    for path in sorted(folder.glob("*.json")):
        if json.loads(path.read_text()).get("format") == FORMAT:
            documents[path.stem] = read(path)
    return documents


def file_stem(document: Document) -> str:
    """A file name for its machine."""
    hardware = document["hardware"]
    name = hardware["gpu"]["name"] if hardware["gpu"] else f"{hardware['cpu']}-{hardware['cores']}-cores"
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", name.lower())).strip("-")


def _machine_line(hardware: dict[str, Any]) -> str:
    cpu = f"{hardware['cores']} cores of {hardware['cpu']}"
    gpu = hardware["gpu"]
    return f"{gpu['name']}, driver {gpu['driver']}, {cpu}" if gpu else cpu
