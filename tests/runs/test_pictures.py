"""Strips: every shown frame is the right one, enlarged without a changed pixel."""

import numpy as np
import pytest
from PIL import Image

from diamond_fast.runs.pictures import BACKGROUND, save_strips


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
    path = save_strips(tmp_path / "strip.png", segments, times=(1, 3, 6), titles=["episode 1", "episode 2"])
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


def test_labels_are_drawn(tmp_path):
    frames = np.full((1, 64, 64, 3), BACKGROUND, np.uint8)
    plain = np.asarray(Image.open(save_strips(tmp_path / "a.png", [(frames, frames)], times=(1,))))
    left_of_frames, above_frames = plain[60:, :100], plain[:55, 140:]
    for labels in (left_of_frames, above_frames):
        assert (labels != np.array(BACKGROUND)).any()


@pytest.mark.parametrize(
    ("segments", "times", "titles", "error"),
    [
        ([], (1,), None, ValueError),
        ([(np.zeros((2, 4, 4, 3), np.uint8),) * 2], (), None, ValueError),
        ([(np.zeros((2, 4, 4, 3), np.uint8),) * 2], (0,), None, ValueError),
        ([(np.zeros((2, 4, 4, 3), np.uint8),) * 2], (3,), None, ValueError),
        ([(np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 4, 5, 3), np.uint8))], (1,), None, ValueError),
        ([(np.zeros((2, 4, 4, 1), np.uint8),) * 2], (1,), None, ValueError),
        ([(np.zeros((2, 4, 4, 3), np.float32),) * 2], (1,), None, TypeError),
        ([(np.zeros((2, 4, 4, 3), np.uint8),) * 2], (1,), ["a", "b"], ValueError),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, segments, times, titles, error):
    with pytest.raises(error):
        save_strips(tmp_path / "strip.png", segments, times, titles)
    assert list(tmp_path.iterdir()) == []
