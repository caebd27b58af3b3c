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
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if path.startswith("/") and (not controllers or controller in controllers.split(",")):
            group = PurePosixPath(path).relative_to("/")
            for mount in _mounts(root / "sys/fs/cgroup", controller if controllers else ""):
                yield from (mount / folder for folder in (group, *group.parents))


def _mounts(top: Path, controller: str) -> list[Path]:
    """Where groups lie: of version 2, which are for everything, at the top or in a folder of their own; those of
    version 1 in a folder named after all controllers they share it with, in an order that is not the kernel's."""
    if not controller:
        return [top, top / "unified"]
    return sorted(folder for folder in top.glob("*") if controller in folder.name.split(","))


def text(path: Path) -> str:
    """Of a file; empty if it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
