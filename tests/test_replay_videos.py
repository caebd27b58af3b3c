"""Videos with actions beside them: which action belongs to which frame, and what is wrong with which file."""

import json
from pathlib import Path

import numpy as np
import pytest

from diamond_fast.replay import load_recording
from diamond_fast.replay.__main__ import main
from diamond_fast.replay.sources.tables import Columns, read_table
from diamond_fast.spec import Box, Discrete, Mixed, MultiBinary

imageio = pytest.importorskip("imageio.v2", reason="imageio is not installed: pip install 'diamond_fast[recordings]'")
pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is not installed: pip install 'diamond_fast[recordings]'")
SIZE = (32, 48)


def grey(i: int) -> int:
    return 30 + i % 20 * 10


def film(path: Path, count: int = 8, fps: int = 10, size=SIZE) -> None:
    """Every frame has a grey of its own."""
    frames = [np.full((*size, 3), grey(i), np.uint8) for i in range(count)]
    if path.suffix == ".gif":
        imageio.mimwrite(path, frames, duration=1000 / fps, loop=0)
        return
    options = {"codec": "libvpx", "output_params": ["-crf", "4", "-b:v", "2M"]} if path.suffix == ".webm" else {}
    imageio.mimwrite(path, frames, fps=fps, macro_block_size=1, **options)


def table(path: Path, header: str, rows: list) -> None:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")


def run(*arguments: object) -> int:
    return main(["import", *map(str, arguments)])


def greys(frames: np.ndarray) -> list[int]:
    assert np.ptp(frames.reshape(len(frames), -1).astype(int), axis=1).max() <= 6  # a frame is of one grey
    return frames.reshape(len(frames), -1).mean(axis=1).round().astype(int).tolist()


@pytest.mark.parametrize("ending", ["mp4", "webm", "gif"])
def test_frame_by_frame(tmp_path, ending):
    (tmp_path / "in").mkdir()
    film(tmp_path / "in" / f"a.{ending}")
    table(tmp_path / "in" / "a.csv", "frame, action, reward", [(i, i % 3, i / 2) for i in range(8)])
    assert run(tmp_path / "in", "--out", tmp_path / "out", "--frame-size", "8", "12") == 0
    replay = load_recording(tmp_path / "out")
    episode = replay.episode(0)
    assert replay.action == Discrete(3)
    assert episode.act.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert episode.rew.tolist() == [i / 2 for i in range(8)]
    assert np.abs(np.array(greys(episode.obs)) - [grey(i) for i in range(8)]).max() <= 4
    assert (episode.obs.shape[1:], episode.final_obs) == ((8, 12, 3), None)


@pytest.mark.parametrize("end", [0, 1])
def test_one_action_less_than_frames_and_more_than_one_piece(tmp_path, end):
    film(tmp_path / "a.mp4", 150)
    table(tmp_path / "a.csv", "frame,w,a,end", [(i, i % 2, i % 3 == 0, end * (i == 148)) for i in range(149)])
    (tmp_path / "a.csv").write_text((tmp_path / "a.csv").read_text().replace("True", "1").replace("False", "0"))
    assert run(tmp_path / "a.mp4", "--out", tmp_path / "out") == 0
    replay = load_recording(tmp_path / "out")
    episode = replay.episode(0)
    assert replay.action == MultiBinary(2)
    assert episode.act.tolist() == [[i % 2, i % 3 == 0] for i in range(149)]
    assert np.abs(np.array(greys(episode.obs)) - [grey(i) for i in range(149)]).max() <= 4
    assert abs(greys(episode.final_obs[None])[0] - grey(149)) <= 4
    assert (bool(episode.end[-1]), bool(episode.trunc[-1])) == (bool(end), not end)


def test_fewer_frames_a_second_with_actions_by_time(tmp_path):
    """Frames 0, 3, 6, ... of 30 a second; a key that was held at any time counts, the mouse moves on average."""
    film(tmp_path / "a.mp4", 12, fps=30)
    rows = [
        (0.0, 0, 1, 0.0),
        (0.04, 1, 2, 3.0),  # within frame 0 of 10 a second, and let go again
        (0.08, 0, 2, 6.0),
        (0.1, 0, 0, -1.0),  # frame 1
        (0.25, 1, 1, 5.0),  # within frame 2, in which the row before holds at first
    ]
    table(tmp_path / "a.csv", "time,keys.w,gear:4,mouse.x", rows)
    assert run(tmp_path, "--out", tmp_path / "out", "--fps", "10") == 0
    replay = load_recording(tmp_path / "out")
    parts = (("keys", MultiBinary(1)), ("gear", Discrete(4)), ("mouse", Box(1)))
    assert replay.action == Mixed(parts=parts)
    episode = replay.episode(0)
    assert np.abs(np.array(greys(episode.obs)) - [grey(i) for i in (0, 3, 6, 9)]).max() <= 4
    decoded = replay.action.decode(episode.act)
    assert decoded["keys"][:, 0].tolist() == [1, 0, 1, 1]
    assert decoded["gear"].tolist() == [2, 0, 1, 1]
    assert decoded["mouse"][:, 0].tolist() == [3.0, -1.0, 5.0, 5.0]


