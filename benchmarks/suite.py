"""Runs the benchmarks, or some of them, and writes what they found: behind ``python -m diamond_fast.bench``."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pages.document import read, read_all
from pages.writing import readme_section, write_page, write_readme

from diamond_fast.runs.signals import stop_with_parent

BENCHMARKS = Path(__file__).parent
RESULTS = BENCHMARKS / "results"
LONGEST_BENCHMARK = 1800  # seconds; compilers take long
PYTEST = (sys.executable, "-u", "-m", "pytest")
STOPPED = 130  # exit code
OK, TESTS_FAILED, NOTHING_TO_MEASURE = 0, 1, 5  # of pytest

Effort = Literal["full", "quick", "tiny"]


def benchmark_file(name: str) -> Path:
    """
    Raises:
        ValueError: there is no such benchmark.
    """
    path = BENCHMARKS / f"test_{name}.py"
    if not path.is_file():
        names = ", ".join(sorted(p.stem.removeprefix("test_") for p in BENCHMARKS.glob("test_*.py")))
        raise ValueError(f"--only {name}: no such benchmark; one of {names}")
    return path


def measure(
    out: Path, effort: Effort, files: Sequence[Path] = (), minutes: float | None = None, options: Sequence[str] = ()
) -> int:
    """Runs the suite, or these files of it, which goes on with the figures in ``out``. Returns the exit code.

    Args:
        options: further ones of ``benchmarks/conftest.py``.

    Raises:
        ValueError: the suite did not begin.
    """
    before = _written(out)
    code, stopped = run_suite(out, effort, files, minutes, options)
    written = [path for path, time in _written(out).items() if before.get(path) != time]
    if not written:
        code = STOPPED if stopped else code
        raise ValueError(f"the benchmarks did not begin (exit code {code}); their output says why")
    path = written[0]
    document = read(path)
    print(f"Figures: {path}")
    if out.resolve() == RESULTS:
        render()
    else:
        print(f"Tables: {write_page({path.stem: document}, out)}")
    if document["failed"]:
        print(f"Failed: {', '.join(document['failed'])}", file=sys.stderr)
    if stopped:
        print("Stopped; what was measured until then is written, and the same command goes on", file=sys.stderr)
        return STOPPED
    if code not in (OK, TESTS_FAILED, NOTHING_TO_MEASURE):
        print(f"Ended early (exit code {code}); the same command goes on from what is written", file=sys.stderr)
        return 1
    return 1 if document["failed"] else 0


def _written(folder: Path) -> dict[Path, int]:
    """When each document was written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("*.json")}


def run_suite(
    out: Path, effort: Effort, files: Sequence[Path], minutes: float | None, more: Sequence[str] = ()
) -> tuple[int, bool]:
    """pytest's exit code, and whether a signal stopped it. Every benchmark is named as it is done."""
    limit = [] if minutes is None else [f"--minutes={minutes}"]
    options = ["-m", "not slow", "--benchmark-only", "--benchmark-quiet", "-vv", "--effort", effort]
    options += ["-p", "no:cacheprovider", "-o", f"timeout={LONGEST_BENCHMARK}", f"--documents={out.resolve()}"]
    # pytest-benchmark measures nothing if it believes itself to be one of several parallel test processes
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    command = [*PYTEST, *map(str, files or [BENCHMARKS]), *options, *limit, *more]
    signals = [
        each for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) != signal.SIG_IGN
    ]
    told = 0
    with subprocess.Popen(
        command, cwd=BENCHMARKS.parent, env=environment, start_new_session=True, preexec_fn=stop_with_parent
    ) as pytest:

        def stop(number: int, frame: object) -> None:
            nonlocal told
            told += 1
            pytest.send_signal(signal.SIGINT if told == 1 else signal.SIGKILL)  # it writes what it has, once

        before = [signal.signal(each, stop) for each in signals]
        try:
            pytest.wait()
        finally:
            for each, handler in zip(signals, before, strict=True):
                signal.signal(each, handler)
    return pytest.returncode, told > 0


def render() -> None:
    """Makes ``docs/benchmarks.md``, its pictures and the README's section anew from ``benchmarks/results``."""
    root = BENCHMARKS.parent
    documents = read_all(RESULTS)
    page = write_page(documents, root / "docs")
    write_readme(root / "README.md", readme_section(documents, "docs"))
    print(f"Tables: {page}, and the section on speed in {root / 'README.md'}")
