"""The page in a real browser, headless, with keyboard and touch."""

from dataclasses import replace

import aiohttp
import pytest
from chromium import EXECUTABLE, click, text

from diamond_fast.playing.starts import spread_places

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="no chromium is installed (apt-get install chromium)")

PHONE = (390, 844)
PADDLE = """(() => {
  const canvas = document.getElementById("frame");
  const row = canvas.getContext("2d").getImageData(0, canvas.height - 1, canvas.width, 1).data;
  for (let x = 0; x < canvas.width; x++) if (row[4 * x + 1] === 255 && row[4 * x] === 0) return x;
  return -1;
})()"""
PIXELS = """(() => {
  const canvas = document.getElementById("frame");
  return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.join();
})()"""


def test_keys_move_the_player(browse):
    async def scenario(page, session):
        assert await page.evaluate("document.title") == "Catch-v0 · diamond_fast"
        assert await page.evaluate(text("count")) == "0"  # nothing moves before a key is pressed
        await page.key("keyDown", "ArrowLeft")
        await page.until(f"{PADDLE} === 0")
        await page.key("keyUp", "ArrowLeft")
        await page.key("keyDown", "KeyD")
        await page.until(f"{PADDLE} === 18")
        await page.key("keyUp", "KeyD")
        await page.key("keyDown", "KeyP")
        await page.key("keyUp", "KeyP")
        await page.until(f"{text('pause')}.includes('Play')")
        before = int(await page.evaluate(text("count")))
        await page.key("keyDown", "KeyN")
        await page.until(f"+{text('count')} === {before + 1}")

    browse(scenario, world="real", speed=30)


def test_the_dream_moves_and_shows_what_is_behind_it(browse, tmp_path):
    async def scenario(page, session):
        first = await page.evaluate(PIXELS)
        await page.evaluate(click("#controller [data-value=agent]"))
        await page.evaluate(click("#pause"))
        await page.until(f"+{text('count')} >= 2")
        assert await page.evaluate(PIXELS) != first
        taken = "document.querySelectorAll('.action.taken').length"  # none right after an episode's end
        await page.until(f"document.querySelectorAll('#trajectory canvas').length === 3 && {taken} === 1")
        shares = await page.evaluate(
            "[...document.querySelectorAll('.action')].map(a => parseFloat(a.lastChild.textContent))"
        )
        assert sum(shares) == pytest.approx(100, abs=2)
        await page.evaluate("document.getElementById('denoising_steps').value = 5")
        await page.evaluate("document.getElementById('denoising_steps').dispatchEvent(new Event('input'))")
        await page.until("document.querySelectorAll('#trajectory canvas').length === 6")
        await page.screenshot(tmp_path / "dream.png")
        assert (tmp_path / "dream.png").stat().st_size > 10_000

    browse(scenario, horizon=1000)


def test_worlds_replay_and_recording(browse):
    async def scenario(page, session):
        await page.evaluate(click("#world [data-value=replay]"))
        await page.until("document.body.dataset.world === 'replay'")
        await page.evaluate("document.getElementById('place').value = 12")
        await page.evaluate("document.getElementById('place').dispatchEvent(new Event('input'))")
        await page.until(f"{text('place-text')} === '12 of 49'")
        shown = (await page.evaluate(PIXELS)).split(",")
        frame = session.source.replay.episode(0).obs[12].reshape(-1, 3)
        assert [int(x) for x in shown[0::4]] == frame[:, 0].tolist()
        assert [int(x) for x in shown[2::4]] == frame[:, 2].tolist()
        await page.evaluate(click("#dream-from-here"))
        await page.until("document.body.dataset.world === 'model'")
        assert await page.evaluate(PIXELS) == ",".join(shown)
        await page.evaluate(click("#world [data-value=real]"))
        await page.until("document.body.dataset.world === 'real'")
        await page.evaluate(click("#record"))
        await page.evaluate(click("#step"))
        await page.until(f"{text('count')} === '1'")
        await page.evaluate(click("#record"))
        await page.until("document.querySelectorAll('#films a').length === 2")
        link = await page.evaluate("document.querySelector('#films a').href")
        async with aiohttp.ClientSession() as http, http.get(link) as film:
            assert film.status == 200
            assert (await film.read())[4:8] == b"ftyp"

    browse(scenario)


