"""One JSON document for each machine: hardware, versions, commit, every row, and what was not run."""

import json
import re
from pathlib import Path
from typing import Any

FORMAT = 1

Document = dict[str, Any]
Row = dict[str, Any]


def from_pytest(report: dict[str, Any]) -> Document:
    """From what pytest-benchmark wrote, with what ``benchmarks/conftest.py`` added to it."""
    suite, cpu = report["suite"], report["machine_info"]["cpu"]
    hardware = {"cpu": cpu.get("brand_raw", "unknown processor"), "cores": cpu["count"], "gpu": suite["gpu"]}
    return {
        "format": FORMAT,
        "machine": _machine_line(hardware),
        "hardware": hardware,
        "software": {"python": report["machine_info"]["python_version"], **suite["software"]},
        "commit": {name: report["commit_info"].get(name) for name in ("id", "dirty")},
        "date": report["datetime"],
        "effort": suite["effort"],
        "threads": suite["threads"],
        "rates": suite["rates"],
        "rows": [b["extra_info"]["row"] for b in report["benchmarks"] if "row" in b["extra_info"]],
        "not_run": suite["not_run"],
        "failed": suite["failed"],
    }


def merged(earlier: Document, later: Document) -> Document:
    """Parts of a suite that were run one after the other: the later one's rows replace the earlier one's.

    If commit, machine or effort differ, the earlier one is dropped.
    """
    if any(earlier.get(name) != later[name] for name in ("format", "hardware", "software", "commit", "effort")):
        return later
    new = {row_key(row) for row in later["rows"]}
    rows = [row for row in earlier["rows"] if row_key(row) not in new] + later["rows"]
    run = {entry["benchmark"] for entry in later["not_run"]}
    not_run = [entry for entry in earlier["not_run"] if entry["benchmark"] not in run] + later["not_run"]
    return {**later, "rows": rows, "not_run": not_run}


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
