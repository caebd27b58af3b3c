"""Where recordings come from, each kind read in a file of its own."""

from pathlib import Path

from diamond_fast.replay.recording import recording_in
from diamond_fast.replay.sources import comma, csgo_hdf5, stored, videos
from diamond_fast.replay.sources.source import Source


def find_source(path: Path, fps: float | None = None) -> Source:
    """What is at this path, told by the names of its files.

    Args:
        fps: frames a second that are taken of videos; None: all.

    Raises:
        ValueError: nothing that can be imported, or something in it is wrong: the message names the first file.
        OSError: it cannot be read.
    """
    if not path.exists():
        raise ValueError(f"{path}: there is nothing at this path")
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    endings = {file.suffix.lower() for file in files}
    if endings & set(videos.ENDINGS):
        return videos.videos(path, fps)
    if fps is not None:
        raise ValueError("--fps: is for videos only")
    if comma.is_comma(path):
        return comma.comma(path)
    if endings & {*csgo_hdf5.ENDINGS, ".tar"}:
        return csgo_hdf5.csgo_hdf5(path)
    if path.is_file() or recording_in(path):
        return stored.stored(path)
    return stored.published(path)
