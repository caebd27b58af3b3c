"""Objects in frames that are painted here: what comes, goes and changes is known."""

import numpy as np
import pytest
from PIL import Image

from diamond_fast.evaluation.faithfulness import (
    _labels,
    boxed_frames,
    follow,
    measure_faithfulness,
    objects,
    readable_digits,
)
from diamond_fast.evaluation.open_loop import Predictions
from diamond_fast.runs.boxes import save_boxed_frames

RED, BLUE, GREEN = (200, 20, 20), (20, 20, 200), (20, 200, 20)
GROUND = np.full((24, 30, 3), 60, np.uint8)


def frame(*squares, size=3):
    """Squares (top, left, colour) before the ground."""
    painted = GROUND.copy()
    for top, left, colour in squares:
        painted[top : top + size, left : left + size] = colour
    return painted


def flood_filled(foreground, colour, apart=40):
    """Patches by a flood fill over pixels: sets of (y, x)."""
    left, patches = {tuple(p) for p in np.argwhere(foreground).tolist()}, []
    while left:
        patch, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            patch.add((y, x))
            for other in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if other in left and np.abs(colour[y, x] - colour[other]).max() <= apart:
                    left.remove(other)
                    edge.append(other)
        patches.append(frozenset(patch))
    return set(patches)


@pytest.mark.parametrize("seed", range(4))
def test_patches_against_a_flood_fill(seed):
    rng = np.random.default_rng(seed)
    foreground = rng.random((17, 23)) < 0.55
    colour = rng.choice([0, 30, 90], (17, 23, 1)).repeat(3, -1)
    labels = _labels(foreground, colour)
    numbers = set(labels[foreground].tolist())
    patches = {frozenset(map(tuple, np.argwhere((labels == n) & foreground).tolist())) for n in numbers}
    assert patches == flood_filled(foreground, colour)


def test_objects_have_colour_place_and_box():
    found = objects(frame((2, 3, RED), (10, 20, BLUE), (13, 20, RED)), GROUND)
    assert found.colours.tolist() == [list(RED), list(BLUE), list(RED)]  # two that touch are apart by colour
    assert found.centres.tolist() == [[3, 4], [11, 21], [14, 21]]
    assert found.boxes.tolist() == [[2, 3, 5, 6], [10, 20, 13, 23], [13, 20, 16, 23]]


def test_specks_and_what_is_large_are_no_small_objects():
    painted = frame((2, 3, RED))
    painted[20, 20] = BLUE
    painted[8:16, 0:20] = GREEN  # 160 of 720 pixels
    assert len(objects(painted, GROUND).boxes) == 1
    assert objects(GROUND, GROUND).boxes.shape == (0, 4)


def test_what_comes_goes_and_changes():
    frames = np.stack(
        [
            frame((2, 3, RED), (10, 20, BLUE)),
            frame((2, 5, RED), (11, 20, BLUE)),  # both move
            frame((2, 5, GREEN), (12, 20, BLUE)),  # one changes
            frame((12, 20, BLUE), (12, 24, BLUE)),  # one goes, another comes
            frame((2, 24, BLUE), (12, 24, BLUE)),  # one jumps further than objects move: it goes and comes
        ]
    )
    _, events = follow(frames, GROUND)
    assert [tuple(map(len, e)) for e in events] == [(0, 0, 0), (0, 0, 1), (1, 1, 0), (1, 1, 0)]  # came, went, changed


def test_the_nearest_of_one_colour_is_the_same_object():
    """Two objects that pass each other are not mistaken for two that change."""
    frames = np.stack([frame((10, 10, RED), (10, 14, BLUE)), frame((9, 13, RED), (12, 12, BLUE))])
    assert follow(frames, GROUND)[1][0] == ([], [], [])


def make_predictions():
    real = [frame((2, 3 + 3 * t, RED)) for t in range(5)]
    imagined = [frame((2, 3 + 3 * t, RED)) for t in range(5)]
    imagined[3] = frame((2, 12, GREEN))  # changes, and back
    imagined[4] = frame((2, 15, RED), (18, 3, BLUE))
    flickers = [real[0], GROUND, real[2], GROUND, real[4]]
    return Predictions(np.stack([real[0]] * 2), np.stack([real[1:]] * 2), np.stack([imagined[1:], flickers[1:]]))


def test_events_per_100_frames():
    result = measure_faithfulness(make_predictions())
    assert result.frames == 8
    # first segment: changed twice, appeared once; second: vanishes twice, appears twice
    assert result.imagined == {"appeared": 100 * 3 / 8, "vanished": 100 * 2 / 8, "changed": 100 * 2 / 8}
    assert result.real == {"appeared": 0, "vanished": 0, "changed": 0}
    assert result.digits_readable is None


def test_two_world_models_side_by_side():
    """The same frames of both: those at which most happens to either."""
    calm, wild = make_predictions(), make_predictions()
    calm = calm._replace(imagined=calm.real)
    assert boxed_frames(calm, 2)[0][0] == "real, t = 1"
    shown = boxed_frames(calm, columns=2, beside=wild)
    assert [title for title, _, _ in shown[2:]] == [
        "imagined, t = 1",
        "imagined, t = 2",
        "beside, t = 1",
        "beside, t = 2",
    ]
    assert [[what for _, what in boxes] for _, _, boxes in shown[2:]] == [
        ["same"],
        ["same"],
        ["vanished"],
        ["appeared"],
    ]


DIGITS = {"1": ["010", "110", "010", "010", "111"], "2": ["111", "001", "111", "100", "111"]}


def score(digit, ink=220, ground=40):
    painted = np.full((9, 7, 3), ground, np.uint8)
    painted[2:7, 2:5] = np.where(np.array([list(row) for row in DIGITS[digit]]) == "1", ink, ground)[..., None]
    return painted


@pytest.mark.parametrize(("ink", "ground"), [(220, 40), (40, 220)])
def test_digits_are_readable_if_nearly_all_their_pixels_are_right(ink, ground):
    real = np.stack([score("1", ink, ground), score("2", ink, ground)])
    blurred = ((real[0].astype(int) + real[1]) // 2).astype(np.uint8)
    one_wrong = real[1].copy()
    one_wrong[2, 2] = ground
    nothing = np.full_like(real[0], ground)
    imagined = np.stack([real[1], one_wrong, blurred, nothing])
    assert readable_digits(real, imagined, (1, 1, 8, 6)) == 0.5
    assert readable_digits(real, real[::-1], (0, 0, 9, 7)) == 1


def test_the_picture_shows_the_frames_at_which_most_happens(tmp_path):
    shown = boxed_frames(make_predictions(), columns=2)
    assert [title for title, _, _ in shown] == ["real, t = 1", "real, t = 2", "imagined, t = 1", "imagined, t = 2"]
    assert [[what for _, what in boxes] for _, _, boxes in shown] == [["same"], ["same"], ["vanished"], ["appeared"]]
    assert shown[2][2][0][0].tolist() == [2, 3, 5, 6]  # where it was
    path = save_boxed_frames(tmp_path / "objects.png", shown, "a title")
    with Image.open(path) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(10**6)}
    assert {(0x22, 0xC5, 0x5E), (0xEF, 0x44, 0x44)} <= colours
