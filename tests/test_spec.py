import numpy as np
import pytest

from diamond_fast.spec import ACTIONS, Box, Discrete, Frame, MultiBinary


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
