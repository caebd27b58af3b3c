"""The record of a session: every row is written as soon as it is measured, and a later session goes on from there."""

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages.document import Document, add, file_stem, going_on, has, read, write

BEFORE = "before"
"""Folder of what was measured at other commits, with other versions or threads. Its rows are on no page."""


def benchmark_name(nodeid: str) -> str:
    """``updates::test_update[denoiser-8]``"""
    return re.sub(r"^.*?test_(\w+)\.py::", r"\1::", nodeid)


class Ledger:
    """A document of this machine in a folder.

    Args:
        folder: of the documents; None: nothing is written.
        start: makes this session's document, without rows; called once there is something to measure.
        rivals: whether others' compilers take part.
        again: measures what an earlier session of the same settings has measured already, too.
    """

    def __init__(self, folder: Path | None, start: Callable[[], Document], rivals: str, again: bool):
        self.folder, self._start, self.rivals, self.again = folder, start, rivals, again
        self.document: Document | None = None
        self.path: Path | None = None
        self.not_run: defaultdict[tuple[str, str], list[str]] = defaultdict(list)  # cases by benchmark and reason
        self._replaced: Document | None = None  # rows of other settings, which still lie where this session writes

    def begin(self, items: list[pytest.Item]) -> list[pytest.Item]:
        """Opens the document. Returns the benchmarks that are still to be measured."""
        if self.folder is None:
            return items
        document = self._start()
        self.path = self.folder / f"{file_stem(document)}.json"
        earlier = read(self.path) if self.path.is_file() else None
        self.document = going_on(earlier, document)
        if earlier is not None and earlier["rows"] and not self.document["rows"]:
            self._replaced = earlier
        here = {item.nodeid.rpartition("::")[2].partition("[")[0] for item in items}
        self.document["not_run"] = [e for e in self.document["not_run"] if e["benchmark"].partition("[")[0] not in here]
        self._not_run_before = list(self.document["not_run"])
        if self.again:
            return items
        return [item for item in items if not has(self.document, benchmark_name(item.nodeid), self.rivals)]

    def note(self, nodeid: str, rows: list[dict[str, Any]], seconds: float) -> None:
        """Writes the rows of a benchmark that has come to its end after so many seconds."""
        if self.document is None or self.path is None:
            return
        for row in rows:
            add(self.document, {**row, "benchmark": benchmark_name(nodeid), "took": round(seconds, 1)})
        if rows and self._replaced is not None:
            kept = self.path.parent / BEFORE / f"{self.path.stem}-{self._replaced['date'].replace(':', '')}.json"
            kept.parent.mkdir(exist_ok=True)
            self.path.replace(kept)
            self._replaced = None
        if self._replaced is None:
            write(self.document, self.path)

    def pytest_runtest_logreport(self, report) -> None:
        """Notes what was not run, and why, and what failed."""
        if self.document is None:
            return
        if report.skipped:
            reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
            case = report.location[2]
            self.not_run[case.partition("[")[0], reason.removeprefix("Skipped: ")].append(case)
        elif report.failed:
            self.document["failed"].append(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Also if it was stopped. If nothing was measured, rows of other settings stay where they are."""
        if self.document is None or self.path is None or self._replaced is not None:
            return
        not_run = [
            {"benchmark": benchmark if len(cases) > 1 else cases[0], "reason": reason, "cases": len(cases)}
            for (benchmark, reason), cases in self.not_run.items()
        ]
        self.document["not_run"] = self._not_run_before + not_run
        write(self.document, self.path)
