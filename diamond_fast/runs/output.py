"""Standard output and error that may go away: a pipe nobody reads any more, a terminal that hung up, ``>&-``.

What was computed for hours must not end because nobody is watching. No torch.
"""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)
_OUT, _ERR = 1, 2


@contextmanager
def lasting_output() -> Iterator[None]:
    """Within it, what is printed while nobody can read it is dropped, and the program goes on.

    Streams that Python's own were replaced by, such as a notebook's, are left as they are.
    """
    _occupy_closed_descriptors()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _lasting(sys.stdout, sys.__stdout__), _lasting(sys.stderr, sys.__stderr__)
    try:
        yield
    finally:
        for stream, original in zip((sys.stdout, sys.stderr), before, strict=True):
            if stream is not original:
                _LastingFile.at_the_end = True
                stream.flush()
                _LastingFile.at_the_end = False
        sys.stdout, sys.stderr = before


def _occupy_closed_descriptors() -> None:
    """Let no file of ours get the number of a closed standard stream, to which libraries written in C print."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)


def _lasting(stream: TextIO | None, own: TextIO | None) -> TextIO:
    if stream is None:  # its descriptor was closed when Python started
        return open(os.devnull, "w")
    if stream is not own or not isinstance(stream, io.TextIOWrapper):
        return stream
    file = _LastingFile(stream.fileno(), "w", closefd=False)
    try:
        stream.flush()
    except OSError:
        file.turn_off()
    return io.TextIOWrapper(
        file if stream.write_through else io.BufferedWriter(file),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _LastingFile(io.FileIO):
    """Drops what it cannot write: for ever if its reader is gone, else (a full disk) that piece alone."""

    at_the_end = False

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            written = super().write(data)
        except OSError as error:
            if error.errno in _GONE:
                self.turn_off()
            return memoryview(data).nbytes
        return memoryview(data).nbytes if written is None else written

    def turn_off(self) -> None:
        descriptor = self.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)  # whoever else prints there is heard as little
        os.close(null)
        if descriptor == _OUT and not self.at_the_end:
            print("Standard output is closed; going on without it.", file=sys.stderr, flush=True)
