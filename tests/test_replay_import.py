"""Imports into a folder: sizes, halves, what goes on after it stopped, and bad input."""

import errno
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from replay_model import assert_same, random_actions

from diamond_fast.replay import csgo, importing, load_recording
from diamond_fast.replay.__main__ import main
from diamond_fast.replay.recording import Writer, read_meta
from diamond_fast.replay.sizes import Bicubic
from diamond_fast.spec import Discrete, MultiBinary

h5py = pytest.importorskip("h5py", reason="h5py is not installed: pip install 'diamond_fast[recordings]'")
TEST_NUMBERS = (3, 5)  # of the published test half; 1, 2 and 4 are not


def frames_and_actions(number: int, count: int = 6, size=(30, 50)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (count, *size, 3), np.uint8), csgo.ACTION.sample(rng.random, (count,))


def write_hdf5(file, number: int, **changes) -> None:
    """As published: blue, green and red, actions in float64, kills and deaths."""
    frames, actions = frames_and_actions(number)
    with h5py.File(file, "w") as out:
        for i, (frame, action) in enumerate(zip(frames, actions, strict=True)):
            out[f"frame_{i}_x"] = frame[..., ::-1]
            out[f"frame_{i}_y"] = action.astype(np.float64)
            out[f"frame_{i}_xaux"] = np.zeros(54)
            out[f"frame_{i}_helperarr"] = np.array([i == 2, i == 4], float)
        for name, value in changes.items():
            del out[name]
            if value is not None:
                out[name] = value


@pytest.fixture
def hdf5(tmp_path) -> Path:
    """Five recordings: three files and a tar of two."""
    folder = tmp_path / "hdf5"
    folder.mkdir()
    for k in (1, 3, 4):
        write_hdf5(folder / f"hdf5_dm_july2021_{k}.hdf5", k)
    with tarfile.open(folder / "hdf5_dm_july2021_1_to_200.tar", "w") as archive:
        for k in (5, 2):
            content = io.BytesIO()
            write_hdf5(content, k)
            member = tarfile.TarInfo(f"a/hdf5_dm_july2021_{k}.hdf5")
            member.size = len(content.getvalue())
            archive.addfile(member, io.BytesIO(content.getvalue()))
    return folder


SIZES = ("--full-size", "30", "50", "--frame-size", "6", "10")


def run(*arguments: object) -> int:
    return main(["import", *map(str, arguments)])


def test_csgo_in_two_sizes_and_the_published_halves(hdf5, tmp_path):
    assert run(hdf5, "--out", tmp_path / "out", *SIZES, "--test", "published") == 0
    halves = {half: load_recording(tmp_path / "out" / half) for half in ("train", "test")}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["test", "train"]
    for half, numbers in (("train", (1, 2, 4)), ("test", TEST_NUMBERS)):  # in numerical order, those in the tar too
        replay = halves[half]
        assert (replay.frame_shape, replay.full_shape) == ((6, 10, 3), (30, 50, 3))
        assert replay.action == csgo.ACTION
        assert replay.lengths.tolist() == [6] * len(numbers)
        for i, number in enumerate(numbers):
            frames, actions = frames_and_actions(number)
            episode = replay.episode(i)
            np.testing.assert_array_equal(episode.full_obs, frames)
            np.testing.assert_array_equal(episode.obs, Bicubic((6, 10))(frames))
            np.testing.assert_array_equal(episode.act, actions)
            assert episode.rew.tolist() == [0, 0, 1, 0, -1, 0]
            assert not episode.end.any()
        names = [stored.name for stored in read_meta(tmp_path / "out" / half).episodes]
        assert names == [f"hdf5_dm_july2021_{k}.hdf5" for k in numbers]


def test_small_frames_are_antialiased_clipped_and_rounded():
    """Against the definition of bicubic filtering, a = -0.5, stretched by the factor, in float64."""
    edge = np.repeat([0, 0, 255, 255, 255, 0, 0, 0], 5)
    distance = np.abs(np.arange(-10, 11)) / 5
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance < 1, near, far)
    expected = []
    for i in range(8):
        pixels = 5 * i + 2 + np.arange(-10, 11)
        inside = (pixels >= 0) & (pixels < 40)
        expected.append((weights[inside] * edge[pixels[inside]]).sum() / weights[inside].sum())
    small = Bicubic((1, 8))(np.broadcast_to(edge[None, None, :, None], (2, 5, 40, 3)).astype(np.uint8))
    assert np.abs(small[1, 0, :, 2] - np.clip(np.rint(expected), 0, 255)).max() <= 1
    assert max(expected) > 257  # so that clipping shows
    assert min(expected) < -2


