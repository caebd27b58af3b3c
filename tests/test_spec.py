import json
import re

import numpy as np
import pytest

from diamond_fast.spec import ACTIONS, Box, Discrete, Frame, Mixed, MultiBinary, action_from_json


@pytest.mark.parametrize("kind", ACTIONS.values())
def test_random_actions_are_actions(kind):
    action = kind(5)
    drawn = action.sample(np.random.default_rng(0).random, (40, 3))
    assert (drawn.shape, drawn.dtype) == ((40, 3, *action.shape), action.dtype)
    assert action.why_not(drawn) is None


def test_random_actions_are_equally_likely():
    uniform = np.random.default_rng(1).random
    counts = np.bincount(Discrete(5).sample(uniform, (50_000,)), minlength=5)
    assert np.abs(counts / 10_000 - 1).max() < 0.05
    pressed = MultiBinary(3).sample(uniform, (50_000,)).mean(axis=0)
    assert np.abs(pressed - 0.5).max() < 0.01
    turned = Box(2).sample(uniform, (50_000,))
    assert np.abs(turned.mean(axis=0)).max() < 0.01
    assert -1 <= turned.min() < -0.99 < 0.99 < turned.max() <= 1


def test_the_largest_number_below_one_is_the_last_action():
    almost_one = np.nextafter(1.0, 0.0)
    for n in (1, 3, 18, 1000):
        assert Discrete(n).sample(lambda shape: np.full(shape, almost_one), (2,)).tolist() == [n - 1] * 2


def test_frames_are_square_unless_they_have_two_sizes():
    assert Frame.of_size(64) == Frame(64, 64, 3)
    assert Frame.of_size((30, 56), 1).shape == (30, 56, 1)


CONTROLS = Mixed(parts=(("keys", MultiBinary(2)), ("mouse", Discrete(3)), ("wheel", Box(1))))


def test_a_mixed_action_is_one_row_of_its_parts():
    keys, mouse, wheel = [[1, 0], [0, 1]], [2, 0], [[0.5], [-3.0]]
    act = CONTROLS.encode({"keys": keys, "mouse": mouse, "wheel": wheel})
    assert act.dtype == CONTROLS.dtype == np.float32
    assert act.tolist() == [[1, 0, 0, 0, 1, 0.5], [0, 1, 1, 0, 0, -3.0]]
    parts = CONTROLS.decode(act)
    assert [parts[name].tolist() for name in ("keys", "mouse", "wheel")] == [keys, mouse, wheel]
    assert [parts[name].dtype for name in ("keys", "mouse")] == [np.uint8, np.int64]
    without_numbers = Mixed(parts=CONTROLS.parts[:2])
    assert (without_numbers.n, without_numbers.dtype, without_numbers.nbytes) == (5, np.uint8, 5)
    drawn = CONTROLS.sample(np.random.default_rng(0).random, (50, 3))
    assert drawn.shape == (50, 3, 6)
    assert CONTROLS.why_not(drawn) is None
    assert set(CONTROLS.decode(drawn)["mouse"].ravel()) == {0, 1, 2}
    assert CONTROLS.why_not(np.zeros((4, 6), np.float32)) is None  # padding


def test_a_mixed_action_as_json():
    assert action_from_json(json.loads(json.dumps(CONTROLS.to_json()))) == CONTROLS
    for broken in ({"n": 7}, {"parts": []}, {"parts": [["a", {"kind": "mixed"}]]}, {"parts": [["a"]]}, {"parts": None}):
        with pytest.raises(ValueError, match=r"action: |parts: |at least 1"):
            action_from_json(CONTROLS.to_json() | broken)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"keys": [1, 0], "mouse": 0}, "expected keys, mouse, wheel, got keys, mouse"),
        ({"keys": [1, 0], "mouse": 3, "wheel": [0.0]}, "mouse: expected 0 to 2, got 3 to 3"),
        ({"keys": [1, 2], "mouse": 0, "wheel": [0.0]}, "keys: expected 0 and 1, got 2"),
        ({"keys": [1, 0], "mouse": 0, "wheel": [np.nan]}, "wheel: expected finite numbers"),
    ],
)
def test_values_that_no_part_has(values, message):
    with pytest.raises(ValueError, match=message):
        CONTROLS.encode(values)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1, 0, 0, 1, 0, 0.5, 0], r"expected shape \[..., 6\]"),
        ([1, 0.5, 0, 1, 0, 0.5], "keys: expected 0 and 1, got 0.5 to 1"),
        ([1, 0, 1, 1, 0, 0.5], "mouse: expected one choice of 3 at a step, got 2"),
        ([1, 0, 0, 1, 0, np.inf], "wheel: expected finite numbers"),
    ],
)
def test_rows_that_are_no_mixed_action(row, message):
    assert re.search(message, CONTROLS.why_not(np.array([row], np.float32)))


@pytest.mark.parametrize("parts", [(), (("a", Discrete(2)), ("a", Box(1))), (("a", CONTROLS),), (("", Discrete(2)),)])
def test_parts_that_cannot_be(parts):
    with pytest.raises(ValueError, match=r"parts: |at least 1 action"):
        Mixed(parts=parts)
