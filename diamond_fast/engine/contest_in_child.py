"""A contest in a process of its own, for devices that one bad kernel or capture makes useless to the whole process.

A path at which the child dies or hangs is left out, and another child goes on with the others.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any

import torch

from diamond_fast.engine.child import ChildFailedError, answer, ask
from diamond_fast.engine.contest import Begins, Row, Work, contest
from diamond_fast.engine.path import Path

PATIENCE = 180.0  # seconds for a child, in which kernels may have to be compiled


def contest_in_child(work: Work, paths: Sequence[Path], begins: Begins) -> list[Row]:
    """As ``contest``, but a path that ends its process, or hangs, does not end this one.

    Raises:
        ChildFailedError: before any path has begun, or at the readable networks.
    """
    fallen: dict[str, Row] = {}
    while True:
        begun: list[str] = []

        def noted(name: str, begun: list[str] = begun) -> None:
            begun.append(name)
            begins(name)

        try:
            rows = _ask(work, [path for path in paths if path.name not in fallen], noted)
        except ChildFailedError as failed:
            if not begun or begun[-1] == "readable":
                raise
            fallen[begun[-1]] = Row(begun[-1], why_not=str(failed))
        else:
            found = {row.name: row for row in rows} | fallen
            return [found[path.name] for path in paths]


def _ask(work: Work, paths: Sequence[Path], begins: Begins) -> list[Row]:
    allow_tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with closing(ask(__name__, (work.light(), list(paths), allow_tf32), PATIENCE)) as answers:
        for said in answers:
            if isinstance(said, list):
                return [Row(**row) for row in said]
            begins(said)
    raise ChildFailedError("the process that measures ended without a result")


def main() -> None:
    """The child: answers with the path that begins, again and again, and in the end with rows."""
    answer(_contest)


def _contest(request: Any, say: Callable[[object], None]) -> None:
    work, paths, allow_tf32 = request
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allow_tf32
    if work.device.type == "cuda" and work.device.index is not None:
        torch.cuda.set_device(work.device)
    say([asdict(row) for row in contest(work, paths, say)])