def test_fewer_frames_a_second_with_actions_by_frame(tmp_path):
    film(tmp_path / "a.mp4", 9, fps=30)
    table(tmp_path / "a.csv", "frame,steer,reward", [(i, i + 0.5, 1) for i in range(9)])
    assert run(tmp_path, "--out", tmp_path / "out", "--fps", "15") == 0
    episode = load_recording(tmp_path / "out").episode(0)
    assert episode.act[:, 0].tolist() == [1.0, 3.0, 5.0, 7.0, 8.5]
    assert episode.rew.tolist() == [2, 2, 2, 2, 1]


def test_json_with_lists(tmp_path):
    film(tmp_path / "a.gif", 3)
    rows = [{"frame": i, "keys": [i == 1, 0], "turn": [i / 4, -1.5]} for i in range(3)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert run(tmp_path, "--out", tmp_path / "out") == 0
    replay = load_recording(tmp_path / "out")
    assert replay.action == Mixed(parts=(("keys", MultiBinary(2)), ("turn", Box(2))))
    assert replay.episode(0).act.tolist() == [[0, 0, 0, -1.5], [1, 0, 0.25, -1.5], [0, 0, 0.5, -1.5]]


def test_kinds_are_those_of_all_files_together(tmp_path):
    table(tmp_path / "a.csv", "frame,action", [(0, 1)])
    table(tmp_path / "b.csv", "frame,action", [(0, 6)])
    assert Columns([read_table(tmp_path / f"{name}.csv") for name in "ab"]).action == Discrete(7)
    table(tmp_path / "a.csv", "frame,x", [(0, 1)])
    table(tmp_path / "b.csv", "frame,x", [(0, 0.5)])
    assert Columns([read_table(tmp_path / f"{name}.csv") for name in "ab"]).action == Box(1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "b.csv: has no rows"),
        ("action\n1\n", "b.csv: expected a column frame or a column time, got action"),
        ("frame\n0\n", "b.csv: has the columns frame, a.csv has frame, mouse:23"),
        ("frame,mouse:23\n0,1\n1\n", "b.csv: row 1: mouse:23: expected a finite number, got ''"),
        ("frame,mouse:23\n0,1\n1,x\n", "b.csv: row 1: mouse:23: expected a finite number, got 'x'"),
        ("frame,mouse:23\n0,1\n1,2,3\n", "b.csv: row 1: expected frame, mouse:23, got frame, mouse:23, more"),
        ("frame,mouse:23\n0,1\n1,23\n", "b.csv: row 1: mouse:23: expected 0 to 22, got 23"),
        ("frame,mouse:23\n0,1\n0,2\n", "b.csv: row 1: frame: expected more than in the row before, got 0"),
        ("frame,mouse:23\n-1,1\n", "b.csv: row 0: frame: expected more than in the row before, got -1"),
        ("frame,mouse:23\n1,1\n2,2\n3,3\n", "b.csv: row 0: frame: must be 0, since a row holds from there on"),
        ("frame,mouse:23\n0,1\n1,1\n", "b.csv: has actions up to frame 1, the video ends with frame 3"),
        ("frame,mouse:23\n0,1\n4,1\n", "b.csv: has actions up to frame 4, the video ends with frame 3"),
        (None, "b.mp4: expected its actions beside it, in b.csv or b.json"),
    ],
)
def test_the_first_wrong_table_is_named(tmp_path, content, message, capsys):
    for name in "ab":
        film(tmp_path / f"{name}.mp4", 4)
        table(tmp_path / f"{name}.csv", "frame,mouse:23", [(i, i) for i in range(4)])
    (tmp_path / "b.csv").unlink()
    if content is not None:
        (tmp_path / "b.csv").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, "--out", tmp_path / "out")
    printed = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in printed
    assert printed.count("\n") == 1


def test_actions_by_time_that_end_too_early(tmp_path, capsys):
    film(tmp_path / "a.mp4", 30, fps=10)
    table(tmp_path / "a.csv", "time,w", [(0, 1), (0.5, 0)])
    with pytest.raises(SystemExit):
        run(tmp_path, "--out", tmp_path / "out")
    assert "a.csv: its actions end at 0.5 s, the video at 2.9 s; a last row says" in capsys.readouterr().err


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (spoil, [], "b.mp4: cannot be decoded ("),
        (lambda path: path.write_bytes(b""), [], "b.mp4: cannot be decoded ("),
        (lambda path: film(path, 4, size=(16, 48)), [], "b.mp4: its frames are 16x48, those of a.mp4 32x48"),
        (lambda path: film(path, 4, fps=20), [], "b.mp4: has 20 frames a second, a.mp4 has 10; --fps makes them the"),
        (lambda path: None, ["--fps", "12"], "a.mp4 has only 10 frames a second"),
    ],
)
def test_the_first_wrong_video_is_named(tmp_path, change, arguments, message, capsys):
    for name in "ab":
        film(tmp_path / f"{name}.mp4", 4)
        table(tmp_path / f"{name}.csv", "frame,action", [(i, i) for i in range(4)])
    change(tmp_path / "b.mp4")
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, "--out", tmp_path / "out", *arguments)
    printed = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in printed
    assert printed.count("\n") == 1


def test_a_missing_package_is_one_line_that_names_the_extra(tmp_path, monkeypatch, capsys):
    film(tmp_path / "a.gif", 3)
    table(tmp_path / "a.csv", "frame,action", [(i, i) for i in range(3)])
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(SystemExit):
        run(tmp_path, "--out", tmp_path / "out")
    assert "imageio_ffmpeg is not installed" in (printed := capsys.readouterr().err)
    assert "pip install 'diamond_fast[recordings]'" in printed
