"""Games recorded by hand: what the page sends is what is kept."""

import asyncio
import json
import threading

import aiohttp
import numpy as np
import pytest
from chromium import EXECUTABLE, Chromium, text

from diamond_fast.domains.gym.adapter import GymSlot
from diamond_fast.domains.recordings.played import played
from diamond_fast.playing.buttons import Buttons
from diamond_fast.playing.by_hand import ByHand, Stopped, play_by_hand
from diamond_fast.playing.commands import Command, perform
from diamond_fast.playing.server import bind
from diamond_fast.replay import load_recording
from diamond_fast.replay.importing import Wanted, import_episodes

TOKEN = "by-hand"
PANEL = Buttons(("LEFT", "NOOP", "RIGHT"))


@pytest.fixture
def record(tmp_path):
    """record(hand): two games of Catch, for a few steps each."""

    def record(hand):
        slot = GymSlot("diamond_fast/Catch-v0", 24, {})
        source = played(slot, hand.play, episodes=2, seed=3, max_steps=6)
        import_episodes(source, "by hand", tmp_path / "out", Wanted(None, None))

    return record


def test_every_step_is_the_players(record, tmp_path):
    hand = ByHand("Catch", PANEL, (24, 24, 3), speed=60)
    recording = threading.Thread(target=record, args=(hand,))
    recording.start()
    hand.wait_until_asked()
    frames, pressed = [hand.view().frame], [["left"], [], ["right"], ["right"], ["left"], []] * 2
    for number, keys in enumerate(pressed):
        view = hand.view()
        assert (view.episode, view.step, view.paused) == (1 + number // 6, number % 6, number % 6 == 0)
        hand.paused = False
        perform(hand, Command("hold", keys))
        if number == len(pressed) - 1:  # nobody asks after the last step
            threading.Timer(0.2, hand.close).start()
        hand.step()
        frames.append(hand.view().frame)
    recording.join(20)
    replay = load_recording(tmp_path / "out")
    for i in range(2):
        episode = replay.episode(i)
        assert episode.act.tolist() == [0, 1, 2, 2, 0, 1]
        np.testing.assert_array_equal(episode.obs, frames[6 * i : 6 * i + 6])


def test_what_makes_no_sense_is_refused():
    hand = ByHand("Catch", PANEL, (24, 24, 3), speed=60)
    for command in (Command("restart"), Command("world", "model"), Command("seek", [0, 0]), Command("record", True)):
        with pytest.raises(ValueError, match="not while a game is being recorded"):
            perform(hand, command)
    with pytest.raises(ValueError, match="speed of 1 to 60"):
        perform(hand, Command("speed", 100))
    with pytest.raises(ValueError, match="button: expected some of left, right, got 'up'"):
        perform(hand, Command("hold", ["up"]))


async def press_until_the_end(port, keys):
    """A page that holds these keys."""
    origin = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession() as http:
        for _ in range(200):
            try:
                socket = await http.ws_connect(f"{origin}/{TOKEN}/game/socket", headers={"Origin": origin})
                break
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)
        hello = (await socket.receive_json())["hello"]
        assert hello["only_game"]
        await socket.send_json({"do": "hold", "value": {"keys": keys}})
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                await socket.send_json({"do": "seen"})
                length = int.from_bytes(message.data[:4], "little")
                state = json.loads(message.data[4 : 4 + length])
                if state["paused"]:
                    await socket.send_json({"do": "pause", "value": False})


def test_a_page_plays_to_the_end(record, tmp_path):
    async def main():
        hand, listening = ByHand("Catch", PANEL, (24, 24, 3), speed=60), bind("127.0.0.1", 0)
        port = listening.getsockname()[1]
        playing = play_by_hand(hand, lambda: record(hand), listening, "127.0.0.1", TOKEN)
        await asyncio.wait_for(asyncio.gather(playing, press_until_the_end(port, ["right"])), 60)

    asyncio.run(main())
    replay = load_recording(tmp_path / "out")
    assert [replay.episode(i).act.tolist() for i in range(2)] == [[2] * 6] * 2


@pytest.mark.skipif(EXECUTABLE is None, reason="no chromium is installed (apt-get install chromium)")
def test_the_page_says_that_a_recording_has_ended(record, tmp_path):
    async def play(port):
        async with Chromium(tmp_path / "profile") as page:
            await page.open(f"http://127.0.0.1:{port}/{TOKEN}/")
            await page.until("document.querySelectorAll('#pad button').length > 0")
            for _ in range(600):  # each episode begins with a key
                for kind in ("keyDown", "keyUp"):
                    await page.key(kind, "ArrowRight")
                if "recording has ended" in await page.evaluate(text("toast")):
                    return
                await asyncio.sleep(0.05)
            raise AssertionError(await page.evaluate(text("toast")))

    async def main():
        hand, listening = ByHand("Catch", PANEL, (24, 24, 3), speed=60), bind("127.0.0.1", 0)
        playing = play_by_hand(hand, lambda: record(hand), listening, "127.0.0.1", TOKEN)
        await asyncio.gather(playing, play(listening.getsockname()[1]))

    asyncio.run(main())
    assert load_recording(tmp_path / "out").num_episodes == 2


def test_a_player_who_leaves_and_a_game_that_fails():
    hand = ByHand("Catch", PANEL, (24, 24, 3), speed=60)
    threading.Timer(0.1, hand.close).start()
    with pytest.raises(Stopped):
        hand.play(np.zeros((24, 24, 3), np.uint8), np.random.default_rng(0))

    def fail():
        raise ValueError("no such game")

    listening = bind("127.0.0.1", 0)
    with pytest.raises(ValueError, match="no such game"):
        asyncio.run(play_by_hand(ByHand("x", PANEL, (24, 24, 3), 60), fail, listening, "127.0.0.1"))
    listening.close()