def test_a_real_game_that_is_cut_short_is_called_a_game(browse, source):
    cfg = replace(source.cfg, evaluation=replace(source.cfg.evaluation, max_steps=2))

    async def scenario(page, session):
        for step in ("1", "2"):
            await page.evaluate(click("#step"))
            await page.until(f"{text('count')} === '{step}'")
        assert await page.until(text("veil-title")) == "The game's time is up"

    browse(scenario, of=replace(source, cfg=cfg), world="real")


def test_touch_on_a_phone(browse, tmp_path):
    async def scenario(page, session):
        await page.resize(*PHONE, phone=True)
        await page.until(f"innerWidth === {PHONE[0]}")
        assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
        for name, edge in (("left", 0), ("right", 18)):
            box = await page.evaluate(f"document.querySelector('#pad .{name}').getBoundingClientRect().toJSON()")
            assert box["bottom"] < PHONE[1]  # within reach without scrolling
            assert min(box["width"], box["height"]) >= 48
            await page.touch("touchStart", box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            await page.until(f"{PADDLE} === {edge}")
            await page.touch("touchEnd")
        await page.screenshot(tmp_path / "phone.png")

    browse(scenario, world="real", speed=30)


DROP = """(async (colour) => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 100, height: 50 });
  const pen = canvas.getContext("2d");
  pen.fillStyle = colour;
  pen.fillRect(0, 0, 100, 50);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([blob], "picture.png", { type: "image/png" }));
  const drop = new DragEvent("drop", { dataTransfer, cancelable: true });
  document.querySelector(".screen").dispatchEvent(drop);
})"""


def test_a_start_is_picked_and_a_picture_dropped(browse, tmp_path):
    async def scenario(page, session):
        assert await page.evaluate("document.querySelectorAll('#starts canvas').length") == 12
        await page.evaluate("document.querySelectorAll('#starts button')[7].click()")
        episode, step = spread_places(session.source)[7]
        pixels = session.source.replay.episode(episode).obs[step].reshape(-1, 3)[:, 0].tolist()
        await page.until(
            f"({PIXELS}).split(',').filter((_, i) => i % 4 === 0).join() === '{','.join(map(str, pixels))}'"
        )
        await page.evaluate(f"({DROP})('rgb(10, 200, 30)')")
        await page.until(f"{PIXELS} === Array(24 * 24).fill('10,200,30,255').join()")
        await page.evaluate(click("#controller [data-value=recorded]"))
        await page.until("document.querySelector('[data-value=recorded]').getAttribute('aria-checked') === 'true'")
        await page.evaluate(click("#step"))
        await page.until(f"{text('count')} === '1'")
        await page.screenshot(tmp_path / "starts.png", whole_page=True)

    browse(scenario)


def test_the_agent_begins_if_it_is_handed_a_game_that_waits(browse):
    async def scenario(page, session):
        await page.key("keyDown", "KeyC")
        await page.until(f"+{text('count')} >= 2")
        assert session.view().controller == "agent"

    browse(scenario)


def test_two_stages_are_shown(browse, two_stages, tmp_path):
    async def scenario(page, session):
        await page.evaluate(click("#step"))
        await page.until(f"{text('count')} === '1'")
        assert await page.evaluate("document.querySelectorAll('#trajectory canvas').length") == 0
        assert await page.evaluate("document.getElementById('small').width") == 8
        await page.evaluate(click("#details"))
        await page.evaluate(click("#quality [data-value=high]"))
        await page.evaluate(click("#step"))
        await page.until("document.querySelectorAll('#trajectory canvas').length === 4 + 11")
        sizes = "[...document.querySelectorAll('#trajectory canvas')].map(c => c.width).join()"
        assert await page.evaluate(sizes) == ",".join(["8"] * 4 + ["24"] * 11)
        await page.screenshot(tmp_path / "two.png", whole_page=True)

    browse(scenario, of=two_stages)