def test_an_import_goes_on_bit_for_bit(hdf5, tmp_path, monkeypatch):
    """Stopped in the middle of an episode by a full disk, by a torn line of its log, and without a stop."""
    assert run(hdf5, "--out", tmp_path / "whole", *SIZES, "--test", "0.4") == 0
    append, count = Writer.append, 0

    def full_disk(self, piece):
        nonlocal count
        count += 1
        append(self, piece)
        if count == 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(self.folder / "frames"))

    monkeypatch.setattr(Writer, "append", full_disk)
    with pytest.raises(SystemExit) as stopped:
        run(hdf5, "--out", tmp_path / "out", *SIZES, "--test", "0.4")
    monkeypatch.undo()
    assert stopped.value.code == 2
    with pytest.raises(ValueError, match="its import has not come to its end"):
        load_recording(tmp_path / "out" / "train")
    progress = tmp_path / "out" / "progress"
    assert progress.read_bytes().count(b"\n") == 2
    progress.write_bytes(progress.read_bytes() + b'0badcafe ["train", "hdf5')
    assert run(hdf5, "--out", tmp_path / "out", *SIZES, "--test", "0.4") == 0
    for half in ("train", "test"):
        for file in (tmp_path / "whole" / half).iterdir():
            assert (tmp_path / "out" / half / file.name).read_bytes() == file.read_bytes(), file


def test_a_full_disk_is_said_in_one_line(hdf5, tmp_path, monkeypatch, capsys):
    def full(self, piece):
        raise OSError(errno.ENOSPC, "No space left on device", str(self.folder / "frames"))

    monkeypatch.setattr(Writer, "append", full)
    with pytest.raises(SystemExit):
        run(hdf5, "--out", tmp_path / "out")
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert (
        "frames: No space left on device; what there is until now is kept, and the same command goes on with it"
        in printed
    )


def test_going_on_with_other_settings_is_refused(hdf5, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importing, "_store", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(hdf5, "--out", tmp_path / "out", *SIZES)
    with pytest.raises(SystemExit):
        run(hdf5, "--out", tmp_path / "out")
    assert "was begun with frame [6, 10, 3], not [30, 50, 3]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frame_3_y": None}, "hdf5_dm_july2021_4.hdf5: frame_3_y: missing"),
        ({"frame_3_y": np.zeros(50)}, r"4.hdf5: frame_3_y: expected numbers \[51\], got float64 \[50\]"),
        ({"frame_3_x": np.zeros((30, 49, 3), np.uint8)}, r"4.hdf5: frame_3_x: expected uint8 \[30, 50, 3\], got"),
        ({"frame_3_y": np.ones(51)}, "4.hdf5: actions of frames 0 to 5: mouse_x: expected one choice of 23"),
        ({"frame_0_x": None}, "4.hdf5: expected frame_0_x, frame_0_y, ... as in CS:GO's recordings"),
        (None, "4.hdf5: damaged, or not an hdf5 file"),
    ],
)
def test_the_first_wrong_file_is_named(hdf5, tmp_path, changes, message, capsys):
    file = hdf5 / "hdf5_dm_july2021_4.hdf5"
    if changes is None:
        file.write_bytes(file.read_bytes()[:1000])
    else:
        write_hdf5(file, 4, **changes)
    with pytest.raises(SystemExit) as stopped:
        run(hdf5, "--out", tmp_path / "out")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    write_hdf5(file, 4)
    assert run(hdf5, "--out", tmp_path / "out") == 0
    assert load_recording(tmp_path / "out").num_episodes == 5


def published(folder: Path, acts: list[np.ndarray]) -> None:
    folder.mkdir(parents=True)
    for i, act in enumerate(acts):
        steps = len(act)
        stored = {
            "obs": torch.full((steps, 3, 4, 6), i, dtype=torch.uint8),
            "act": torch.from_numpy(act.astype(np.float64)),
            "rew": torch.zeros(steps),
            "end": torch.zeros(steps, dtype=torch.uint8),
            "trunc": torch.zeros(steps, dtype=torch.uint8),
        }
        torch.save(stored, folder / f"{i}.pt")


def test_published_folders_keep_their_halves(tmp_path):
    rng = np.random.default_rng(0)
    acts = [csgo.ACTION.sample(rng.random, (5,)) for _ in range(3)]
    published(tmp_path / "dataset" / "train", acts[:2])
    published(tmp_path / "dataset" / "test", acts[2:])
    assert run(tmp_path / "dataset", "--out", tmp_path / "out") == 0
    train, test = (load_recording(tmp_path / "out" / half) for half in ("train", "test"))
    assert train.action == test.action == csgo.ACTION
    assert [train.num_episodes, test.num_episodes] == [2, 1]
    np.testing.assert_array_equal(test.episode(0).act, acts[2])
    np.testing.assert_array_equal(train.episode(1).obs, np.full((5, 4, 6, 3), 1))


