"""Batches from a recording on disk against h5py, frame by frame as published, and how fast its files are imported.

Synthetic files in the published layout, which the system keeps in memory once they are written: what is measured is
the work beside the disk. The published loader reads full frames for its low-resolution batches, too; what it does
beside is left out here.

pytest benchmarks/test_recordings.py --benchmark-only
"""

import itertools
from pathlib import Path

import numpy as np
import pytest

from diamond_fast.replay import csgo, load_recording
from diamond_fast.replay.importing import Wanted, import_episodes
from diamond_fast.replay.sources import find_source

h5py = pytest.importorskip("h5py", reason="h5py is not installed")
SIZE = (*csgo.FULL_SIZE, 3)


def write_hdf5(path: Path, frames: int, seed: int) -> None:
    """Smooth pictures with a little noise: neither constant nor incompressible."""
    rng = np.random.default_rng(seed)
    base = np.add.outer(np.linspace(0, 90, SIZE[0]), np.linspace(0, 90, SIZE[1]))[..., None] + [0, 20, 40]
    actions = csgo.ACTION.sample(rng.random, (frames,)).astype(np.float64)
    with h5py.File(path, "w") as file:
        for i in range(frames):
            file[f"frame_{i}_x"] = (base + rng.integers(0, 16, SIZE)).astype(np.uint8)
            file[f"frame_{i}_y"] = actions[i]
            file[f"frame_{i}_xaux"] = np.zeros(54)
            file[f"frame_{i}_helperarr"] = np.zeros(2)


@pytest.fixture(scope="module")
def recording(tmp_path_factory, effort) -> tuple[Path, int, int]:
    """A folder with files in the published layout, their number, and the frames of each."""
    folder, files, frames = tmp_path_factory.mktemp("hdf5"), *((2, 20) if effort == "tiny" else (4, 1_000))
    for k in range(files):
        write_hdf5(folder / f"hdf5_dm_july2021_{k + 1}.hdf5", frames, k)
    return folder, files, frames


def imported(folder: Path, out: Path) -> Path:
    import_episodes(find_source(folder), str(folder), out, Wanted())
    return out / "train"


@pytest.mark.parametrize(
    ("stage", "batch_size", "seq_length"), [("low resolution", 16, 9), ("upsampler", 4, 3)], ids=["low", "upsampler"]
)
def test_recordings(measure, recording, tmp_path_factory, capsys, stage, batch_size, seq_length):
    folder, files, frames = recording
    with capsys.disabled():
        replay = load_recording(imported(folder, tmp_path_factory.mktemp("recording") / "out"))
    full = stage == "upsampler"
    rng = np.random.default_rng(0)
    places = rng.integers((1, 0), (files + 1, frames - seq_length), (500, batch_size, 2))
    batches = itertools.cycle(places.tolist())

    def per_frame() -> list[np.ndarray]:
        segments = []
        for k, start in next(batches):
            with h5py.File(folder / f"hdf5_dm_july2021_{k}.hdf5", "r") as file:
                frames = [file[f"frame_{i}_x"][:] for i in range(start, start + seq_length)]
            segments.append(np.stack(frames))
        return segments

    in_turn = replay.segments(batch_size, seq_length, num_threads=0, full=full)
    ahead = replay.segments(batch_size, seq_length, full=full)
    turns = measure.take_turns(
        {"threads ahead": lambda: next(ahead), "when asked": lambda: next(in_turn), "h5py frame by frame": per_frame}
    )
    case = {"stage": stage, "batch": batch_size, "frames": seq_length}
    measure.row("recordings", case, turns, "threads ahead", work=1, unit="batches/s")


def test_import(measure, recording, tmp_path_factory, capsys):
    """Read, made smaller, checksummed and written, on one core."""
    folder, files, frames = recording
    source = find_source(folder)
    outs = (tmp_path_factory.mktemp("imports") / "out" for _ in itertools.count())

    def once() -> None:
        import_episodes(source, str(folder), next(outs), Wanted())

    with capsys.disabled():
        turns = measure.take_turns({"import": once})
    measure.row("imports", {"frames": files * frames}, turns, "import", work=files * frames, unit="frames/s")
