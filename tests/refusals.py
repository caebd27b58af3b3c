"""How a program refuses a command line: one line on standard error, and exit code 2."""

from collections.abc import Callable, Sequence

import pytest


def one_line_refusal(
    capsys: pytest.CaptureFixture[str], main: Callable[[Sequence[str]], object], args: Sequence[str]
) -> str:
    """The line."""
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    return err.strip()
