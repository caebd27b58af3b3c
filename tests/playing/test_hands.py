"""Keys, levers and the mouse become actions, as a player means them."""

from itertools import combinations

import numpy as np
import pytest

from diamond_fast.config import RunConfig
from diamond_fast.controls import default_controls
from diamond_fast.domains import domain_of
from diamond_fast.playing.agent import choose, expected
from diamond_fast.playing.buttons import Buttons
from diamond_fast.playing.hands import Hands, panel_of
from diamond_fast.presets import PRESETS
from diamond_fast.replay import Replay, csgo
from diamond_fast.spec import Box, Discrete, Mixed, MultiBinary


@pytest.fixture
def strike():
    return domain_of(PRESETS["csgo"]).controls(PRESETS["csgo"])


def numbers(*ones):
    return sorted(np.array(ones).tolist())


def ones(row):
    return np.flatnonzero(row).tolist()


def test_counter_strike_at_rest_and_with_every_key(strike):
    assert strike.action == MultiBinary(51)
    assert ones(strike.act(())) == [24, 43]
    assert len(strike.buttons) == 17
    for column, key in enumerate(strike.keys):
        row = strike.act((key.name,))
        assert ones(row) == [column, 24, 43]
        assert row.dtype == np.uint8
        assert csgo.ACTION.why_not(row) is None
    names = [key.name for key in strike.keys]
    assert names[:4] == ["up", "left", "down", "right"]  # as recordings have them: w, a, s, d
    everything = strike.act([button.name for button in strike.buttons])
    walk_and_step, others, weapon = [0, 1], [4, 5, 6, 10, 11, 12], [7]
    left_and_up = [13 + csgo.MOUSE_X.index(-60), 36 + csgo.MOUSE_Y.index(-50)]
    assert ones(everything) == numbers(*walk_and_step, *others, *weapon, *left_and_up)


def test_of_what_excludes_each_other_the_first_pressed_counts(strike):
    groups = [("up", "down"), ("left", "right"), ("weapon 1", "weapon 2", "weapon 3")]
    groups += [("look left", "look right"), ("look up", "look down")]
    for group in groups:
        for pair in combinations(group, 2):
            for held in (pair, pair[::-1]):
                assert np.array_equal(strike.act(held), strike.act(held[:1])), held
                assert not np.array_equal(strike.act(held), strike.act(()))


@pytest.mark.parametrize(
    ("points", "x", "y"),
    [
        ((0, 0), 0, 0),
        ((7, -7), 4, -10),  # of two that are equally near, the smaller
        ((1, 1), 0, 0),
        ((45, 16), 30, 20),
        ((5000, 5000), 1000, 200),
        ((-751, -151), -1000, -200),
        ((-750, -150), -1000, -200),
        ((-749, -149), -500, -100),
    ],
)
def test_the_mouse_moves_by_the_nearest_bin(strike, points, x, y):
    row = strike.act((), tuple(number / look.gain for number, look in zip(points, strike.looks, strict=True)))
    assert csgo.MOUSE_X[row[13:36].argmax()] == x
    assert csgo.MOUSE_Y[row[36:].argmax()] == y
    assert ones(row) == numbers(13 + csgo.MOUSE_X.index(x), 36 + csgo.MOUSE_Y.index(y))


def test_motion_is_summed_until_a_step_and_arrows_come_first(strike):
    hands = Hands(strike)
    for _ in range(10):
        hands.hold(["up"], mouse=(2.0, -0.5))
    hands.hold(["up"])
    row = hands.act(15)
    assert csgo.MOUSE_X[row[13:36].argmax()] == 60  # 80 points, as near to 60 as to 100
    assert csgo.MOUSE_Y[row[36:].argmax()] == -20
    assert ones(hands.act(15)) == [0, 24, 43]
    hands.hold(["look left"], mouse=(50, 0))
    assert csgo.MOUSE_X[hands.act(15)[13:36].argmax()] == -60


