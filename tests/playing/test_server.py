import asyncio
import itertools
import json
import random
import struct
import threading
import time
from contextlib import asynccontextmanager

import aiohttp
import numpy as np
import pytest
from aiohttp.test_utils import TestServer

from diamond_fast.playing.loop import GameLoop
from diamond_fast.playing.server import MAX_CLIENTS, VIEWS_IN_FLIGHT, PlayServer, address, bind
from diamond_fast.playing.wire import describe, encode_view

TOKEN = "the-token-of-the-test"


class Game:
    """A served session and a client of it."""

    def __init__(self, session, server, http):
        self.session, self.http = session, http
        self.base = str(server.make_url("/")).rstrip("/")
        self.origin = self.base

    async def get(self, path, **headers):
        async with self.http.get(self.base + path, headers=headers) as response:
            return response.status, response.headers, await response.read()

    async def connect(self, token=TOKEN, **headers):
        return await self.http.ws_connect(f"{self.base}/{token}/game/socket", headers={"Origin": self.origin} | headers)

    @asynccontextmanager
    async def client(self):
        socket = await self.connect()
        client = Client(socket)
        client.hello = json.loads((await socket.receive()).data)["hello"]
        yield client
        await socket.close()


class Client:
    def __init__(self, socket):
        self.socket = socket

    async def do(self, do, value=None):
        await self.socket.send_str(json.dumps({"do": do, "value": value}))

    async def view(self):
        """The next view, acknowledged: (state, frame, trajectory)."""
        while True:
            message = await asyncio.wait_for(self.socket.receive(), 60)
            if message.type is aiohttp.WSMsgType.BINARY:
                await self.do("seen")
                return decode_view(message.data)

    async def until(self, condition):
        while True:
            state, frame, _ = await self.view()
            if condition(state):
                return state, frame


def decode_view(data):
    (length,) = struct.unpack_from("<I", data)
    state = json.loads(data[4 : 4 + length])
    frames = np.frombuffer(data, np.uint8, offset=4 + length).reshape(-1, *state["size"], 3)
    return state, frames[0], frames[1:]


@pytest.fixture
def run(make_session):
    """run(scenario, **settings of the session): an async scenario with a Game."""

    def run(scenario, **settings):
        async def main():
            session = make_session(**settings)
            page = PlayServer(GameLoop(session), session.recorder, describe(session, 12.5), "127.0.0.1", TOKEN)
            async with TestServer(page.app()) as server, aiohttp.ClientSession() as http:
                await asyncio.wait_for(scenario(Game(session, server, http)), 120)

        asyncio.run(main())

    return run


def test_the_page_comes_with_its_token_only(run):
    async def scenario(game):
        for path, kind in (("/", "text/html"), ("/play.js", "text/javascript"), ("/play.css", "text/css")):
            status, headers, body = await game.get(f"/{TOKEN}{path}")
            assert (status, headers["Content-Type"].split(";")[0]) == (200, kind)
            assert body
            assert headers["Referrer-Policy"] == "no-referrer"
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            for wrong in ("", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "%00", "é", "x" * 500):
                status, _, body = await game.get(f"/{wrong}{path}")
                assert status == 404
                assert TOKEN.encode() not in body
        for path in ("/", "/favicon.ico", "/game/socket"):
            assert (await game.get(path))[0] == 404

    run(scenario)


def test_no_path_of_a_client_is_opened(run):
    async def scenario(game):
        for path in (
            "/../server.py",
            "/..%2fserver.py",
            "/%2e%2e/server.py",
            "//etc/passwd",
            "/%2fetc%2fpasswd",
            "/server.py",
            "/__init__.py",
            "/film/0.mp4",
            "/film/-1.mp4",
            "/film/0.json",
            "/film/..%2fjournal.gif",
            "/film/journal",
        ):
            assert (await game.get(f"/{TOKEN}{path}"))[0] == 404, path

    run(scenario)


def test_only_names_of_this_machine_are_answered(run):
    async def scenario(game):
        for host in ("localhost", "127.0.0.1:8080", "[::1]:9", "192.168.1.7", "LOCALHOST:1"):
            assert (await game.get(f"/{TOKEN}/", Host=host))[0] == 200, host
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "a b", ""):
            assert (await game.get(f"/{TOKEN}/", Host=host))[0] in (400, 403), host

    run(scenario)


