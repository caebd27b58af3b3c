"""``python -m diamond_fast.replay``: looks at stored experience, checks it, and moves it between formats."""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg, subcommand

from diamond_fast.cli import parse, user_errors
from diamond_fast.one_line import counted
from diamond_fast.runs.durable import errors_of, put_when_done
from diamond_fast.runs.output import lasting_output
from diamond_fast.settings import Limits, PositiveFloat, check_limits

if TYPE_CHECKING:  # torch is slow to import, and --help needs none of it
    from diamond_fast.replay import Replay

PROGRAM = "python -m diamond_fast.replay"
EXIT_DAMAGED = 1


@dataclass(frozen=True)
class Info:
    """Say what a journal, a .npz recording or a published dataset/ folder holds."""

    path: Positional[Path]


@dataclass(frozen=True)
class Verify:
    """Check every byte of a journal, or every array of a recording; exit code 1 if something is wrong."""

    path: Positional[Path]


@dataclass(frozen=True)
class Export:
    """Write what a journal, or anything else that `info` reads, holds as an .npz recording or a dataset of Minari."""

    path: Positional[Path]
    out: Positional[Path | None] = None
    """This is the new file; its name ends in .npz."""
    minari: Annotated[str | None, arg(metavar="ID")] = None
    """Write a dataset of Minari of this name, such as boxing/expert-v0, instead of a file."""


Size = Annotated[int | tuple[int, int] | None, Limits(minimum=1, maximum=2**14), arg(metavar="N")]


@dataclass(frozen=True)
class Import:
    """Write recordings of other programs as one of ours: videos with their actions, .npz files, published dataset/
    folders, CS:GO's hdf5 files, Minari's datasets.

    With --out it is a folder of any size, which stays on the disk and whose import goes on where it stopped; without,
    a journal, which is read into memory.
    """

    path: Positional[Path | None] = None
    journal: Positional[Path | None] = None
    """This is the new file; a training run keeps its own in replay/journal."""
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """This is the new folder, with the recordings train and, if --test says so, test."""
    minari: Annotated[str | None, arg(metavar="ID")] = None
    """Read this dataset of Minari, by name, instead of a path."""
    frame_size: Annotated[Size, arg(aliases=("--resize",))] = None
    """Make the frames of this height and width, in pixels, by area averaging."""
    full_size: Size = None
    """Keep the frames in this larger size, too, for a second stage that draws them in it."""
    crop: Annotated[
        tuple[int, int, int, int] | None,
        Limits(minimum=0, maximum=2**14),
        arg(metavar="TOP LEFT HEIGHT WIDTH"),
    ] = None
    """Keep this part of each frame only, in pixels."""
    fps: Annotated[PositiveFloat | None, arg(metavar="N")] = None
    """Take so many frames a second from videos."""
    test: Annotated[str | None, arg(metavar="FRACTION|FILE|published")] = None
    """Put this part of the episodes into the test half, or those that a file names, one on each line, or those that
    the published CS:GO model was not trained on."""


@dataclass(frozen=True)
class ReplayArgs:
    """Look at stored experience, check it, and move it between formats.

    What a run has collected, and whether it is whole:
        python -m diamond_fast.replay info runs/Boxing-20260101-120000-seed0/replay/journal
        python -m diamond_fast.replay verify runs/Boxing-20260101-120000-seed0/replay/journal

    To and from other programs:
        python -m diamond_fast.replay export runs/Boxing-20260101-120000-seed0/replay/journal boxing.npz
        python -m diamond_fast.replay import path/to/dataset/train boxing.journal

    Frames of the size that a run is to have:
        python -m diamond_fast.replay import boxing.npz boxing.journal --frame-size 64

    More than fits into memory, in two sizes and two halves:
        python -m diamond_fast.replay import path/to/hdf5/or/tars --out csgo --test published
        python -m diamond_fast.train --static-dataset csgo/train --held-out csgo/test --world-model-only
    """

    command: Annotated[
        Annotated[Info, subcommand("info")]
        | Annotated[Verify, subcommand("verify")]
        | Annotated[Export, subcommand("export")]
        | Annotated[Import, subcommand("import")],
        arg(name=""),
    ]


@lasting_output()
def main(argv: Sequence[str] | None = None) -> int:
    command = parse(ReplayArgs, argv, prog=PROGRAM).command
    with user_errors():
        match command:
            case Info(path):
                print(summary(path))
            case Verify(path):
                return verify(path)
            case Export(path, out, minari):
                export(path, out, minari)
            case Import():
                check_limits(command)
                import_any(command)
    return 0


def summary(path: Path) -> str:
    from diamond_fast.replay import load_recording
    from diamond_fast.spec import Mixed

    replay = load_recording(path)
    lengths, (negative, zero, positive) = replay.lengths, replay.reward_counts
    height, width, channels = replay.frame_shape
    action = "numbers" if replay.action is None else f"{replay.action.kind}, n = {replay.action.n}"
    if isinstance(replay.action, Mixed):
        action += f" ({', '.join(f'{name}: {part.kind} {part.n}' for name, part in replay.action.parts)})"
    full = "" if replay.full_shape is None else f" and {'x'.join(map(str, replay.full_shape))}"
    lines = [
        f"{path}: {replay.num_steps} steps in {replay.num_episodes} episodes, {replay.num_envs} environments at a time",
        f"frames: {height}x{width}x{channels}{full}; actions: {action}",
        f"rewards: {negative} negative, {zero} zero, {positive} positive; ends: {replay.end_counts[1]}",
    ]
    if len(lengths):
        lines.append(f"episode lengths: {lengths.min()} to {lengths.max()}, {lengths.mean():.1f} on average")
    if path.is_file():
        size, raw = path.stat().st_size, replay.num_steps * height * width * channels
        lines.append(f"on disk: {size / 1e6:.1f} MB, {raw / size:.1f} times smaller than its frames")
    return "\n".join(lines)


