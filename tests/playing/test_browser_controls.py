"""Several keys, levers and the mouse in a real browser: what reaches the game is the action that was meant."""

import numpy as np
import pytest
from chromium import EXECUTABLE, text

from diamond_fast.replay import csgo

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="no chromium is installed (apt-get install chromium)")

LOCKED = "document.body.classList.contains('locked')"
PAD = """navigator.getGamepads = () => [window.sticks ??= {
  axes: [0, 0, 0, 0], buttons: Array.from({ length: 17 }, () => ({ value: 0 })),
}]; navigator.getGamepads(); dispatchEvent(new Event("gamepadconnected"))"""


def box(selector):
    return f"document.querySelector('{selector}').getBoundingClientRect().toJSON()"


def centre(box):
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def actions(session):
    """All actions from now on, as the world was told them."""
    told, step = [], session._world.step

    def listen(action):
        told.append(np.array(action))
        return step(action)

    session._world.step = listen
    return told


async def reached(page, told, condition):
    """Waits until an action is told for which it holds, and forgets the actions before."""
    seen = len(told)
    await page.until(text("count"))
    for _ in range(600):
        if any(condition(action) for action in told[seen:]):
            return
        await page.evaluate("new Promise(requestAnimationFrame)")
    raise AssertionError(told[-3:])


@pytest.fixture(autouse=True)
def ends_are_short(monkeypatch):
    """Untrained worlds end at every other step, and what an end shows is looked at in other tests."""
    monkeypatch.setattr("diamond_fast.playing.loop.PAUSE_AT_END", 0.05)


def test_many_keys_and_the_mouse(browse, strike, tmp_path):
    async def scenario(page, session):
        told = actions(session)
        for code in ("KeyW", "KeyD", "Space", "ShiftLeft", "Digit2", "Digit3"):
            await page.key("keyDown", code)
        held = {0, 3, 4, 6, 8}  # the third weapon waits for the second to be let go
        await reached(page, told, lambda row: {*np.flatnonzero(row[:13])} == held)
        assert await page.until("[...document.querySelectorAll('#pad .on')].length === 5")
        await page.key("keyUp", "Digit2")
        await reached(page, told, lambda row: {*np.flatnonzero(row[:13])} == {0, 3, 4, 6, 9})
        x, y = centre(await page.evaluate(box("#frame")))
        for kind in ("mousePressed", "mouseReleased"):
            await page.mouse(kind, x, y, "left")
        await page.until(LOCKED)
        await page.mouse("mousePressed", x, y, "right")
        await reached(page, told, lambda row: row[12] == 1)
        await page.mouse("mouseReleased", x, y, "right")
        before = len(told)
        for step in range(1, 21):
            await page.mouse("mouseMoved", x + 5 * step, y - step)
        await reached(page, told, lambda row: row[:13].sum() == 5 and row[24] == 1 == row[43])
        sums = np.zeros(2)
        for row in told[before:]:
            sums += csgo.MOUSE_X[row[13:36].argmax()], csgo.MOUSE_Y[row[36:].argmax()]
        assert 200 <= sums[0] <= 800  # 100 pixels are 400 points, in bins of unequal width
        assert -160 <= sums[1] <= -40
        await page.screenshot(tmp_path / "strike.png", whole_page=True)

    browse(scenario, of=strike, speed=20, horizon=10_000)


def test_a_second_stick_looks_around_by_touch(browse, strike, tmp_path):
    async def scenario(page, session):
        await page.resize(390, 844, phone=True)
        told = actions(session)
        await page.until("innerWidth === 390")
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390
        stick = await page.evaluate(box("#look"))
        assert stick["bottom"] < 844
        assert stick["width"] >= 100
        key = await page.evaluate(box("#pad .up"))
        await page.evaluate("document.getElementById('pause').click()")
        await page.touch("touchStart", stick["x"] + stick["width"] - 5, stick["y"] + stick["height"] / 2)
        await reached(page, told, lambda row: row[13:36].argmax() > 13 and row[43] == 1)
        await page.touch("touchEnd")
        await reached(page, told, lambda row: row[24] == 1)
        await page.touch("touchStart", *centre(key))
        await reached(page, told, lambda row: row[0] == 1)
        await page.touch("touchEnd")
        await page.screenshot(tmp_path / "strike_phone.png")

    browse(scenario, of=strike, speed=20, horizon=10_000)


