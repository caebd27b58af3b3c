import json

import pytest

from diamond_fast.playing.commands import Command, decode, perform


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 2000,
        "null",
        "[]",
        "3",
        '"step"',
        "{}",
        '{"do": 3}',
        '{"do": ["step"]}',
        '{"do": "__init__"}',
        '{"do": "close"}',
        '{"do": "step", "value": 1}',
        '{"do": "pause"}',
        '{"do": "pause", "value": 1}',
        '{"do": "hold", "value": "left"}',
        '{"do": "hold", "value": [1]}',
        '{"do": "hold", "value": ["left", "left", "left", "left", "left", "left", "left", "left", "left"]}',
        '{"do": "hold", "value": {}}',
        '{"do": "hold", "value": {"keys": {"keys": []}}}',
        '{"do": "hold", "value": {"keys": [], "mouse": [1]}}',
        '{"do": "hold", "value": {"keys": [], "mouse": [1, Infinity]}}',
        '{"do": "hold", "value": {"keys": [], "mouse": [1, true]}}',
        '{"do": "hold", "value": {"keys": [], "axes": [1]}}',
        '{"do": "hold", "value": {"keys": [], "axes": {"gas": "full"}}}',
        '{"do": "hold", "value": {"keys": [], "axes": {"gas": NaN}}}',
        '{"do": "hold", "value": {"keys": [], "at": "now"}}',
        '{"do": "hold", "value": {"keys": [], "self": 1}}',
        '{"do": "speed", "value": true}',
        '{"do": "speed", "value": 1.5}',
        '{"do": "speed", "value": NaN}',
        '{"do": "speed", "value": 1e400}',
        '{"do": "seed", "value": 10000000000000000000000000000}',
        '{"do": "seed", "value": ' + "9" * 4000 + "}",
        '{"do": "seed", "value": ' + "9" * 5000 + "}",
        '{"do": "seek", "value": [1]}',
        '{"do": "seek", "value": [1, 2, 3]}',
        '{"do": "seek", "value": {"episode": 1}}',
        '{"do": "world", "value": {}}',
    ],
)
def test_malformed_messages_are_one_clear_line(text):
    with pytest.raises(ValueError, match=r"^[a-z_]+: expected") as caught:
        decode(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_every_command_does_what_it_says(make_session):
    session = make_session()

    def do(name, value=None):
        perform(session, decode(json.dumps({"do": name, "value": value})))
        return session.view()

    assert not do("pause", False).paused
    view = do("step")
    assert (view.paused, view.step, view.action) == (True, 1, 1)
    assert do("world", "real").world == "real"
    do("hold", ["left"])
    assert do("step").action == 0
    do("hold", {"keys": ["right"], "mouse": [3, -4.5], "at": 12.5})
    view = do("step")
    assert (view.action, view.answers) == (2, 12.5)
    assert do("step").answers is None
    assert do("controller", "agent").controller == "agent"
    assert do("restart").step == 0
    assert do("record", True).recording
    assert do("seek", [2, 7]).position[:2] == (2, 7)
    assert do("next").position[:2] == (3, 0)
    assert do("dream_from_here").world == "model"
    for name, value in (("denoising_steps", 4), ("horizon", 30), ("speed", 20), ("seed", 11)):
        assert getattr(do(name, value), name) == value
    assert do("seen") is not None


def test_a_command_without_sense_is_refused_by_the_session(make_session):
    for command in (Command("speed", 10**6), Command("hold", ["\x00"]), Command("world", "../../etc/passwd")):
        with pytest.raises(ValueError, match="expected"):
            perform(make_session(), command)
