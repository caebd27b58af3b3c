"""Grids of frames: every shown frame is the right one, enlarged without a changed pixel."""

import numpy as np
import pytest
from PIL import Image

from diamond_fast.runs.pictures import BACKGROUND, pictured_times, save_frame_grid, save_gif


def random_frames(seed, steps, height, width):
    return np.random.default_rng(seed).integers(0, 256, (steps, height, width, 3), dtype=np.uint8)


def find(picture, frame, scale):
    """Top left corners at which ``frame`` stands in ``picture``, enlarged ``scale`` times."""
    enlarged = frame.repeat(scale, 0).repeat(scale, 1)
    height, width = enlarged.shape[:2]
    corners = np.argwhere((picture == enlarged[0, 0]).all(-1))
    return [
        (y, x)
        for y, x in corners.tolist()
        if picture[y : y + height, x : x + width].shape == enlarged.shape
        and np.array_equal(picture[y : y + height, x : x + width], enlarged)
    ]


@pytest.mark.parametrize(("height", "width", "scale"), [(64, 64, 3), (24, 24, 8), (5, 7, 28), (210, 160, 2)])
def test_each_frame_stands_in_its_row_and_column(tmp_path, height, width, scale):
    segments = [(random_frames(2 * s, 6, height, width), random_frames(2 * s + 1, 6, height, width)) for s in range(2)]
    path = save_frame_grid(tmp_path / "strip.png", segments, times=(1, 3, 6))
    picture = np.asarray(Image.open(path))
    rows, columns = [], []
    for real, imagined in segments:
        difference = np.abs(real.astype(int) - imagined.astype(int)).astype(np.uint8)
        for frames in (real, imagined, difference):
            corners = [find(picture, frames[t - 1], scale) for t in (1, 3, 6)]
            assert [len(found) for found in corners] == [1, 1, 1]
            assert len({found[0][0] for found in corners}) == 1
            rows.append(corners[0][0][0])
            columns.append([found[0][1] for found in corners])
    assert rows == sorted(rows)
    assert np.diff(rows).min() > height * scale
    assert all(c == columns[0] for c in columns)
    assert columns[0] == sorted(columns[0])


def test_pictures_show_the_last_step_of_any_horizon():
    assert pictured_times(15) == [1, 5, 10, 15]
    assert [pictured_times(n) for n in (1, 7, 40)] == [[1], [1, 5, 7], [1, 5, 10, 15, 40]]


def test_labels_are_drawn(tmp_path):
    frames = np.full((1, 64, 64, 3), BACKGROUND, np.uint8)
    plain = np.asarray(Image.open(save_frame_grid(tmp_path / "a.png", [(frames, frames)], times=(1,))))
    left_of_frames, above_frames = plain[60:, :100], plain[:55, 140:]
    for labels in (left_of_frames, above_frames):
        assert (labels != np.array(BACKGROUND)).any()


@pytest.mark.parametrize(
    ("segments", "times", "error"),
    [
        ([], (1,), ValueError),
        ([(np.zeros((2, 4, 4, 3), np.uint8),) * 2], (), ValueError),
        ([(np.zeros((2, 4, 4, 3), np.uint8),) * 2], (0,), ValueError),
        ([(np.zeros((2, 4, 4, 3), np.uint8),) * 2], (3,), ValueError),
        ([(np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 4, 5, 3), np.uint8))], (1,), ValueError),
        ([(np.zeros((2, 4, 4, 1), np.uint8),) * 2], (1,), ValueError),
        ([(np.zeros((2, 4, 4, 3), np.float32),) * 2], (1,), TypeError),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, segments, times, error):
    with pytest.raises(error):
        save_frame_grid(tmp_path / "strip.png", segments, times)
    assert list(tmp_path.iterdir()) == []


def test_a_gif_plays_all_steps_in_order(tmp_path):
    """Few grey levels, for a GIF has 256 colours: every pixel survives. The first one is rare, to be found quickly."""
    rng = np.random.default_rng(0)
    segments = [rng.choice([0, 90, 255], (2, 4, 24, 24, 1)).repeat(3, -1).astype(np.uint8) for _ in range(2)]
    for real, imagined in segments:
        real[:, 0, 0], imagined[:, 0, 0] = 180, 140
    movie = Image.open(save_gif(tmp_path / "a.gif", segments, frames_per_second=10))
    assert movie.n_frames == 4
    assert movie.info["loop"] == 0
    pauses = []
    for t in range(4):
        movie.seek(t)
        pauses.append(movie.info["duration"])
        page = np.asarray(movie.convert("RGB"))
        corners = []
        for real, imagined in segments:
            difference = np.abs(real[t].astype(int) - imagined[t].astype(int)).astype(np.uint8)
            found = [find(page, frame, 8) for frame in (real[t], imagined[t], difference)]
            assert [len(places) for places in found] == [1, 1, 1]
            corners.append([places[0] for places in found])
        tops, lefts = np.array(corners).transpose(2, 0, 1)
        assert (tops[0] == tops[1]).all()
        assert (np.diff(tops[0]) > 24 * 8).all()
        assert (lefts[0] + 24 * 8 < lefts[1]).all()
    assert pauses == [100, 100, 100, 400]


def test_what_cannot_play_together_is_refused(tmp_path):
    short, long = (np.zeros((n, 4, 4, 3), np.uint8) for n in (2, 3))
    for segments in ([], [(long, short)]):
        with pytest.raises(ValueError, match=r"segments|times"):
            save_gif(tmp_path / "a.gif", segments)
    assert list(tmp_path.iterdir()) == []
