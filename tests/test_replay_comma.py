"""comma.ai's recordings, of small files: every step against plain Python."""

import numpy as np
import pytest

from diamond_fast.replay import load_recording
from diamond_fast.replay.__main__ import main
from diamond_fast.replay.recording import read_meta
from diamond_fast.replay.sizes import AreaResize
from diamond_fast.replay.sources import comma

h5py = pytest.importorskip("h5py", reason="comma's recordings need the extra driving")
HEIGHT, WIDTH, CUT = 4, 8, 7


def write_drive(folder, name, entries, seed, **changed):
    """-> frames uint8 [T,3,H,W], log columns by name"""
    rng = np.random.default_rng(seed)
    pointers = np.arange(entries) // 5  # a camera of 20 Hz
    log = {
        "steering_angle": 30 * rng.normal(size=entries) + 3,
        "car_accel": rng.normal(size=entries).astype(np.float32) - 0.2,
        "cam1_ptr": pointers.astype(np.float64),
        "speed": rng.normal(size=entries),
    } | changed
    frames = rng.integers(256, size=(pointers[-1] + 1, 3, HEIGHT, WIDTH), dtype=np.uint8)
    for kind, columns in (("camera", {"X": frames}), ("log", log)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        with h5py.File(folder / kind / f"{name}.h5", "w") as file:
            for key, values in columns.items():
                if values is not None:
                    file[key] = values
    return frames, log


@pytest.fixture(autouse=True)
def short_cuts(monkeypatch):
    monkeypatch.setattr(comma, "CUT", CUT)


def run(path, out, *more):
    return main(["import", str(path), "--out", str(out), *map(str, more)])


def test_every_step_is_where_the_log_says(tmp_path):
    drives = {name: write_drive(tmp_path / "in", name, n, n) for name, n in (("a", 1107), ("b", 283), ("short", 140))}
    write_drive(tmp_path / "in", comma.NIGHT[0], 900, 9)
    (tmp_path / "tests").write_text("b\n")
    assert run(tmp_path / "in", tmp_path / "out", "--test", tmp_path / "tests", "--frame-size", 4, 8) == 0

    expected = {}
    for name in ("a", "b"):
        frames, log = drives[name]
        steps = range(CUT, len(log["cam1_ptr"]) // 10 - CUT)
        obs = [frames[int(log["cam1_ptr"][10 * t])].transpose(1, 2, 0) for t in steps]
        act = [[log[key][10 * t : 10 * t + 10].mean() for key in ("steering_angle", "car_accel")] for t in steps]
        expected[name] = np.array(obs), np.array(act, float)
    every = np.concatenate([act for _, act in expected.values()])
    scale = [(sum(value**2 for value in column) / len(column)) ** 0.5 for column in every.T]
    for half, name in (("train", "a"), ("test", "b")):
        replay = load_recording(tmp_path / "out" / half)
        assert replay.num_episodes == 1
        episode, (obs, act) = replay.episode(0), expected[name]
        np.testing.assert_array_equal(episode.obs, obs)
        np.testing.assert_allclose(episode.act, act / scale, rtol=1e-5, atol=1e-6)
        assert not episode.end.any()
        assert episode.final_obs is None
        form = read_meta(tmp_path / "out" / half).form
        assert form.action_scale == pytest.approx(scale)
        assert form.fps == 10


def test_frames_are_64x64_if_nothing_is_said(tmp_path):
    frames, _ = write_drive(tmp_path / "in", "a", 200, 0)
    assert run(tmp_path / "in", tmp_path / "out") == 0
    obs = load_recording(tmp_path / "out" / "train").episode(0).obs
    assert obs.shape == (6, 64, 64, 3)
    whole = np.ascontiguousarray(frames[2 * CUT].transpose(1, 2, 0))
    np.testing.assert_array_equal(obs[0], AreaResize((HEIGHT, WIDTH), (64, 64))(whole))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"cam1_ptr": np.arange(400) // 4}, "holds 80 frames, the log names number"),
        ({"cam1_ptr": -np.arange(400)}, "cam1_ptr: expected numbers of frames from 0 that never fall"),
        ({"cam1_ptr": None}, "expected cam1_ptr, a number for each entry"),
        ({"car_accel": np.full(400, np.nan)}, "expected finite numbers in steering_angle, car_accel and cam1_ptr"),
        ({"car_accel": np.zeros(399)}, "have different lengths"),
        ({"steering_angle": np.zeros(400)}, "nobody steers or changes the speed in a"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, changed, said, capsys):
    write_drive(tmp_path / "in", "a", 400, 0, **{key: value for key, value in changed.items() if key != "cam1_ptr"})
    if "cam1_ptr" in changed:
        with h5py.File(tmp_path / "in" / "log" / "a.h5", "a") as file:
            del file["cam1_ptr"]
            if changed["cam1_ptr"] is not None:
                file["cam1_ptr"] = changed["cam1_ptr"] * (2 if changed["cam1_ptr"][-1] > 0 else 1)
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path / "in", tmp_path / "out")
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1


def test_files_that_are_missing_or_none(tmp_path, capsys):
    write_drive(tmp_path / "in", "a", 400, 0)
    (tmp_path / "in" / "log" / "a.h5").unlink()
    (tmp_path / "other" / "camera").mkdir(parents=True)
    (tmp_path / "other" / "log").mkdir()
    for folder, said in (("in", "there is no"), ("other", "no drive by daylight is longer than ten minutes, of 0")):
        with pytest.raises(SystemExit):
            run(tmp_path / folder, tmp_path / "out")
        assert said in capsys.readouterr().err
