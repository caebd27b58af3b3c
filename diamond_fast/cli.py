"""Command lines: typed flags from dataclasses, and one plain line for whatever is wrong with them."""

import difflib
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro

from diamond_fast.envs.failure import EnvironmentFailedError
from diamond_fast.openmp import share_cores

T = TypeVar("T")

BAD_INPUT = 2
"""Exit code if the command line asks for something that cannot be."""

SEPARATE = {"PIL": "pillow", "matplotlib": "matplotlib", "huggingface_hub": "huggingface_hub"}
"""What an installation without them goes without: packages, by the name they are imported by."""

UNBROKEN = 10_000  # columns on which no message wraps
ONE_COLUMN = 100  # on a wider terminal the help stands in several columns


def parse(cls: type[T], args: Sequence[str] | None = None, *, default: T | None = None, prog: str | None = None) -> T:
    """The dataclass ``cls`` filled in from the command line. Imports no torch, whose idle threads will sleep soon.

    Args:
        cls: its fields become flags, the text under them their help, its docstring the head of ``--help``.
        args: instead of ``sys.argv[1:]``.
        default: values of flags that are not given, instead of the class's own.
        prog: how the program is called, for the help.

    Raises:
        SystemExit: 0 after ``--help``; 2 after one line on stderr that names the flag, what is wrong with it and what
            would be right.
    """
    args = list(sys.argv[1:] if args is None else args)
    result, unknown = parse_known(cls, args, default=default, prog=prog)
    if unknown:
        fail(_unexpected(unknown[0], args, _flags_of(cls)))
    return result


def parse_known(
    cls: type[T], args: Sequence[str], *, default: T | None = None, prog: str | None = None
) -> tuple[T, list[str]]:
    """As :func:`parse`, with the words that are none of the dataclass's flags or their values, in their order."""
    share_cores()
    options: dict[str, Any] = {"args": list(args), "prog": prog, "return_unknown_args": True}
    if default is not None:
        options["default"] = default
    try:
        with redirect_stderr(io.StringIO()):
            return tyro.cli(cls, **options)
    except SystemExit as stop:
        if stop.code != BAD_INPUT:
            raise
        fail(_one_line(_printed(cls, UNBROKEN, **options)))
    except BrokenPipeError:  # --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


def fail(message: str) -> NoReturn:
    """Print one line on stderr and exit with code 2."""
    print(" ".join(message.split()), file=sys.stderr)
    raise SystemExit(BAD_INPUT)


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn what setting up raises about its input into one line and exit code 2.

    For the part of a program that handles what the user asked for, and no other: a ValueError from within the
    training is a bug and deserves its traceback.
    """
    try:
        yield
    except EnvironmentFailedError as error:
        fail(str(error))
    except ImportError as error:
        if package := SEPARATE.get((error.name or "").partition(".")[0]):
            fail(f"{package} is not installed, and needed here; pip install {package}")
        if not (missing := _missing_parts()):
            raise
        folder = Path(__file__).parents[1]
        fail(
            f"{folder}: holds the source alone, without {' and '.join(missing)}; call the program from another folder "
            "if it is installed, or here first: pip install -e ."
        )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        fail(
            "out of memory: the networks, batches or buffers asked for are too large for this machine, or it is in use"
        )
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.strerror:
            fail(_of_system(error))
        fail(str(error) or type(error).__name__)


def expected_failure(error: Exception, out_of_memory: str) -> str:
    """What ended work that had begun, in one line: too little memory, or the system's own refusal, such as a full disk.

    Anything else is a bug, which deserves its traceback: it is raised again.
    """
    if is_out_of_memory(error):
        return out_of_memory
    if is_ordinary(error):
        assert isinstance(error, OSError)
        return _of_system(error)
    raise error


def is_ordinary(error: Exception) -> bool:
    """Whether an error is of the machine's limits: too little memory, or the system's own refusal."""
    return is_out_of_memory(error) or (isinstance(error, OSError) and error.errno is not None)


def _of_system(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)


def _missing_parts() -> list[str]:
    """Parts that an installation adds to the source: missing if a mere checkout hides the installed package."""
    return [name for name in ("diamond_fast._replay", "diamond_fast.kernels") if find_spec(name) is None]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, numpy or torch asked for more memory than there is. Imports no torch."""
    torch_says_so = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and torch_says_so)


def _printed(cls: type[Any], columns: int, **options: Any) -> str:
    """What tyro prints, error or help, on a terminal of that width."""
    text = io.StringIO()
    columns_before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(columns)
    try:
        with redirect_stdout(text), redirect_stderr(text), suppress(SystemExit):
            tyro.cli(cls, **options)
    finally:
        if columns_before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = columns_before
    return text.getvalue()


def _one_line(message: str) -> str:
    """tyro's own message, without its frame and title, the hint at --help, and all but the usage of a flag's help.

    The title is part of the frame's upper edge, or stands above a rule if tyro draws without box characters.
    """
    parts = re.split(r"^(?:╭.*|╰.*|[│\s]*[─-]+[│\s]*)$", message, flags=re.MULTILINE)[1:]
    sections = [[line.strip("│ ") for line in part.strip().splitlines()] for part in parts]
    return "; ".join(" ".join(lines[:2]) for lines in sections if lines and not lines[0].startswith("For full help"))


def _unexpected(token: str, args: Sequence[str], flags: Sequence[str]) -> str:
    """What to say about the first token that no flag takes."""
    name = token.partition("=")[0]
    if name.startswith("-"):
        last_part = name.lstrip("-").replace("_", "-")
        near = [f"--{near}" for near in difflib.get_close_matches(last_part, [flag[2:] for flag in flags], n=1)]
        same_end = [flag for flag in flags if flag.endswith(f".{last_part}")]
        hints = near if near and not same_end else same_end
        return f"{name}: unknown flag; " + (f"did you mean {' or '.join(hints)}?" if hints else "--help lists them all")
    position = max((i for i, arg in enumerate(args) if arg == token), default=0)
    if before := [arg for arg in args[:position] if arg.startswith("--")]:
        return f"{before[-1]}: unexpected further value '{token}'"
    return f"'{token}': unexpected; every setting has a flag, which --help lists"


def _flags_of(cls: type[Any]) -> list[str]:
    """All flags, as the help shows them: each stands at the start of a line, with its other names behind it."""
    lines = re.findall(r"^\W*?(--.*)$", _printed(cls, ONE_COLUMN, args=["--help"]), re.MULTILINE)
    return [flag for line in lines for flag in re.findall(r"--\w[\w.-]*", line)]
