"""Connections without the token: they cannot keep anyone out, stay for long, or fill a log."""

import asyncio
import json
import os
import random
import resource
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiohttp
import pytest

from diamond_fast.playing import door
from diamond_fast.playing.server import PlayServer, bind, serve

TOKEN = "the-token-of-the-test"
HALF_A_REQUEST = b"GET /x HTTP/1.1\r\nHost: "


class NoGame:
    """Nothing to see: what is tested is the way in."""

    view, frames_per_second = None, 0.0

    def start(self):
        pass

    def stop(self):
        pass

    def watch(self, watchers):
        pass

    def submit(self, command):
        return True


@asynccontextmanager
async def served():
    """The port of a page that is served as it is in earnest."""
    listening = bind("127.0.0.1", 0)
    task = asyncio.create_task(serve(PlayServer(NoGame(), None, {}, "127.0.0.1", TOKEN), listening))
    try:
        yield listening.getsockname()[1]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def get(http, port, path=f"/{TOKEN}/"):
    async with http.get(f"http://127.0.0.1:{port}{path}") as response:
        await response.read()
        return response.status


async def connect(port, sent=HALF_A_REQUEST):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    await writer.drain()
    return reader, writer


async def ended(reader):
    """Waits until the server has closed the connection; whatever it said before."""
    try:
        while await reader.read(4096):
            pass
    except ConnectionError:
        pass


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_strangers_keep_nobody_out(capfd, caplog):
    async def scenario():
        async with served() as port, aiohttp.ClientSession() as http:
            strangers = [await connect(port) for _ in range(door.MAX_STRANGERS + 60)]
            assert await get(http, port) == 200
            await asyncio.gather(*(ended(reader) for reader, _ in strangers[:60]))  # the oldest ones have to go
            for _, writer in strangers:
                writer.close()

    run(scenario)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_nobody_stays_without_the_token(monkeypatch):
    async def scenario():
        async with served() as port, aiohttp.ClientSession() as http:
            assert await get(http, port) == 200  # kept alive from here on
            monkeypatch.setattr(door, "PATIENCE", 0.3)
            for sent in (b"", HALF_A_REQUEST, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"):
                reader, _ = await connect(port, sent)
                await ended(reader)
            [connection] = [c for group in http.connector._conns.values() for c, _ in group]
            assert connection.transport is not None
            assert not connection.transport.is_closing()
            assert await get(http, port) == 200

    run(scenario)


@pytest.mark.parametrize(
    "sent",
    [
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n",
        b"GET http://localhost HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /%ff%fe/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A" * 20_000 + b"\r\n\r\n",
    ],
)
def test_odd_requests_are_refused_without_a_line(capfd, caplog, sent):
    async def scenario():
        async with served() as port:
            reader, writer = await connect(port, sent)
            answer = await reader.readline()
            assert answer.startswith(b"HTTP/1.")
            assert 400 <= int(answer.split()[1]) < 500, answer
            writer.close()

    run(scenario)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_what_is_wrong_with_the_machine_is_told_once(capsys):
    handle = door.tell_once()
    for _ in range(1000):
        handle(None, {"message": "socket.accept() out of system resource", "exception": OSError(24, "Too many files")})
    handle(None, {"message": "something else"})
    assert capsys.readouterr().err == (
        "socket.accept() out of system resource ([Errno 24] Too many files)\nsomething else\n"
    )


# --- for minutes ----------------------------------------------------------------------------------------------------

SOAKED = f"""
import asyncio, resource
from test_door import NoGame
from diamond_fast.playing.server import PlayServer, bind, serve
resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))
listening = bind("127.0.0.1", 0)
print(listening.getsockname()[1], flush=True)
asyncio.run(serve(PlayServer(NoGame(), None, {{}}, "127.0.0.1", "{TOKEN}"), listening))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_server_under_attack_for_minutes(tmp_path):
    """With 160 file descriptors: it goes on answering its player, says nothing, and takes no more memory."""
    rng = random.Random(0)
    errors = tmp_path / "errors"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", SOAKED]
    with (
        open(errors, "wb") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, env=environment) as server,
    ):
        port = int(server.stdout.readline())
        held, sizes, answers = [], [], 0
        until = time.monotonic() + 120
        while time.monotonic() < until:
            for _ in range(50):
                try:
                    stranger = socket.create_connection(("127.0.0.1", port), timeout=10)
                    stranger.sendall(attack(rng))
                    held.append(stranger)
                except (ConnectionError, TimeoutError):
                    pass
            for stranger in held[:-200]:
                stranger.close()
            del held[:-200]
            with closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as player:
                player.sendall(f"GET /{TOKEN}/ HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
                assert player.recv(12) == b"HTTP/1.0 200"
            answers += 1
            sizes.append(int(Path(f"/proc/{server.pid}/statm").read_text().split()[1]) * resource.getpagesize())
        server.terminate()
        assert server.wait(timeout=30) == 0
    for stranger in held:
        stranger.close()
    assert errors.read_bytes() == b""
    assert answers > 20
    assert max(sizes[-5:]) < 1.1 * max(sizes[: len(sizes) // 2])


def attack(rng):
    """What a stranger may send."""
    path = rng.choice(["/", "*", "//", f"/{TOKEN[:-1]}/", f"/{TOKEN}x/game/socket", "/" + "a" * rng.randrange(9000)])
    head = f"{rng.choice(['GET', 'POST', 'OPTIONS', 'CONNECT', 'BREW'])} {path} HTTP/1.{rng.randrange(3)}\r\n"
    fields = ["Host: localhost", "Connection: Upgrade\r\nUpgrade: websocket", "Transfer-Encoding: chunked"]
    fields += [f"Content-Length: {rng.randrange(-2, 10**9)}", json.dumps({"x": "y" * rng.randrange(3000)})]
    request = (head + "\r\n".join(rng.sample(fields, rng.randrange(len(fields)))) + "\r\n\r\n").encode()
    kind = rng.randrange(3)
    if kind == 0:
        return request[: rng.randrange(len(request))]
    if kind == 1:
        return rng.randbytes(rng.randrange(1, 2000))
    return request
