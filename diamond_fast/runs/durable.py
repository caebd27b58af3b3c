"""Files that are either there in full or not there at all, whatever moment the machine stops at."""

import json
import os
from pathlib import Path
from typing import Any


def write_durably(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` in one step: temporary file, flush, fsync, rename, fsync of the folder.

    A reader sees the old content or the new, never a part; after the return the new content survives a power cut.
    """
    temporary = path.with_name(path.name + ".partial")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make the folder's entries (new files, renames) survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def strict_json(value: Any, *, indent: int | None = None) -> str:
    """JSON that any parser reads: ValueError on nan and the infinities, which JSON does not know."""
    return json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False)
