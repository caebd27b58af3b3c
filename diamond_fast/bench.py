"""``python -m diamond_fast.bench``: measure this machine, and turn what was measured into tables and plots."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, arg

from diamond_fast.cli import parse, user_errors
from diamond_fast.runs.output import lasting_output

PROGRAM = "python -m diamond_fast.bench"
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
"""Only in a checkout: what measures, and what makes tables and plots, is not installed."""


@dataclass(frozen=True)
class BenchArgs:
    """Measure what diamond_fast gains on this machine: every path against the published way and others' compilers.

    Measure everything this machine can do, in at most ten minutes without a GPU:
        python -m diamond_fast.bench --out bench
    Make the figures of the project's own README and docs anew, in benchmarks/results:
        python -m diamond_fast.bench --out benchmarks/results
        python -m diamond_fast.bench --render-only
    Say what changed:
        python -m diamond_fast.bench --compare before.json after.json
    """

    out: Annotated[Path, arg(metavar="DIR")] = Path("bench")
    """One JSON of this machine, benchmarks.md and a plot are written to this folder. If it is benchmarks/results, the
    README's tables and docs/benchmarks.md are made anew, too."""
    quick: FlagCreatePairsOff[bool] = False
    """Measure a small grid briefly, without compilers, in about four minutes on a CPU."""
    tiny: FlagCreatePairsOff[bool] = False
    """See whether every benchmark works, on tiny networks. Its figures mean nothing."""
    rivals: Literal["with", "without", "only"] = "with"
    """Whether others' compilers take part, which take a minute or two for each size: with or without them, or nothing
    but the benchmarks that have one."""
    rows: Annotated[Path | None, arg(metavar="FILE")] = None
    """Append each benchmark's row to this file as soon as it is there, as a line of JSON."""
    only: Annotated[tuple[str, ...], arg(metavar="NAME...")] = ()
    """Run these files of benchmarks/ alone, such as fast_denoiser updates."""
    minutes: Annotated[
        float | None, arg(metavar="N", help_behavior_hint="(default: ten, or four, without a GPU, none with one)")
    ] = None
    """Measure what fits into so many minutes on this machine, whose speed is measured first. The most telling row of
    every part comes first; what does not fit is listed as not run."""
    again: FlagCreatePairsOff[bool] = False
    """Measure everything anew. Otherwise rows that DIR has of the same commit, machine and settings are kept, so that
    the same command goes on after it was stopped, or after its minutes were over."""
    render_only: FlagCreatePairsOff[bool] = False
    """Measure nothing: make the README's tables and docs/benchmarks.md anew from benchmarks/results."""
    compare: Annotated[tuple[Path, Path] | None, arg(metavar="A.json B.json")] = None
    """Measure nothing: print what changed from A to B beyond noise."""


@lasting_output()
def main(argv: Sequence[str] | None = None) -> int:
    args = parse(BenchArgs, argv, prog=PROGRAM)
    with user_errors():
        check(args)
        sys.path.insert(0, str(BENCHMARKS))
        import suite
        from pages.compare import compare
        from pages.document import read

        if args.compare is not None:
            print("\n".join(compare(*(read(path) for path in args.compare))))
            return 0
        if args.render_only:
            suite.render()
            return 0
        files = [suite.benchmark_file(name) for name in args.only]
        args.out.mkdir(parents=True, exist_ok=True)
        options = [f"--rivals={args.rivals}"] + ["--again"] * args.again
        options += [] if args.rows is None else [f"--rows={args.rows.resolve()}"]
        effort: suite.Effort = "tiny" if args.tiny else "quick" if args.quick else "full"
        return suite.measure(args.out, effort, files, args.minutes, options)


def check(args: BenchArgs) -> None:
    """
    Raises:
        ValueError: what was asked for does not fit together, or cannot be done here.
    """
    if not BENCHMARKS.is_dir():
        raise ValueError(
            "the benchmarks are not part of an installation: clone the project and pip install -e '.[dev]'"
        )
    modes = [name for name in ("quick", "tiny", "render_only", "compare") if getattr(args, name)]
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
    for module in ("matplotlib", "pytest", "pytest_benchmark"):
        if find_spec(module) is None:
            raise ValueError(f"{module.replace('_', '-')} is not installed; pip install -e '.[dev]'")


if __name__ == "__main__":
    sys.exit(main())
