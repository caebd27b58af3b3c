"""``python -m diamond_fast.report``: our runs next to the published agents, as tables, pictures and one HTML page."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from diamond_fast.cli import parse, user_errors
from diamond_fast.sweeps.folder import SweepFolder, is_sweep
from diamond_fast.sweeps.plan import file_name

if TYPE_CHECKING:  # --help needs no numpy
    from diamond_fast.reporting.comparison import Comparison, Estimate

PROGRAM = "python -m diamond_fast.report"
DEFAULT_OUT = Path("report")


@dataclass(frozen=True)
class ReportArgs:
    """Human-normalised scores of runs next to the published agents of Atari 100k.

    All runs, finished and unfinished; runs of the same game are its seeds:
        python -m diamond_fast.report runs/*

    All runs of a sweep, and which ones are missing; of a sweep with a grid, a report of each variant:
        python -m diamond_fast.report sweeps/paper

    The published agents alone:
        python -m diamond_fast.report

    Figures for another program, nothing drawn:
        python -m diamond_fast.report runs/* --json
    """

    runs: Positional[tuple[Path, ...]] = ()
    """These are the folders of runs or sweeps. What is neither, or damaged, is skipped with one line that says so."""
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: report)")] = None
    """Write index.html, the pictures and table.tex to this folder; what is there of an earlier report is replaced."""
    json: FlagCreatePairsOff[bool] = False
    """Print every figure as JSON instead of a table. Nothing is drawn unless --out is given."""


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(ReportArgs, argv, prog=PROGRAM)
    draws = not args.json or args.out is not None
    with user_errors():
        if draws and find_spec("matplotlib") is None:
            raise ValueError("matplotlib is not installed; pip install 'diamond_fast[report]', or take --json")
        out = args.out or DEFAULT_OUT
        if draws and out.exists() and not out.is_dir():
            raise ValueError(f"--out {out}: is a file; name a folder")
        from diamond_fast.reporting.own_runs import OwnRun, read_runs

        groups, skipped, read = _groups(args.runs), list[str](), dict[str, list[OwnRun]]()
        for variant, (folders, missing) in groups.items():
            runs = read_runs(folders, skipped.append)
            if runs or not args.runs:
                read[variant] = runs
            elif missing:
                skipped.append(f"{variant or args.runs[0]}: none of its runs has finished an epoch yet")
        if not read:
            raise ValueError(f"{skipped[0]}{f' (and {len(skipped) - 1} more like it)' if skipped[1:] else ''}")
        folder = {variant: out / file_name(variant) if len(groups) > 1 else out for variant in read}
        for path in folder.values() if draws else ():
            path.mkdir(parents=True, exist_ok=True)
    for line in skipped:
        print(f"Skipped: {line}", file=sys.stderr)
    from diamond_fast.reporting.comparison import compare, to_json
    from diamond_fast.runs.durable import strict_json

    comparisons = {variant: compare(runs, groups[variant][1]) for variant, runs in read.items()}
    if draws:
        with user_errors():
            for variant, comparison in comparisons.items():
                write(comparison, folder[variant])
    try:
        if args.json:
            data = {variant: to_json(comparison) for variant, comparison in comparisons.items()}
            print(strict_json(data if len(groups) > 1 else data.popitem()[1]), flush=True)
        for variant, comparison in comparisons.items():
            if not args.json:
                print(*[f"{variant}:"] * (len(groups) > 1), as_text(comparison), sep="\n", flush=True)
            if draws:
                page = f"Page: {folder[variant] / 'index.html'}"
                print(page, file=sys.stderr if args.json else sys.stdout, flush=True)
    except BrokenPipeError:  # --json | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _groups(paths: Sequence[Path]) -> dict[str, tuple[list[Path], list[str]]]:
    """By variant of a sweep with a grid, "" for all else: folders of runs, and names of those that are missing.

    Raises:
        ValueError: a sweep is damaged.
    """
    groups: dict[str, tuple[list[Path], list[str]]] = {}
    for path in paths:
        if not is_sweep(path):
            groups.setdefault("", ([], []))[0].append(path)
            continue
        sweep = SweepFolder.open(path)
        for planned in sweep.runs:
            folders, missing = groups.setdefault(planned.variant, ([], []))
            run = sweep.run(planned.name)
            if run.metrics_file.is_file():
                folders.append(run.path)
            else:
                missing.append(planned.name)
    return groups or {"": ([], [])}


def as_text(comparison: "Comparison") -> str:
    """A table for the terminal, and the remarks under it."""
    from diamond_fast.reporting.published import published_aggregates

    def shown(estimate: "Estimate") -> str:
        low_high = "" if estimate.low is None else f" [{estimate.low:.2f}, {estimate.high:.2f}]"
        return f"{estimate.value:.3f}{low_high}"

    columns = ("mean", "median", "iqm", "optimality_gap")
    widths = (17, 11, 19, 19, 19, 19)
    lines: list[tuple[str, ...]] = [("agent", "seeds", "mean", "median", "IQM", "optimality gap")]
    lines += [(s.name, s.seeds, *(shown(s.metrics[name]) for name in columns)) for s in comparison.standings]
    table = ["".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*table, "", *comparison.remarks, *map(str, published_aggregates())])


def write(comparison: "Comparison", out: Path) -> None:
    """Write ``index.html``, ``table.tex`` and one PNG per picture into the folder ``out``, which exists.

    Raises:
        OSError: the disk refused; each file is the new one or the one before, never a part.
    """
    from diamond_fast.reporting import figures, latex, page
    from diamond_fast.runs.durable import write_durably

    drawn = figures.draw_all(comparison)
    for name, figure in drawn.items():
        write_durably(out / f"{name}.png", figures.as_png(figure))
    svgs = {name: figures.as_svg(figure) for name, figure in drawn.items()}
    write_durably(out / "index.html", page.render(comparison, svgs).encode())
    write_durably(out / "table.tex", latex.games_table(comparison).encode())


if __name__ == "__main__":
    main()
