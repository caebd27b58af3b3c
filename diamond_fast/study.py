"""``python -m diamond_fast.study NAME``: the paper's comparisons, each one command that may be stopped and repeated."""

import shlex
import shutil
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from diamond_fast.cli import expected_failure, fail, parse, user_errors
from diamond_fast.one_line import one_line
from diamond_fast.registry import find
from diamond_fast.runs.output import lasting_output
from diamond_fast.runs.signals import stop_signals
from diamond_fast.settings import check_limits
from diamond_fast.studies.architectures import Architectures
from diamond_fast.studies.drift import Drift
from diamond_fast.studies.nfe import Nfe
from diamond_fast.studies.settings import StudyFlags, UnfitInputError, begin
from diamond_fast.studies.steps import Steps
from diamond_fast.studies.student import Student

PROGRAM = "python -m diamond_fast.study"
EXIT_FAILED = 1

STUDIES: dict[str, type[StudyFlags]] = {
    "drift": Drift,
    "steps": Steps,
    "nfe": Nfe,
    "student": Student,
    "architectures": Architectures,
}
"""By name. ``set_up`` and ``run`` of the same module do it."""


@lasting_output()
def main(argv: Sequence[str] | None = None) -> None:
    name, *flags = sys.argv[1:] if argv is None else argv or [""]
    if name in ("-h", "--help"):
        heads = (f"  {key:15}{(study.__doc__ or '').strip().splitlines()[0]}" for key, study in STUDIES.items())
        print(
            f"usage: {PROGRAM} NAME --data PATH ...\n\n" + "\n".join(heads) + f"\n\n{PROGRAM} NAME --help lists flags"
        )
        return
    with stop_signals() as stop:
        with user_errors():
            kind = find(STUDIES, "study", name)
            args = parse(kind, flags, default=_defaults(kind, flags), prog=f"{PROGRAM} {name}")
            check_limits(args)
            args.check()
            out = args.out or Path("studies") / name
            from diamond_fast.devices import resolve_device

            device, study = resolve_device(args.device), import_module(kind.__module__)
            import_module("diamond_fast.studies.output")  # if it cannot be drawn with, that is said before the work
            new = begin(out, name, args)
            try:
                task = study.set_up(args, out)
            except Exception:
                if new:
                    shutil.rmtree(out)  # nothing was begun, and the same folder should do for the next try
                raise
        stop.how_to_go_on = shlex.join([*PROGRAM.split(), name, *flags])
        try:
            page = study.run(task, device, stop)
        except UnfitInputError as error:
            fail(str(error))
        except Exception as error:
            print(_failure(error, out, f"out of memory on {device}: take a lower --batch-size"), file=sys.stderr)
            raise SystemExit(EXIT_FAILED) from None
        print(f"Page: {page}\nFigures: {out / 'results.json'}", flush=True)


def _failure(error: Exception, out: Path, out_of_memory: str) -> str:
    """What ended a study, in one line. Where a bug struck is kept for a report of it."""
    try:
        return expected_failure(error, out_of_memory)
    except Exception as unexpected:
        where = out / "error.txt"
        where.write_text("".join(traceback.format_exception(unexpected)))
        return (
            f"{type(error).__name__}: {one_line(error)}; what was done is kept, and the same command goes on from "
            f"there; where it happened: {where}"
        )


def _defaults(kind: type[StudyFlags], flags: Sequence[str]) -> StudyFlags:
    return kind(**kind.QUICK) if "--quick" in flags else kind()


if __name__ == "__main__":
    main()
