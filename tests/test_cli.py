"""Command lines: bad input is one line that names the flag and what would be right, exit code 2."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from tyro.conf import arg

from diamond_fast import cli
from diamond_fast.cli import parse, user_errors


@dataclass(frozen=True)
class Inner:
    lr: float = 0.1
    """Learning rate."""
    sizes: tuple[int, ...] = (1, 2)
    """Sizes."""
    weights: tuple[float, ...] = (0.5,)
    temperature: Annotated[float, arg(aliases=("--temperature",))] = 1.0
    """A text so long that it does not fit on one line of a narrow terminal: 'quoted', (default: odd), and more."""


@dataclass(frozen=True)
class Needy:
    checkpoint: Path
    """The one thing it needs."""


@dataclass(frozen=True)
class Args:
    game: str | None = None
    steps: int = 3
    """Steps."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    fast: bool = False
    update: Inner = field(default_factory=Inner)


def message(capsys, cls, args):
    with pytest.raises(SystemExit) as stop:
        parse(cls, args, prog="python -m program")
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err.strip()


def test_values_arrive():
    line = "--game Pong --update.lr 1e-3 --update.sizes 4 5 6 --fast --temperature=0.5 --precision bf16"
    assert parse(Args, line.split()) == Args("Pong", 3, "bf16", True, Inner(1e-3, (4, 5, 6), temperature=0.5))


def test_flags_override_the_given_defaults():
    default = Args(game="Boxing", update=Inner(lr=7.0))
    assert parse(Args, ["--steps", "9"], default=default) == Args("Boxing", 9, update=Inner(lr=7.0))


PARSING, NO_PARSE, USAGE = "Error parsing", "Could not find valid parse for arguments:", "Argument helptext:"


@pytest.mark.parametrize("columns", ["30", "80", "300"])
@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (
            "--precision fp8",
            "invalid choice 'fp8' for argument '--precision'. Expected one of ('fp32', 'tf32', 'bf16').",
        ),
        ("--gme Boxing", "--gme: unknown flag; did you mean --game?"),
        ("--gme=Boxing", "--gme: unknown flag; did you mean --game?"),
        ("--updat.lr 1", "--updat.lr: unknown flag; did you mean --update.lr?"),
        ("--bogus 1", "--bogus: unknown flag; --help lists them all"),
        ("--lr 1", "--lr: unknown flag; did you mean --update.lr?"),
        ("--xyzzy", "--xyzzy: unknown flag; --help lists them all"),
        ("--steps 1.5", f"{PARSING} --steps: invalid literal for int() with base 10: '1.5'; {USAGE} --steps INT"),
        ("--steps=", f"{PARSING} --steps: invalid literal for int() with base 10: ''; {USAGE} --steps INT"),
        (
            "--update.lr fast",
            f"{PARSING} --update.lr: could not convert string to float: 'fast'; {USAGE} --update.lr FLOAT",
        ),
        (
            "--update.sizes 1 x",
            f"{PARSING} --update.sizes: {NO_PARSE} ['1', 'x']; {USAGE} --update.sizes [INT [INT ...]]",
        ),
        (
            "--update.weights 1 x",
            f"{PARSING} --update.weights: {NO_PARSE} ['1', 'x']; {USAGE} --update.weights [FLOAT [FLOAT ...]]",
        ),
        (
            "--temperature hot",
            f"{PARSING} --temperature/--update.temperature: could not convert string to float: 'hot'; "
            f"{USAGE} --temperature FLOAT, --update.temperature FLOAT",
        ),
        ("--steps", "Missing value for argument '--steps'. Expected 1 values."),
        ("--steps --fast", "Missing value for argument '--steps'. Expected 1 values."),
        ("--steps 1 2", "--steps: unexpected further value '2'"),
        ("--steps 1 --fast 1", "--fast: unexpected further value '1'"),
        ("Boxing", "'Boxing': unexpected; every setting has a flag, which --help lists"),
    ],
)
def test_one_line_says_what_is_wrong(capsys, monkeypatch, columns, args, expected):
    monkeypatch.setenv("COLUMNS", columns)
    assert message(capsys, Args, args.split()) == expected


def test_what_must_be_given(capsys):
    assert message(capsys, Needy, []) == "Missing from python -m program: --checkpoint PATH"
    assert parse(Needy, ["--checkpoint", "x"]) == Needy(Path("x"))


def test_both_of_tyros_frames_are_taken_off():
    boxed = "╭─ Value error ──╮\n│ Error: '─-1' │\n│ ──── │\n│ Argument helptext: │\n│   --a INT │\n│   A. │\n"
    boxed += "│ ──── │\n│ For full helptext, see p --help │\n╰───╯"
    plain = " Value error \n ----- \n Error: '─-1' \n ---- \n Argument helptext: \n   --a INT \n   A. \n"
    plain += " ----- \n For full helptext, see p --help \n"
    assert cli._one_line(boxed) == cli._one_line(plain) == "Error: '─-1'; Argument helptext: --a INT"


def test_the_width_of_the_terminal_is_left_alone(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    message(capsys, Args, ["--steps"])
    assert "COLUMNS" not in os.environ


def test_help_goes_to_stdout(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(Args, ["--help"], prog="python -m program")
    assert stop.value.code == 0
    out, err = capsys.readouterr()
    assert "usage: python -m program" in out
    assert "--update.lr" in out
    assert err == ""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("frames: too\nmany"), "frames: too many"),
        (FileNotFoundError(2, "No such file or directory", "x.pt"), "x.pt: No such file or directory"),
        (FileNotFoundError("x.pt: no such file"), "x.pt: no such file"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (ConnectionError(), "ConnectionError"),
    ],
)
def test_errors_about_input_are_one_line_and_code_2(capsys, error, line):
    with pytest.raises(SystemExit) as stop, user_errors():
        raise error
    assert stop.value.code == 2
    assert capsys.readouterr().err == line + "\n"


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), user_errors():
        _ = 1 / 0


def test_a_checkout_that_hides_the_installed_package_is_one_line(capsys, monkeypatch):
    """In a checkout without compiled parts, `python -m` finds its source before the installed package."""
    find = cli.find_spec
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == "diamond_fast._replay" else find(name))
    with pytest.raises(SystemExit) as stop, user_errors():
        raise ImportError("cannot import name '_replay' from 'diamond_fast'")
    assert stop.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == (
        f"{Path(cli.__file__).parents[1]}: holds the source alone, without diamond_fast._replay; "
        "call the program from another folder if it is installed, or here first: pip install -e ."
    )


def test_other_imports_that_fail_keep_their_traceback():
    with pytest.raises(ImportError, match="no such name"), user_errors():
        raise ImportError("no such name")


def test_a_closed_pipe_is_no_error(tmp_path):
    program = "import sys; from diamond_fast.train import main; main(['--help'])"
    done = subprocess.run(
        f'"{sys.executable}" -c "{program}" | head -1', shell=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("usage: ")
    assert done.stderr == ""
