"""Batches from a recording on disk against h5py, frame by frame as published, what training waits for them, and how
fast its files are imported.

Synthetic files in the published layout, which the system keeps in memory once they are written: what is measured is
the work beside the disk, but for the waits, before which the system forgets them. The published loader reads full
frames for its low-resolution batches, too; what it does beside is left out here.

pytest benchmarks/test_recordings.py --benchmark-only
"""

import itertools
import os
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diamond_fast.engine.choose import choose_path
from diamond_fast.presets import PRESETS
from diamond_fast.replay import csgo, load_recording
from diamond_fast.replay.importing import Wanted, import_episodes
from diamond_fast.replay.sources import find_source
from diamond_fast.training.make_updates import make_updates
from diamond_fast.world_model import Agent

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
def test_recordings(measure, machine, recording, tmp_path_factory, capsys, stage, batch_size, seq_length):
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
    frame_bytes = np.prod(replay.full_shape if full else replay.frame_shape) + full * np.prod(replay.frame_shape)
    floor = machine.memory(2 * batch_size * seq_length * float(frame_bytes))
    measure.row("recordings", case, turns, "threads ahead", work=1, unit="batches/s", floor=floor)


def forget(file: Path) -> None:
    """The system keeps nothing of it in memory."""
    with open(file, "rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def share_in_memory(file: Path, pieces: int = 200) -> float:
    """Of places all over a file, those that can be read without the disk."""
    found, size = 0, file.stat().st_size
    with open(file, "rb") as opened:
        for i in range(pieces):
            with suppress(BlockingIOError):
                found += os.preadv(opened.fileno(), [bytearray(1)], i * size // pieces, os.RWF_NOWAIT)
    return found / pieces


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="only Linux says what it keeps of a file")
@pytest.mark.parametrize("stage", ["denoiser", "upsampler"])
def test_waits(measure, recording, tmp_path_factory, capsys, device, stage):
    """Updates of preset recording-quick, and the share of their time in which there is no batch; beside it what a batch
    takes that nobody reads ahead."""
    with capsys.disabled():
        path = imported(recording[0], tmp_path_factory.mktemp("recording") / "out")
    replay = load_recording(path)
    cfg = replace(PRESETS["recording-quick"], frame_size=csgo.LOW_SIZE, upsampling=5, static_dataset=str(path))
    agent = Agent(cfg, replay.action).to(device)
    file = path / {"denoiser": "frames", "upsampler": "full"}[stage]
    forget(file)
    update = make_updates(cfg, agent, replay, choose_path(device, cfg.precision), segments_seed=0)[stage]
    draw, waited, kept = update.objective.draw, [0.0], []

    def timed_draw():
        started = time.perf_counter()
        inputs = draw()
        waited[0] += time.perf_counter() - started
        return inputs

    update.objective.draw = timed_draw
    shares = {"in memory": [], "from the disk": []}
    batch_size, seq_length = update.cfg.batch_size, getattr(cfg, f"{stage}_seq_length")
    when_asked, alone = replay.segments(batch_size, seq_length, num_threads=0, full=stage == "upsampler"), []
    for _ in range(5):
        forget(file)
        started = time.perf_counter()
        next(when_asked)
        alone.append(1e3 * (time.perf_counter() - started))

    def updates(name: str) -> None:
        if name == "from the disk":
            forget(file)
            kept.append(share_in_memory(file))
        waited[0], started = 0.0, time.perf_counter()
        update.step()
        shares[name].append(waited[0] / (time.perf_counter() - started))

    turns = measure.take_turns({name: lambda name=name: updates(name) for name in ("from the disk", "in memory")})
    also = {f"waits, {name}": f"{np.median(values):.2%}" for name, values in shares.items()}
    also["a batch from the disk, ms"] = f"{np.median(alone):.3g}"
    case = {"stage": stage, "of the file in memory": f"{np.mean(kept):.0%}"}
    measure.row("waits for batches", case, turns, "from the disk", also=also)


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