def test_levers_move_at_their_own_speed_and_come_back():
    controls = default_controls(Box(3), ("steering", "gas", "brake"), (0, -1, -1))
    hands = Hands(controls, clock=lambda: 0.0)
    hands.act(speed=10)
    hands.hold(["steering +", "gas +"])
    rows = np.stack([hands.act(speed=10) for _ in range(12)])  # half a second to the end: 0.2 a step
    np.testing.assert_allclose(rows[:, 0], np.minimum(0.2 * np.arange(1, 13), 1), atol=1e-6)
    np.testing.assert_allclose(rows[:, 1], np.minimum(-1 + 0.2 * np.arange(1, 13), 1), atol=1e-6)
    assert (rows[:, 2] == -1).all()
    hands.hold(["steering +", "steering -"])  # the last pressed
    np.testing.assert_allclose(hands.act(10), [0.8, 0.8, -1], atol=1e-6)
    hands.hold([])
    for _ in range(20):
        row = hands.act(10)
    np.testing.assert_allclose(row, [0, -1, -1], atol=1e-6)
    hands.hold([], axes={"steering": -0.3, "brake": 7.0})
    hands.act(10)
    np.testing.assert_allclose(hands.act(10), [-0.3, -1, 1], atol=1e-6)  # stays as it is put
    hands.hold([], axes={"steering": None})
    np.testing.assert_allclose(hands.act(10), [-0.1, -1, 1], atol=1e-6)
    assert hands.act(10).dtype == np.float32


def test_a_world_that_is_slower_than_asked_for_moves_levers_as_fast():
    times = iter([0.0, 0.1, 0.2, 0.21, 100.0])
    hands = Hands(default_controls(Box(1)), clock=lambda: next(times))
    hands.act(speed=60)
    hands.hold(["0 +"])
    for position in (0.2, 0.4, 0.4 + 1 / 30, 0.4 + 1 / 30 + 0.25):  # a step lasts 1/60 at least, and 1/8 after a pause
        assert hands.act(speed=60)[0] == pytest.approx(position)


def test_a_tap_moves_a_lever_once():
    hands = Hands(default_controls(Box(1)), clock=lambda: 0.0)
    hands.act(10)
    hands.hold(["0 -"])
    hands.hold([])
    assert hands.act(10)[0] == pytest.approx(-0.2)
    assert hands.act(10)[0] == 0


def test_a_world_of_driving_says_what_its_numbers_are():
    cfg = RunConfig(domain="driving", static_dataset="drives", world_model_only=True)
    panel = panel_of(cfg, Box(2), None, ())
    assert [lever.name for lever in panel.levers] == ["steering", "acceleration"]
    assert "Mouse0" in panel.levers[1].more.codes
    assert [lever.name for lever in panel_of(cfg, Box(3), None, ()).levers] == ["0", "1", "2"]


def test_parts_of_a_mixed_action_are_what_they_are():
    parts = ("keys", MultiBinary(2)), ("turn", Box(2)), ("gear", Discrete(3)), ("throttle", Box(1))
    action = Mixed(parts=parts)
    usual = np.zeros((4, action.n), np.float32)
    usual[:, 5] = 1  # the second gear
    controls = default_controls(action, usual=usual)
    assert [key.name for key in controls.keys] == ["keys 0", "keys 1", "gear 0", "gear 2"]
    assert [look.direction for look in controls.looks] == ["x", "y"]
    assert [lever.name for lever in controls.levers] == ["throttle"]
    row = controls.act(("keys 1", "gear 2", "gear 0"), (60, -240), {"throttle": 0.5})
    np.testing.assert_allclose(row, [0, 1, 0.5, -1, 0, 0, 1, 0.5])
    assert action.why_not(row) is None
    assert controls.shown(row) == (0, 1, 0, 1, 0.5, 0.5, -1)
    np.testing.assert_allclose(controls.act(()), [0, 0, 0, 0, 0, 1, 0, 0])
    codes = [code for button in controls.buttons for code in button.codes]
    assert len(set(codes)) == len(codes)  # no key does two things


