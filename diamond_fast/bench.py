"""``python -m diamond_fast.bench``: measure this machine, and turn what was measured into tables and plots."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, arg

from diamond_fast.cli import parse, user_errors
from diamond_fast.runs.output import lasting_output

PROGRAM = "python -m diamond_fast.bench"
CHECKOUT = Path(__file__).parents[1]
RESULTS = CHECKOUT / "benchmarks" / "results"
LONGEST_BENCHMARK = 1800  # seconds; compilers take long

Effort = Literal["full", "quick", "tiny"]


@dataclass(frozen=True)
class BenchArgs:
    """Measure what diamond_fast gains on this machine: every path beside the published way and others' compilers.

    Everything this machine can do, at most ten minutes without a GPU:
        python -m diamond_fast.bench --out bench
    The figures of the project's own README and docs, from benchmarks/results:
        python -m diamond_fast.bench --out benchmarks/results
        python -m diamond_fast.bench --render-only
    What changed:
        python -m diamond_fast.bench --compare before.json after.json
    """

    out: Annotated[Path, arg(metavar="DIR")] = Path("bench")
    """Where to write one JSON for this machine, benchmarks.md and a plot. benchmarks/results: the README's tables and
    docs/benchmarks.md are then made anew, too."""
    quick: FlagCreatePairsOff[bool] = False
    """A small grid, measured briefly, without compilers: about four minutes on a CPU."""
    only: Annotated[tuple[str, ...], arg(metavar="NAME...")] = ()
    """These files of benchmarks/ alone, as in: --only fast_denoiser updates. Joins what DIR has of the same commit."""
    minutes: Annotated[
        float | None, arg(metavar="N", help_behavior_hint="(default: 9.5 without a GPU, none with one)")
    ] = None
    """Begin no benchmark after so many minutes; the most wanted come first, the rest is listed as not run."""
    render_only: FlagCreatePairsOff[bool] = False
    """Measure nothing: make the README's tables and docs/benchmarks.md anew from benchmarks/results."""
    compare: Annotated[tuple[Path, Path] | None, arg(metavar="A.json B.json")] = None
    """Measure nothing: print what changed from A to B beyond noise."""


@lasting_output()
def main(argv: Sequence[str] | None = None) -> int:
    args = parse(BenchArgs, argv, prog=PROGRAM)
    with user_errors():
        check(args)
        if args.compare is not None:
            from diamond_fast.benchmarking.compare import compare
            from diamond_fast.benchmarking.document import read

            print("\n".join(compare(*(read(path) for path in args.compare))))
            return 0
        if args.render_only:
            render()
            return 0
        args.out.mkdir(parents=True, exist_ok=True)
        try:
            return measure(args.out, "quick" if args.quick else "full", args.only, args.minutes)
        except KeyboardInterrupt:
            print("Stopped; nothing was written", file=sys.stderr)
            return 130


def check(args: BenchArgs) -> None:
    """
    Raises:
        ValueError: what was asked for does not fit together, or cannot be done here.
    """
    modes = [name for name in ("quick", "render_only", "compare") if getattr(args, name)]
    if len(modes) > 1:
        first, second = (f"--{name.replace('_', '-')}" for name in modes[:2])
        raise ValueError(f"{first} and {second}: take one of the two")
    for path in args.compare or ():
        if not path.is_file():
            raise ValueError(f"--compare {path}: no such file")
    if args.compare is not None:
        return
    if args.minutes is not None and not 0 < args.minutes < float("inf"):
        raise ValueError(f"--minutes {args.minutes}: expected a number above 0")
    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f"--out {args.out}: is a file; name a folder")
    if not (CHECKOUT / "benchmarks").is_dir():
        raise ValueError(
            "the benchmarks are not part of an installation: clone the project and pip install -e '.[dev]'"
        )
    for module in ("matplotlib", "pytest", "pytest_benchmark"):
        if find_spec(module) is None:
            raise ValueError(f"{module.replace('_', '-')} is not installed; pip install -e '.[dev]'")
    for name in args.only:
        if not benchmark_file(name).is_file():
            names = ", ".join(
                sorted(p.stem.removeprefix("test_") for p in benchmark_file("*").parent.glob("test_*.py"))
            )
            raise ValueError(f"--only {name}: no such benchmark; one of {names}")


def benchmark_file(name: str) -> Path:
    return CHECKOUT / "benchmarks" / f"test_{name}.py"


def measure(out: Path, effort: Effort, only: Sequence[str] = (), minutes: float | None = None) -> int:
    """Runs the suite, or part of it, and writes what it found into ``out``. Returns the exit code.

    Raises:
        ValueError: the suite did not come to an end.
    """
    from diamond_fast.benchmarking.document import file_stem, from_pytest, merged, read
    from diamond_fast.benchmarking.pages import write_page

    report = run_suite(effort, only, minutes)
    document = from_pytest(report)
    path = out / f"{file_stem(document)}.json"
    if only and path.is_file():
        document = merged(read(path), document)
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(f"Figures: {path}")
    if out.resolve() == RESULTS:
        render()
    else:
        print(f"Tables: {write_page({path.stem: document}, out)}")
    if document["failed"]:
        print(f"Failed: {', '.join(document['failed'])}", file=sys.stderr)
    return 1 if document["failed"] else 0


def run_suite(effort: Effort, only: Sequence[str], minutes: float | None) -> dict:
    """pytest-benchmark's report. Every benchmark is named as it is done.

    Raises:
        ValueError: there is none, because pytest ended before it was written.
    """
    files = [str(benchmark_file(name)) for name in only] or [str(CHECKOUT / "benchmarks")]
    limit = [] if minutes is None else [f"--minutes={minutes}"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        options = ["-m", "not slow", "--benchmark-only", "--benchmark-quiet", "-vv", "--effort", effort]
        options += ["-p", "no:cacheprovider", "-o", f"timeout={LONGEST_BENCHMARK}", f"--benchmark-json={path}"]
        # pytest-benchmark measures nothing where it believes to be one of several parallel test processes
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
        command = [sys.executable, "-m", "pytest", *files, *options, *limit]
        code = subprocess.run(command, cwd=CHECKOUT, env=environment, check=False).returncode
        if not path.is_file():
            raise ValueError(f"the benchmarks did not come to an end (pytest's exit code {code}); its output says why")
        return json.loads(path.read_text())


def render() -> None:
    """Makes ``docs/benchmarks.md``, its pictures and the README's section anew from ``benchmarks/results``."""
    from diamond_fast.benchmarking.document import read_all
    from diamond_fast.benchmarking.pages import readme_section, write_page, write_readme

    documents = read_all(RESULTS)
    page = write_page(documents, CHECKOUT / "docs")
    write_readme(CHECKOUT / "README.md", readme_section(documents, "docs"))
    print(f"Tables: {page}, and the section on speed in {CHECKOUT / 'README.md'}")


if __name__ == "__main__":
    sys.exit(main())
