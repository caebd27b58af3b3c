"""Files that are either there in full or not there at all, whatever moment the machine stops at."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class NewerFormatError(ValueError):
    """Written by a newer version: neither read nor removed by this one."""


def write_durably(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` in one step: temporary file, flush, fsync, rename, fsync of the folder.

    A reader sees the old content or the new, never a part; after the return the new content survives a power cut.

    Raises:
        OSError: the disk refused; it names the file, and what was there is untouched.
    """
    with put_when_done(path) as temporary, errors_of(path), open(temporary, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def put_when_done(path: Path) -> Iterator[Path]:
    """Give a name next to ``path`` to write to, by code that does not follow links: there is nothing of that name yet.

    What is there in the end is put at ``path`` in one step; if the block raises, it is removed.

    Raises:
        OSError: the disk refused the last step.
    """
    temporary = path.with_name(path.name + ".partial")
    try:
        temporary.unlink(missing_ok=True)  # what a crash left, or a link to somebody's file
        yield temporary
        with errors_of(path):
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make the folder's entries (new files, renames) survive a power cut."""
    with errors_of(folder):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Name ``path`` in an OSError: the system's own say it only when opening fails."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def strict_json(value: Any, *, indent: int | None = None) -> str:
    """JSON that any parser reads: ValueError on nan and the infinities, which JSON does not know."""
    return json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False)


def parse_json(text: bytes) -> Any:
    """What JSON says.

    Raises:
        ValueError: it is none, or none that a file of ours would be.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def sealed(name: str, content: Any) -> bytes:
    """A JSON file that shows damage: ``content`` under ``name``, and the SHA-256 of its exact characters before it."""
    body = strict_json(content)
    checksum = hashlib.sha256(body.encode()).hexdigest()
    return f'{{"sha256": "{checksum}",\n"{name}": {body}}}\n'.encode()


def unsealed(name: str, path: Path) -> Any:
    """What :func:`sealed` was given; nothing is parsed before its checksum holds.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    match = re.fullmatch(rb'\{"sha256": "([0-9a-f]{64})",\n"(\w+)": (.*)\}\n', path.read_bytes(), re.DOTALL)
    if match is None or match[2] != name.encode() or hashlib.sha256(match[3]).hexdigest().encode() != match[1]:
        raise ValueError(f"{path.name} differs from its checksum")
    try:
        return parse_json(match[3])
    except ValueError as error:  # its checksum holds: it was made like this
        raise ValueError(f"{path.name}: {error}") from None
