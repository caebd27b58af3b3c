import pytest

from diamond_fast.config import RunConfig
from diamond_fast.playing.buttons import Buttons, action_label, action_names

ATARI = ("NOOP", "FIRE", "UP", "RIGHT", "LEFT", "DOWN", "UPRIGHT", "UPLEFT", "UPFIRE", "UPRIGHTFIRE")


@pytest.mark.parametrize(
    ("held", "action"),
    [
        ([], "NOOP"),
        (["up"], "UP"),
        (["right", "up"], "UPRIGHT"),
        (["fire", "right", "up"], "UPRIGHTFIRE"),
        (["left", "right"], "RIGHT"),  # the last one pressed
        (["right", "left"], "LEFT"),
        (["left", "fire"], "FIRE"),  # there is no LEFTFIRE here
        (["down", "right", "up"], "UPRIGHT"),
    ],
)
def test_held_buttons_mean_the_action_that_uses_most_of_them(held, action):
    assert ATARI[Buttons(ATARI).action(held)] == action


def test_directions_and_fire_are_the_buttons_where_actions_are_named_so():
    assert Buttons(ATARI).names == ("up", "down", "left", "right", "fire")
    assert Buttons(("LEFT", "NOOP", "RIGHT")).names == ("left", "right")
    assert Buttons(("LEFT", "NOOP", "RIGHT")).action([]) == 1


def test_other_actions_have_a_button_each():
    buttons = Buttons(("0", "1", "2"))
    assert buttons.names == ("0", "1", "2")
    assert buttons.action(["2"]) == 2
    assert buttons.action([]) == 0


def test_names_come_from_the_game():
    assert action_names(RunConfig(game="Boxing"), 18)[:6] == ("NOOP", "FIRE", "UP", "RIGHT", "LEFT", "DOWN")
    assert action_names(RunConfig(game="Breakout"), 4) == ("NOOP", "FIRE", "RIGHT", "LEFT")
    assert action_names(RunConfig(env_id="diamond_fast/Catch-v0"), 3) == ("LEFT", "NOOP", "RIGHT")
    assert action_names(RunConfig(env_id="CartPole-v1"), 2) == ("0", "1")


def test_a_game_that_is_not_installed_has_numbered_actions():
    assert action_names(RunConfig(env_id="NotInstalled-v3"), 3) == ("0", "1", "2")
    assert action_names(RunConfig(env_id="not_installed:Env-v0"), 2) == ("0", "1")
    assert action_names(RunConfig(game="NoSuchGame"), 2) == ("0", "1")


def test_labels():
    assert action_label("UPRIGHTFIRE") == "up + right + fire"
    assert action_label("NOOP") == "nothing"
    assert action_label("7") == "7"