def test_the_socket_is_for_its_own_page_only(run):
    async def scenario(game):
        for origin in ("http://evil.example", "null", "", "http://127.0.0.1", game.origin + ".evil.example"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await game.connect(Origin=origin)
            assert refused.value.status == 403, origin
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await game.http.ws_connect(f"{game.base}/{TOKEN}/game/socket")
        assert refused.value.status == 403
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await game.connect(token="another")
        assert refused.value.status == 404
        await (await game.connect()).close()

    run(scenario)


def test_views_arrive_as_the_session_shows_them(run):
    async def scenario(game):
        async with game.client() as client:
            assert client.hello["title"] == "Catch-v0"
            assert client.hello["actions"] == ["left", "nothing", "right"]
            assert client.hello["frame_rate"] == 12.5
            assert client.hello["replay"]["lengths"] == game.session.source.replay.lengths.tolist()
            state, frame, trajectory = await client.view()
            np.testing.assert_array_equal(frame, game.session.view().frame)
            assert (state["step"], len(trajectory)) == (0, 0)
            await client.do("step")
            state, frame, trajectory = await client.view()
            view = game.session.view()
            np.testing.assert_array_equal(frame, view.frame)
            np.testing.assert_array_equal(trajectory, view.trajectory)
            assert state["probabilities"] == pytest.approx(view.probabilities)
            assert (state["step"], state["action"], state["value"]) == (1, 1, pytest.approx(view.value))

    run(scenario)


def test_keys_move_the_player(run):
    async def scenario(game):
        async with game.client() as client:
            await client.do("hold", ["left"])
            for _ in range(7):
                await client.do("step")
            _, frame = await client.until(lambda state: state["step"] == 7)
            assert paddle(frame) == 0
            await client.do("hold", ["right"])
            for _ in range(2):
                await client.do("step")
            _, frame = await client.until(lambda state: state["step"] == 9)
            assert paddle(frame) == 6

    run(scenario, world="real")


def paddle(frame):
    """Its left edge in pixels."""
    return int(np.flatnonzero((frame[-1] == (0, 255, 0)).all(axis=-1))[0])


def test_a_player_who_leaves_lets_go_of_the_buttons(run):
    async def scenario(game):
        async with game.client() as client:
            await client.do("hold", ["left"])
            await client.do("step")
            await client.until(lambda state: state["action"] == 0)
        async with game.client() as client:
            await client.do("step")
            await client.until(lambda state: state["step"] == 2 and state["action"] == 1)

    run(scenario, world="real")


def test_bad_messages_never_end_the_game(run):
    async def scenario(game):
        async with game.client() as client:
            for text in (
                "",
                "{",
                "[]",
                '{"do": "fly"}',
                '{"do": "speed", "value": "fast"}',
                "\ud7ff",
                '{"do": "seek"}',
            ):
                await client.socket.send_str(text)
            await client.socket.send_bytes(b"\xff\x00")
            notices = []
            while len(notices) < 8:
                message = await client.socket.receive()
                if message.type is aiohttp.WSMsgType.TEXT:
                    notices.append(json.loads(message.data)["notice"])
            assert all("expected" in notice for notice in notices)
            await client.do("horizon", -1)
            await client.until(lambda state: "horizon: expected 1 to 10000, got -1" in state["notice"])
            await client.do("step")
            await client.until(lambda state: state["step"] == 1)
        async with game.client() as client:  # too long: this client is sent away, the game goes on
            await client.socket.send_str("x" * 100_000)
            while (message := await client.socket.receive()).type is aiohttp.WSMsgType.BINARY:
                pass
            assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
        async with game.client() as client:
            await client.do("step")
            await client.until(lambda state: state["step"] == 2)

    run(scenario, world="real")


def test_a_slow_client_drops_frames_and_delays_nobody(run):
    async def scenario(game):
        async with game.client() as fast, game.client() as slow:
            await fast.do("pause", False)
            await fast.until(lambda state: state["step"] >= 30)
            waiting = []
            while True:  # everything that was sent to the one that never says it has seen anything
                try:
                    message = await asyncio.wait_for(slow.socket.receive(), 0.2)
                except TimeoutError:
                    break
                waiting.append(decode_view(message.data)[0]["step"])
            assert len(waiting) == VIEWS_IN_FLIGHT
            await slow.do("seen")
            message = await asyncio.wait_for(slow.socket.receive(), 60)
            assert decode_view(message.data)[0]["step"] >= 30  # the newest, not the next

    run(scenario, world="real", speed=60)


def test_the_page_answers_while_the_model_thinks(run, monkeypatch):
    async def scenario(game):
        world = game.session._world
        plain, begun, go_on = world.step, threading.Event(), threading.Event()

        def slow(action):
            begun.set()
            while not go_on.is_set():  # busy, as a model on a CPU is
                sum(range(1000))
            return plain(action)

        monkeypatch.setattr(world, "step", slow)
        async with game.client() as client:
            await client.do("pause", False)
            assert await asyncio.to_thread(begun.wait, 60)
            for _ in range(20):
                assert (await game.get(f"/{TOKEN}/"))[0] == 200
            assert game.session.view().step == 0  # it has been thinking all the while
            go_on.set()

    run(scenario, world="real")


def test_films_can_be_fetched(run):
    async def scenario(game):
        async with game.client() as client:
            await client.do("record", True)
            for _ in range(3):
                await client.do("step")
            await client.do("record", False)
            state, _ = await client.until(lambda state: state["recordings"])
            assert state["recordings"] == ["episode_001"]
            status, headers, body = await game.get(f"/{TOKEN}/film/0.gif")
            assert (status, headers["Content-Type"], body[:4]) == (200, "image/gif", b"GIF8")
            status, _, body = await game.get(f"/{TOKEN}/film/0.mp4")
            assert (status, body[4:8]) == (200, b"ftyp")
            assert (await game.get(f"/{TOKEN}/film/1.gif"))[0] == 404

    run(scenario, world="real")


def test_no_more_than_so_many_can_watch(run):
    async def scenario(game):
        sockets = [await game.connect() for _ in range(MAX_CLIENTS)]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await game.connect()
        assert refused.value.status == 503
        for socket in sockets:
            await socket.close()

    run(scenario)


def test_values_that_are_not_finite_stay_valid_json(make_session):
    session = make_session()
    session._value = float("nan")
    state, _, _ = decode_view(encode_view(session.view(), 0.0))
    assert state["value"] is None


def test_tokens_differ_and_are_long(make_session):
    session = make_session()
    pages = [PlayServer(GameLoop(session), session.recorder, {}, "localhost") for _ in range(3)]
    for a, b in itertools.combinations(pages, 2):
        assert a.token != b.token
    assert all(len(page.token) >= 24 for page in pages)


def test_binding():
    with bind("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        assert address(listening, "abc") == f"http://127.0.0.1:{port}/abc/"
        with pytest.raises(ValueError, match=rf"--host 127.0.0.1 --port {port}: .*use"):
            bind("127.0.0.1", port)
    with pytest.raises(ValueError, match=r"--host no.such.name.invalid"):
        bind("no.such.name.invalid", 0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_players_who_come_and_go_for_a_minute(run):
    """Hundreds of them, sending anything and leaving in any way: nothing of them stays, and the game goes on."""
    rng = random.Random(0)
    does = [
        "hold",
        "pause",
        "step",
        "restart",
        "next",
        "world",
        "controller",
        "seek",
        "horizon",
        "speed",
        "seed",
        "seen",
    ]
    values = [None, True, "model", "replay", "agent", 3, 10**12, -1, [0, 0], ["left"], {}, "x" * 3000]

    async def stay(game):
        socket = await game.connect()
        for _ in range(rng.randrange(8)):
            message = json.dumps({"do": rng.choice(does), "value": rng.choice(values)})
            await socket.send_str(message if rng.random() < 0.8 else message[: rng.randrange(len(message))])
            await asyncio.sleep(rng.random() / 50)
        if rng.random() < 0.5:
            await socket.close()
        else:
            socket._response.connection.transport.abort()

    async def scenario(game):
        tasks, began, count = len(asyncio.all_tasks()), time.monotonic(), 0
        while time.monotonic() - began < 50:
            await asyncio.gather(*(stay(game) for _ in range(rng.randrange(1, MAX_CLIENTS))))
            count += 1
        assert count > 20
        while len(asyncio.all_tasks()) > tasks + 1:  # until the last ones have left
            await asyncio.sleep(0.01)
        async with game.client() as client:
            await client.do("world", "model")
            await client.do("step")
            await client.until(lambda state: state["world"] == "model" and state["step"] >= 1)

    run(scenario)


def test_a_picture_of_the_right_size_from_the_own_page_begins_a_dream(run):
    picture = np.full((24, 24, 3), 77, np.uint8).tobytes()

    async def scenario(game):
        async def post(body, origin=game.origin, token=TOKEN):
            url = f"{game.base}/{token}/game/picture"
            async with game.http.post(url, data=body, headers={"Origin": origin}) as response:
                return response.status, await response.text()

        assert await post(picture[:-1]) == (400, "picture: expected 1728 bytes\n")
        assert (await post(picture * 100))[0] == 400
        assert (await post(picture, origin="http://elsewhere.example"))[0] == 403
        assert (await post(picture, token="guessed"))[0] == 404
        async with game.client() as client:
            await client.view()
            assert (await post(picture))[0] == 204
            _, frame = await client.until(lambda state: state["episode"] == 2)
            assert (frame == 77).all()

    run(scenario)