def test_steering_by_key_mouse_slider_and_gamepad(browse, roll, tmp_path):
    async def scenario(page, session):
        told = actions(session)
        await page.key("keyDown", "ArrowLeft")
        await reached(page, told, lambda row: row[0] == -1)
        ramp = np.unique(np.concatenate(told))
        assert len(ramp) > 3  # it moved there step by step
        await page.key("keyUp", "ArrowLeft")
        await reached(page, told, lambda row: row[0] == 0)
        slot = await page.evaluate(box(".track"))
        x, y = slot["x"] + 12 + 0.75 * (slot["width"] - 24), slot["y"] + 10
        await page.mouse("mousePressed", x, y, "left")
        await reached(page, told, lambda row: abs(row[0] - 0.5) < 0.02)
        assert await page.until(
            "Math.abs(document.querySelector('.track').style.getPropertyValue('--at') - 0.75) < 0.01"
        )
        await page.screenshot(tmp_path / "roll.png", whole_page=True)
        await page.mouse("mouseReleased", x, y, "left")
        await reached(page, told, lambda row: row[0] == 0)
        x, y = centre(await page.evaluate(box("#frame")))
        for kind in ("mousePressed", "mouseReleased"):
            await page.mouse(kind, x, y, "left")
        await page.until(LOCKED)
        await page.mouse("mouseMoved", x - 100, y)
        await reached(page, told, lambda row: abs(row[0] + 0.4) < 0.05)
        await page.evaluate("document.exitPointerLock()")
        await reached(page, told, lambda row: row[0] == 0)
        await page.evaluate(PAD)
        await page.evaluate("window.sticks.axes[0] = 0.8")
        await reached(page, told, lambda row: abs(row[0] - 0.8) < 0.01)
        await page.evaluate("window.sticks.axes[0] = 0.05")  # a stick that rests
        await reached(page, told, lambda row: row[0] == 0)
        assert "ms from key to picture" in await page.until(f"{text('speedometer')}")

    browse(scenario, of=roll, speed=30, horizon=10_000)


def test_a_car_has_its_pedals_on_mouse_and_gamepad(browse, drives, tmp_path):
    async def scenario(page, session):
        told = actions(session)
        assert await page.evaluate("[...document.querySelectorAll('.lever')].map(x => x.dataset.lever)") == [
            "steering", "acceleration"
        ]  # fmt: skip
        shown = "[...document.querySelectorAll('.track')].map(x => 2 * x.style.getPropertyValue('--at') - 1)"
        x, y = centre(await page.evaluate(box("#frame")))
        for kind in ("mousePressed", "mouseReleased"):
            await page.mouse(kind, x, y, "left")
        await page.until(LOCKED)
        await page.mouse("mouseMoved", x + 100, y)
        for button, pedal in (("left", 1), ("right", -1)):
            await page.mouse("mousePressed", x + 100, y, button)
            await reached(page, told, lambda row, pedal=pedal: abs(row[0] - 0.4) < 0.05 and row[1] == pedal)
            await page.until(f"Math.abs({shown}[1] - {pedal}) < 0.01")
            await page.mouse("mouseReleased", x + 100, y, button)
        await page.key("keyDown", "ArrowLeft")  # who steers by keys need not let go of the mouse first
        await reached(page, told, lambda row: row[0] == -1)
        await page.key("keyUp", "ArrowLeft")
        await page.evaluate("document.exitPointerLock()")
        await reached(page, told, lambda row: not row.any())
        await page.evaluate(PAD)
        await page.evaluate("window.sticks.axes[0] = -0.6; window.sticks.buttons[7].value = 0.7")
        await reached(page, told, lambda row: np.allclose(row, [-0.6, 0.7], atol=0.01))
        await page.evaluate("window.sticks.buttons[7].value = 0; window.sticks.buttons[6].value = 0.3")
        await reached(page, told, lambda row: np.allclose(row, [-0.6, -0.3], atol=0.01))
        await page.evaluate("navigator.getGamepads = () => [null, null]")  # unplugged while it is pulled
        await reached(page, told, lambda row: not row.any())

    browse(scenario, of=drives, speed=30, horizon=10_000)


def test_what_a_world_from_a_recording_lacks_is_not_offered(browse, drives, tmp_path):
    async def scenario(page, session):
        hidden = "getComputedStyle(document.querySelector('{}')).display === 'none'"
        for selector in ("#world [data-value=real]", "#controller [data-value=agent]", "#chart"):
            assert await page.evaluate(hidden.format(selector)), selector
        footer = await page.evaluate(text("keys"))
        assert "agent" not in footer
        assert "model or replay" in footer
        for kind in ("keyDown", "keyUp"):
            await page.key(kind, "KeyM")
        await page.until("document.body.dataset.world === 'replay'")
        assert not await page.evaluate(hidden.format("#chart"))  # a recording has rewards, perhaps

    browse(scenario, of=drives)


def test_a_phone_held_sideways_has_the_levers_beside_the_picture(browse, drives, tmp_path):
    async def scenario(page, session):
        await page.resize(844, 390, phone=True)
        await page.until("innerWidth === 844")
        picture = await page.evaluate(box("#frame"))
        assert picture["bottom"] <= 390
        for n in (1, 2):
            track = await page.evaluate(box(f".lever:nth-child({n}) .track"))
            assert track["bottom"] <= 390
            assert track["left"] > picture["right"]
            assert track["width"] > 150
        assert await page.evaluate("document.documentElement.scrollWidth") <= 844

    browse(scenario, of=drives)
