"""What was measured before: a file in the user's cache folder, so that each kind of work is measured once a machine.

Several processes may read and write it. Of two that measured the same, the first one's word stands, so that both do
the same. A file that cannot be read, or that makes no sense, is as good as none.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path as FilePath
from typing import Any

import torch

from diamond_fast import kernels
from diamond_fast.cache import folder
from diamond_fast.engine.contest import Row, Work
from diamond_fast.engine.path import Path

MOST = 256  # decisions that are kept


def file() -> FilePath:
    """Where decisions are kept."""
    return folder() / "engines.json"


def conditions(work: Work, paths: Sequence[Path]) -> dict[str, Any]:
    """Everything that a measurement depends on."""
    device = work.device
    found: dict[str, Any] = {
        "work": work.fingerprint(),
        "paths": [f"{path.name} {path.dtype} {path.graphs} {path.techniques}" for path in paths],
        "torch": torch.__version__,
        "triton": _version("triton"),
        "diamond_fast": _version("diamond_fast"),
        "build": build(FilePath(__file__).parents[1], FilePath(kernels.__file__).parent),
    }
    if device.type == "cuda":
        name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
        tf32 = torch.backends.cudnn.allow_tf32
        return found | {"device": name, "capability": list(capability), "driver": _driver(), "tf32": tf32}
    return found | {"device": _processor(), "threads": torch.get_num_threads()}


def find(conditions: dict[str, Any]) -> list[Row] | None:
    """The rows that were kept under these conditions."""
    entry = _read().get(_key(conditions))
    if not isinstance(entry, dict) or entry.get("conditions") != json.loads(json.dumps(conditions)):
        return None
    try:
        return [Row(**row).checked() for row in entry["rows"]]
    except (KeyError, TypeError, ValueError):
        return None


def keep(conditions: dict[str, Any], rows: Sequence[Row]) -> list[Row]:
    """Keeps rows, unless another process was faster: returns what is kept. A folder one cannot write to is no harm."""
    path = file()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (others := find(conditions)) is not None:
                return others
            entries = _read() | {_key(conditions): {"conditions": conditions, "rows": [asdict(row) for row in rows]}}
            content = json.dumps({"format": 1, "decisions": dict(list(entries.items())[-MOST:])}, indent=1)
            partial = path.with_suffix(".partial")
            partial.write_text(content + "\n")
            os.replace(partial, path)
    return list(rows)


def _read() -> dict[str, Any]:
    try:
        content = json.loads(file().read_bytes())
        decisions = content["decisions"] if content["format"] == 1 else {}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}
    return decisions if isinstance(decisions, dict) else {}


def _key(conditions: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:24]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@lru_cache
def build(extensions: FilePath, kernels: FilePath) -> str:
    """A digest of the extensions and the kernels in two folders: the same version can be built anew, or edited."""
    digest = hashlib.sha256()
    for part in (*sorted(extensions.glob("*.so")), *sorted(kernels.glob("*.py")), *sorted(kernels.glob("*.cu"))):
        digest.update(part.name.encode() + hashlib.sha256(part.read_bytes()).digest())
    return digest.hexdigest()[:12]


def _driver() -> str | None:
    with suppress(OSError):
        return FilePath("/proc/driver/nvidia/version").read_text().partition("\n")[0]
    return None


def _processor() -> str:
    """The model, and a digest of what it can do."""
    with suppress(OSError):
        first = FilePath("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
        said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first)}
        can = said.get("flags") or said.get("Features") or ""
        return f"{said.get('model name', 'processor')} {hashlib.sha256(can.encode()).hexdigest()[:8]}"
    return torch.backends.cpu.get_cpu_capability()