def test_random_buttons_are_no_mouse(tmp_path):
    acts = [random_actions(MultiBinary(51), np.random.default_rng(0), 5)]
    published(tmp_path / "dataset", acts)
    assert run(tmp_path / "dataset", "--out", tmp_path / "out") == 0
    assert load_recording(tmp_path / "out").action == MultiBinary(51)


def npz(path: Path, num_episodes: int = 4, size=(6, 8)) -> None:
    rng = np.random.default_rng(0)
    steps, done = 5 * num_episodes, np.arange(5 * num_episodes) % 5 == 4
    np.savez(
        path,
        observations=rng.integers(0, 256, (steps, *size, 3), np.uint8),
        actions=rng.integers(0, 3, steps),
        rewards=rng.integers(-1, 2, steps).astype(np.float32),
        terminations=done,
        truncations=np.zeros(steps, bool),
        final_observations=rng.integers(0, 256, (num_episodes, *size, 3), np.uint8),
        num_actions=np.array([3]),
    )


def test_npz_as_it_is_and_cropped(tmp_path):
    npz(tmp_path / "a.npz")
    assert run(tmp_path / "a.npz", "--out", tmp_path / "whole") == 0
    stored, replay = load_recording(tmp_path / "a.npz"), load_recording(tmp_path / "whole")
    assert_same(replay, stored)
    assert replay.action == Discrete(3)
    crop = ("--crop", "2", "1", "4", "6", "--full-size", "4", "6", "--frame-size", "2", "3")
    assert run(tmp_path / "a.npz", "--out", tmp_path / "cropped", *crop, "--test", "0.25") == 0
    cropped = load_recording(tmp_path / "cropped" / "test").episode(0)
    theirs = stored.episode(3)
    np.testing.assert_array_equal(cropped.full_obs, theirs.obs[:, 2:, 1:7])
    np.testing.assert_array_equal(cropped.full_final_obs, theirs.final_obs[2:, 1:7])
    means = theirs.obs[:, 2:, 1:7].reshape(5, 2, 2, 3, 2, 3).mean(axis=(2, 4))
    assert np.abs(cropped.obs - means).max() <= 0.5


def test_halves_by_a_list_of_names(tmp_path):
    npz(tmp_path / "a.npz")
    (tmp_path / "names").write_text("episode 1\nepisode 2\n")
    assert run(tmp_path / "a.npz", "--out", tmp_path / "out", "--test", tmp_path / "names") == 0
    names = [stored.name for stored in read_meta(tmp_path / "out" / "test").episodes]
    assert names == ["episode 1", "episode 2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--test", "1.5"], "--test 1.5: must be at least 0 and below 1"),
        (["--test", "0.01"], "--test 0.01: leaves nothing for test of 4 episodes"),
        (["--test", "nowhere"], "--test nowhere: must be a fraction, published or a text file"),
        (["--test", "published"], "--test published: only CS:GO's hdf5 files have"),
        (["--crop", "0", "0", "7", "8"], "--crop: must lie inside frames of 6x8, got 0 0 7 8"),
        (["--full-size", "7", "--frame-size", "2"], "--full-size: must be the same multiple of --frame-size"),
        (["--full-size", "6", "8", "--frame-size", "3", "2"], "--full-size: must be the same multiple"),
        (["--frame-size", "0"], "--frame-size: must be"),
        (["journal"], "--out FOLDER or a second path, for a journal: exactly one"),
    ],
)
def test_what_cannot_be(tmp_path, arguments, message, capsys):
    npz(tmp_path / "a.npz")
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path / "a.npz", *arguments, "--out", tmp_path / "out")
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_a_folder_that_holds_something_is_left_alone(tmp_path, capsys):
    npz(tmp_path / "a.npz")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text(json.dumps({}))
    with pytest.raises(SystemExit):
        run(tmp_path / "a.npz", "--out", tmp_path / "out")
    assert "out: exists already; give a new name" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_mouse_motions_fall_into_the_nearest_bin():
    motions = {-5000: 0, -1000: 0, -750: 0, -749: 1, 0: 11, 1: 11, 1.1: 12, 7: 13, 7.1: 14, 5000: 22}
    assert {motion: csgo.mouse_bin(motion, csgo.MOUSE_X) for motion in motions} == motions
    assert [len(csgo.MOUSE_X), len(csgo.MOUSE_Y), csgo.ACTION.n, len(csgo.TEST_FILES)] == [23, 15, 51, 500]
    idle = csgo.ACTION.encode({"keys": [0] * 11, "clicks": [0, 0], "mouse_x": 11, "mouse_y": 7})
    assert idle.nonzero()[0].tolist() == [24, 43]
