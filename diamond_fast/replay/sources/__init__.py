"""Where recordings come from, each kind read in a file of its own."""

from pathlib import Path

from diamond_fast.replay.recording import recording_in
from diamond_fast.replay.sources.csgo_hdf5 import ENDINGS, csgo_hdf5
from diamond_fast.replay.sources.source import Source
from diamond_fast.replay.sources.stored import published, stored


def find_source(path: Path) -> Source:
    """What is at this path, told by the names of its files.

    Raises:
        ValueError: nothing that can be imported; or the first episode is damaged, and the message names its file.
        OSError: it cannot be read.
    """
    if not path.exists():
        raise ValueError(f"{path}: there is nothing at this path")
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    endings = {file.suffix.lower() for file in files}
    if endings & {*ENDINGS, ".tar"}:
        return csgo_hdf5(path)
    if path.is_file() or recording_in(path):
        return stored(path)
    return published(path)