def verify(path: Path) -> int:
    """Reads everything as training does, so that nothing is called whole that would be refused there."""
    from diamond_fast.replay.formats import load_recording
    from diamond_fast.replay.journal import Journal
    from diamond_fast.replay.recording import first_damage, recording_in

    journal = None
    if folder := recording_in(path):
        try:
            problem = first_damage(folder)
        except ValueError as error:
            problem = str(error)
        if problem:
            print(f"damaged: {problem}")
            return EXIT_DAMAGED
    if not path.is_dir() and path.suffix != ".npz":
        with contextlib.closing(Journal(path, writable=False)) as journal:
            if journal.problem:
                whole = f"whole up to byte {journal.length}, {journal.num_records} commits"
                print(f"damaged: {path}: {journal.problem}; {whole}")
                return EXIT_DAMAGED
    try:
        replay = load_recording(path)
    except ValueError as error:
        print(f"damaged: {error}")
        return EXIT_DAMAGED
    number, noun = (replay.num_episodes, "episode") if journal is None else (journal.num_records, "commit")
    print(f"{path}: whole, {counted(number, noun)}")
    return 0


def export(path: Path, out: Path | None, minari: str | None = None) -> None:
    from diamond_fast.replay.formats import load_recording, write_npz

    if (out is None) == (minari is None):
        raise ValueError("a second path, --minari: exactly one of them is needed; for instance export journal game.npz")
    if out is None:
        from diamond_fast.replay.fitting import check_fits
        from diamond_fast.replay.minari_export import export_minari

        assert minari is not None
        replay = load_recording(path)
        steps = export_minari(replay, minari, check_fits("path", path, replay, replay.frame_shape))
        print(f"{minari}: {steps} steps in a dataset of Minari")
        return
    refuse_to_overwrite(out)
    replay = load_recording(path)
    with put_when_done(out) as partial, errors_of(out):
        write_npz(replay, partial)
    report(replay, out)


def import_any(args: Import) -> None:
    if (args.path is None) == (args.minari is None):
        raise ValueError("path, --minari: exactly one of them is needed; for instance import videos/ --out recording")
    if (args.out is None) == (args.journal is None):
        raise ValueError("--out FOLDER or a second path, for a journal: exactly one of them is needed")
    if args.out is None and args.path is not None:
        folder_only = {"--minari": args.minari, "--full-size": args.full_size, "--crop": args.crop, "--fps": args.fps}
        if given := next((flag for flag, value in {**folder_only, "--test": args.test}.items() if value), None):
            raise ValueError(f"{given}: needs --out FOLDER")
        assert args.journal is not None
        import_recording(args.path, args.journal, args.frame_size)
    elif args.out is not None:
        import_to_folder(args, args.out)


def import_to_folder(args: Import, out: Path) -> None:
    from diamond_fast.replay.importing import Wanted, import_episodes, said
    from diamond_fast.replay.sizes import Crop
    from diamond_fast.replay.sources import find_source
    from diamond_fast.replay.sources.minari import minari
    from diamond_fast.spec import Frame

    low, full = (None if size is None else Frame.of_size(size).shape[:2] for size in (args.frame_size, args.full_size))
    wanted = Wanted(low, full, None if args.crop is None else Crop(*args.crop), args.test)
    if args.minari is not None:
        source, name = minari(args.minari), args.minari
    else:
        assert args.path is not None
        source, name = find_source(args.path, args.fps), str(args.path.resolve())
    for line in said(out, import_episodes(source, name, out, wanted)):
        print(line)


def import_recording(path: Path, out: Path, frame_size: int | tuple[int, int] | None = None) -> None:
    from diamond_fast.replay import Replay
    from diamond_fast.replay.formats import load_recording, with_frame_size

    refuse_to_overwrite(out)
    stored = load_recording(path)
    if not stored.num_episodes:
        raise ValueError(f"{path}: no episodes")
    episodes = [with_frame_size(stored.episode(i), frame_size) for i in range(stored.num_episodes)]
    out.parent.mkdir(parents=True, exist_ok=True)
    with put_when_done(out) as partial, errors_of(out):
        replay = Replay.open(partial, episodes[0].obs.shape[1:], capacity=stored.num_steps, action=stored.action)
        for episode in episodes:
            replay.append_episode(episode)
        replay.commit()
        replay.close()
    report(replay, out)


def refuse_to_overwrite(out: Path) -> None:
    if out.exists():
        raise ValueError(f"{out}: exists already; give a new name")


def report(replay: "Replay", out: Path) -> None:
    print(f"{out}: {replay.num_steps} steps in {replay.num_episodes} episodes, {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
