"""Runs the benchmarks, or some of them, and writes what they found: behind ``python -m diamond_fast.bench``."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pages.document import file_stem, from_pytest, merged, read, read_all
from pages.writing import readme_section, write_page, write_readme

BENCHMARKS = Path(__file__).parent
RESULTS = BENCHMARKS / "results"
LONGEST_BENCHMARK = 1800  # seconds; compilers take long
STOPPED = 130  # exit code

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
    """Runs the suite, or these files of it, and writes what it found into ``out``. Returns the exit code.

    Args:
        options: further ones of ``benchmarks/conftest.py``.

    Raises:
        ValueError: the suite did not come to an end.
    """
    report, stopped = run_suite(effort, files, minutes, options)
    document = from_pytest(report)
    path = out / f"{file_stem(document)}.json"
    if files and path.is_file():
        document = merged(read(path), document)
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(f"Figures: {path}")
    if out.resolve() == RESULTS:
        render()
    else:
        print(f"Tables: {write_page({path.stem: document}, out)}")
    if document["failed"]:
        print(f"Failed: {', '.join(document['failed'])}", file=sys.stderr)
    if stopped:
        print("Stopped; what was measured until then is written", file=sys.stderr)
    return STOPPED if stopped else 1 if document["failed"] else 0


def run_suite(
    effort: Effort, files: Sequence[Path], minutes: float | None, more: Sequence[str] = ()
) -> tuple[dict, bool]:
    """pytest-benchmark's report, and whether Ctrl-C stopped it. Every benchmark is named as it is done.

    Raises:
        ValueError: there is none, because pytest ended before it was written.
    """
    limit = [] if minutes is None else [f"--minutes={minutes}"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        options = ["-m", "not slow", "--benchmark-only", "--benchmark-quiet", "-vv", "--effort", effort]
        options += ["-p", "no:cacheprovider", "-o", f"timeout={LONGEST_BENCHMARK}", f"--benchmark-json={path}"]
        # pytest-benchmark measures nothing if it believes itself to be one of several parallel test processes
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
        command = [sys.executable, "-m", "pytest", *map(str, files or [BENCHMARKS]), *options, *limit, *more]
        stopped = False
        with subprocess.Popen(command, cwd=BENCHMARKS.parent, env=environment) as pytest:
            while pytest.poll() is None:
                try:
                    pytest.wait()
                except KeyboardInterrupt:  # Ctrl-C reaches pytest too, which then writes what it has
                    stopped = True
        if not path.is_file():
            code = STOPPED if stopped else pytest.returncode
            raise ValueError(f"the benchmarks did not come to an end (exit code {code}); their output says why")
        return json.loads(path.read_text()), stopped


def render() -> None:
    """Makes ``docs/benchmarks.md``, its pictures and the README's section anew from ``benchmarks/results``."""
    root = BENCHMARKS.parent
    documents = read_all(RESULTS)
    page = write_page(documents, root / "docs")
    write_readme(root / "README.md", readme_section(documents, "docs"))
    print(f"Tables: {page}, and the section on speed in {root / 'README.md'}")
