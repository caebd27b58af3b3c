"""Nobody may be listening: the program goes on to its end all the same, with its own exit code and no traceback."""

import io
import os
import subprocess
import sys

import pytest

from diamond_fast.runs.output import lasting_output

PROGRAM = """
import contextlib, os, sys
from diamond_fast.runs.output import lasting_output

@lasting_output()
def main():
    with open(sys.argv[1], "w") as file:  # must not get the number of a closed standard stream
        with contextlib.suppress(OSError):
            os.write(1, b"from a library\\n")
        for i in range(5):
            print("out" * 1000, flush=True)
            print("err" * 10, file=sys.stderr)
        sys.stdin.read() if sys.stdin else None
        print("out" * 1000)  # still in the buffer at the end
        print(sys.stdout.isatty(), sys.stdout.fileno() if sys.argv[2] == "open" else None)
        file.write("done")
    raise SystemExit(3)

main()
"""
GONE = "Standard output is closed; going on without it.\n"
SAID = ("err" * 10 + "\n") * 5


def start(path, shown="open", redirected="", **options):
    """The program, through a shell that redirects."""
    command = ["sh", "-c", f'exec "$0" -c "$1" "$2" "$3" {redirected}', sys.executable, PROGRAM, path, shown]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, text=True, **options)


def finished(process, path):
    """What it said on stderr. It reached its end, and left with its own code."""
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 3, said
    assert path.read_text() == "done"
    return said


def test_somebody_listens(tmp_path):
    process = start(tmp_path / "file", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=60)
    assert out == "from a library\n" + ("out" * 1000 + "\n") * 6 + "False 1\n"
    assert (err, process.returncode) == (SAID, 3)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_pipe_that_nobody_reads(tmp_path, unbuffered):
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    process = start(tmp_path / "file", stdout=write, stderr=subprocess.PIPE, env=environment)
    os.close(write)
    assert finished(process, tmp_path / "file") == GONE + SAID


@pytest.mark.parametrize("redirected", [">&-", "<&- >&-", "<&- >&- 2>&-", "2>&-"])
def test_streams_that_were_never_open(tmp_path, redirected):
    process = start(tmp_path / "file", "closed", redirected, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert finished(process, tmp_path / "file") == ("" if "2>" in redirected else SAID)


def test_a_full_disk_costs_what_was_printed(tmp_path):
    process = start(tmp_path / "file", redirected=">/dev/full", stderr=subprocess.PIPE)
    assert finished(process, tmp_path / "file") == SAID


def test_a_terminal_that_hung_up(tmp_path):
    """Its descriptors answer EIO from then on. Errors go there, too."""
    terminal, end = os.openpty()
    process = start(tmp_path / "file", stdout=end, stderr=end)
    os.close(end)
    os.close(terminal)
    process.communicate(timeout=60)
    assert process.returncode == 3
    assert (tmp_path / "file").read_text() == "done"


def test_streams_that_are_not_pythons_own_stay(monkeypatch):
    notebook = io.StringIO()
    monkeypatch.setattr(sys, "stdout", notebook)
    with lasting_output():
        assert sys.stdout is notebook
        print("shown")
    assert notebook.getvalue() == "shown\n"
    monkeypatch.setattr(sys, "stdout", None)
    with lasting_output():
        assert not sys.stdout.isatty()
        print("not shown")
    assert sys.stdout is None
