"""Figures of a run: one JSON object per line, and a live dashboard as well if one is wanted."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from diamond_fast.runs.durable import errors_of, strict_json, write_durably

Logger = Literal["none", "tensorboard", "wandb"]
MOST = 2**53
"""Greatest number of epochs, steps or seconds: one beyond is damage, and would not fit where they are drawn."""


class Dashboard(Protocol):
    """Where scalars go in addition to the file."""

    def log(self, epoch: int, scalars: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class Metrics:
    """Appends to ``metrics.jsonl``; every line has ``epoch``, ``env_steps`` and ``seconds`` of training so far.

    Args:
        path: the file. Its folder names the run on a dashboard.
        keep_epochs: where a resumed run stands; later lines are dropped, since those epochs will be logged again.
            A new run keeps none.
        logger: dashboard to feed too.
        settings: shown with the run on a dashboard.

    Raises:
        ValueError: the dashboard's package is not installed; the message says how to.
    """

    def __init__(
        self, path: Path, keep_epochs: int = -1, logger: Logger = "none", settings: Mapping[str, Any] | None = None
    ):
        self._dashboard = open_dashboard(logger, path.parent, keep_epochs, dict(settings or {}))
        lines = [_read_line(raw) for raw in path.read_bytes().splitlines()] if path.exists() else []
        if damaged := [str(number) for number, line in enumerate(lines, start=1) if line is None]:
            print(f"{path}: left out what is damaged, line {', '.join(damaged)}", flush=True)
        kept = [line for line in lines if line is not None and line["epoch"] <= keep_epochs]
        write_durably(path, "".join(strict_json(line) + "\n" for line in kept).encode())
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (open for as long as the run)
        self._started = time.monotonic() - (kept[-1]["seconds"] if kept else 0.0)

    def log(self, values: Mapping[str, Any], *, epoch: int, env_steps: int) -> None:
        """Write one line, visible to readers at once.

        Args:
            values: numbers, strings, None, lists, 0-d tensors; nested mappings become ``outer/inner``.
                nan and the infinities, which JSON does not know, are written as null.
        """
        seconds = round(time.monotonic() - self._started, 3)
        line = {"epoch": epoch, "env_steps": env_steps, "seconds": seconds, **plain(flat(values, "/"))}
        left = (strict_json(line) + "\n").encode()
        with errors_of(Path(self._file.name)):
            while left:
                left = left[self._file.write(left) :]
        if self._dashboard is not None:
            scalars = {key: value for key, value in line.items() if isinstance(value, int | float)}
            self._dashboard.log(epoch, scalars)

    def close(self) -> None:
        self._file.close()
        if self._dashboard is not None:
            self._dashboard.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``, without those that a crash cut short or that are damaged beyond reading."""
    return [line for line in map(_read_line, path.read_bytes().splitlines()) if line is not None]


def _read_line(raw: bytes) -> dict[str, Any] | None:
    try:
        line = plain(json.loads(raw))  # Python reads NaN and 1e999, too
    except (ValueError, RecursionError):
        return None
    match line:
        case {"epoch": int(epoch), "env_steps": int(env_steps), "seconds": int() | float() as seconds}:
            return line if all(0 <= number < MOST for number in (epoch, env_steps, seconds)) else None
    return None


def classification(confusion: np.ndarray, names: Sequence[str]) -> dict[str, float | None]:
    """Precision, recall and F1 of each class.

    Args:
        confusion: counts [K, K]; rows are true classes, columns predicted ones.
        names: of the K classes.

    Returns:
        ``{"precision/<name>": ..., "recall/<name>": ..., "f1/<name>": ...}``; None if a class was never
        predicted (precision), never occurred (recall) or neither (F1).

    Raises:
        ValueError: the matrix is not square or the names do not match it.
    """
    confusion = np.asarray(confusion, dtype=np.int64)
    if confusion.shape != (len(names), len(names)):
        raise ValueError(f"confusion: shape {confusion.shape} does not fit {len(names)} names")
    hits, occurred, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    scores: dict[str, float | None] = {}
    for name, hit, true, guessed in zip(names, hits.tolist(), occurred.tolist(), predicted.tolist(), strict=True):
        scores[f"precision/{name}"] = hit / guessed if guessed else None
        scores[f"recall/{name}"] = hit / true if true else None
        scores[f"f1/{name}"] = 2 * hit / (true + guessed) if true + guessed else None
    return scores


def open_dashboard(logger: Logger, folder: Path, keep_epochs: int, settings: dict[str, Any]) -> Dashboard | None:
    """The dashboard of that name; None for "none".

    Raises:
        ValueError: its package is not installed.
    """
    if logger == "none":
        return None
    require_installed(logger)
    dashboards: dict[str, Callable[..., Dashboard]] = {"tensorboard": _TensorBoard, "wandb": _WandB}
    return dashboards[logger](folder, keep_epochs, settings)


def require_installed(logger: Logger) -> None:
    """ValueError if the dashboard's package is not installed."""
    if logger != "none" and find_spec(logger) is None:
        raise ValueError(f"--logger {logger}: {logger} is not installed; pip install 'diamond_fast[{logger}]'")


class _TensorBoard:
    def __init__(self, folder: Path, keep_epochs: int, settings: dict[str, Any]):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(
            str(folder / "tensorboard"), purge_step=keep_epochs + 1 if keep_epochs >= 0 else None
        )
        self._writer.add_text("settings", f"```\n{strict_json(settings, indent=2)}\n```")

    def log(self, epoch: int, scalars: dict[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, folder: Path, keep_epochs: int, settings: dict[str, Any]):
        import wandb

        name = folder.resolve().name
        self._run = wandb.init(project="diamond_fast", id=name, name=name, dir=folder, config=settings, resume="allow")
        self._run.define_metric("*", step_metric="epoch")  # a resumed run may log an epoch for the second time

    def log(self, epoch: int, scalars: dict[str, float]) -> None:
        self._run.log(scalars)

    def close(self) -> None:
        self._run.finish()


def flat(values: Mapping[str, Any], separator: str, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one: ``{"a": {"b": 1}}`` becomes ``{"a/b": 1}``."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, Mapping)
        found |= flat(value, separator, f"{prefix}{key}{separator}") if inner else {prefix + key: value}
    return found


def plain(value: Any) -> Any:
    """What JSON knows: tensors, arrays and tuples become lists; nan and the infinities, at any depth, None."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # tensors, numpy arrays and scalars
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