def test_what_a_domain_says_comes_first_if_it_fits():
    replay, no = Replay((2, 2, 3), capacity=1, action=Box(3)), np.zeros(1, bool)
    frame = np.zeros((1, 2, 2, 3), np.uint8)
    replay.append(frame, np.zeros((1, 3), np.float32), np.zeros(1, np.float32), no, no, frame)
    replay.commit()
    pytest.importorskip("Box2D", reason="needs gymnasium's CarRacing (pip install 'gymnasium[box2d]')")
    panel = panel_of(RunConfig(env_id="CarRacing-v3"), Box(3), replay, ())
    assert [lever.name for lever in panel.levers] == ["steering", "gas", "brake"]
    assert panel.idle.tolist() == [0, -1, -1]
    panel = panel_of(RunConfig(env_id="NotInstalled-v3"), Box(3), replay, ())
    assert [lever.name for lever in panel.levers] == ["0", "1", "2"]


def test_named_buttons_are_walked_with_and_the_mouse_looks():
    action = Mixed(
        parts=(("clicks", MultiBinary(1)), ("keys", MultiBinary(4)), ("mouse_x", Box(1)), ("mouse_y", Box(1)))
    )
    names = ("fire", "up", "left", "down", "right", "mouse x", "mouse y")
    controls = default_controls(action, names)
    assert default_controls(action).keys == controls.keys  # as a recording has them, whose parts alone are named
    assert [key.codes[0] for key in controls.keys] == ["Space", "KeyW", "KeyA", "KeyS", "KeyD"]  # arrows look
    assert "Mouse0" in controls.keys[0].codes
    np.testing.assert_allclose(controls.act(("up", "fire"), (-60, 30)), [1, 1, 0, 0, 0, -0.5, 0.25])


def test_an_unknown_button_or_lever_is_refused():
    hands = Hands(default_controls(Box(1)))
    with pytest.raises(ValueError, match="button: expected some of 0 -, 0 \\+, got 'jump'"):
        hands.hold(["jump"])
    with pytest.raises(ValueError, match="axes: expected some of 0, got 'gas'"):
        hands.hold([], axes={"gas": 1.0})
    with pytest.raises(ValueError, match="axes: expected some of none"):
        Hands(Buttons(("LEFT", "NOOP"))).hold([], axes={"gas": 1.0})


@pytest.mark.parametrize("action", [Box(2), MultiBinary(3), Mixed(parts=(("b", Box(1)), ("d", Discrete(2))))])
def test_what_an_agent_does_is_an_action_and_follows_what_it_expects(action):
    import torch

    from diamond_fast.networks.actor_critic.distributions import distribution_of

    outputs = torch.linspace(-2, 2, distribution_of(action).num_outputs)
    drawn = np.stack([choose(action, outputs[None], torch.Generator().manual_seed(seed)) for seed in range(400)])
    assert drawn.dtype == action.dtype
    assert action.why_not(drawn) is None
    likely = expected(action, outputs)
    if isinstance(action, MultiBinary):
        np.testing.assert_allclose(likely, 1 / (1 + np.exp(-outputs.numpy())), rtol=1e-5)
        np.testing.assert_allclose(drawn.mean(axis=0), likely, atol=0.1)
    elif isinstance(action, Box):
        np.testing.assert_allclose((drawn < likely).mean(axis=0), 0.5, atol=0.1)
    else:
        assert (drawn[:, 0] < likely[0]).mean() == pytest.approx(0.5, abs=0.1)
        np.testing.assert_allclose(drawn[:, 1:].mean(axis=0), likely[1:], atol=0.1)
        assert likely[1:].sum() == pytest.approx(1)
