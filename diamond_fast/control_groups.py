"""The control groups that Linux has put this process in, of versions 1 and 2."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def folders(controller: str, root: Path = Path("/")) -> Iterator[Path]:
    """Of this process's groups and of all above them, nearest first. In a container only the uppermost may exist.

    Args:
        controller: groups of version 1 for something else are left out.
        root: the folder that holds ``proc`` and ``sys``.
    """
    for line in text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            group = PurePosixPath(path).relative_to("/")
            for folder in (group, *group.parents):
                yield root / "sys/fs/cgroup" / controllers / folder


def text(path: Path) -> str:
    """Of a file; empty if it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
