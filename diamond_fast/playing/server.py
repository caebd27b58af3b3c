"""The game as a page: served from this machine, to whoever has the address with its token."""

import asyncio
import hmac
import ipaddress
import math
import os
import re
import secrets
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from importlib.resources import files
from typing import Any, cast

from aiohttp import WSMsgType, web

from diamond_fast.playing.commands import PICTURE, SEEN, Command, decode
from diamond_fast.playing.door import ACCEPTED_AT_ONCE, Door, quiet_logger, tell_once
from diamond_fast.playing.loop import GameLoop
from diamond_fast.playing.recorder import FilmFormat, Recorder
from diamond_fast.playing.wire import encode_view

MAX_CLIENTS = 8
MAX_MESSAGE_BYTES = 4096
VIEWS_IN_FLIGHT = 2
"""Views sent to a client ahead of its word that it has shown them. Newer ones replace what a slow client misses."""
HEARTBEAT = 20.0  # seconds; a client that answers none is gone
KEEP_ALIVE = 75.0  # seconds a connection with the token may stay idle

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class PlayServer:
    """Serves one game. No path that a client sends is ever opened, and no message of a client ends the game.

    Every request must carry the token as the first part of its path, and name in ``Host`` this machine as it was told
    to be called or by a number: a name that someone else's DNS points here is refused. The WebSocket is open to pages
    of the same origin only.

    Args:
        game: not started yet; it is stopped with the server.
        recorder: whose films can be fetched.
        description: what the page is told first, see ``wire.describe``.
        host: the name it is bound to.
        token: in every address; a new random one if None.
    """

    def __init__(
        self, game: GameLoop, recorder: Recorder, description: dict[str, Any], host: str, token: str | None = None
    ):
        self.token = token or secrets.token_urlsafe(18)
        self._game, self._recorder, self._description = game, recorder, description
        self._hosts = _LOOPBACK | {host, socket.gethostname().lower()}
        self._clients: set[_Client] = set()
        self.on_admitted: Callable[[asyncio.Transport | None], None] = lambda transport: None
        """Told the connection of each request that carries the token."""
        static = files("diamond_fast.playing") / "static"
        self._pages = {page.name: page.read_bytes() for page in static.iterdir()}

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_MESSAGE_BYTES)
        app.router.add_get("/{token}/", self._page)
        app.router.add_get("/{token}/{name}", self._page)
        app.router.add_get("/{token}/game/socket", self._socket)
        app.router.add_post("/{token}/game/picture", self._picture)
        app.router.add_get(r"/{token}/film/{number:\d{1,6}}.{format:mp4|gif}", self._film)
        app.on_response_prepare.append(_add_safe_headers)
        app.on_startup.append(self._start)
        app.on_shutdown.append(self._say_goodbye)
        app.on_cleanup.append(self._stop)
        return app

    # --- life -------------------------------------------------------------------------------------------------------

    async def _start(self, app: web.Application) -> None:
        loop = asyncio.get_running_loop()
        self._game.on_view = lambda: loop.call_soon_threadsafe(self._wake_clients)
        self._game.start()

    async def _say_goodbye(self, app: web.Application) -> None:
        await asyncio.gather(*(client.socket.close(code=1001) for client in list(self._clients)))

    async def _stop(self, app: web.Application) -> None:
        await asyncio.to_thread(self._game.stop)

    def _wake_clients(self) -> None:
        for client in self._clients:
            client.wake.set()

    # --- who may come in --------------------------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        _, _, rest = request.path.partition("/")  # OPTIONS * and CONNECT have none
        token = rest.partition("/")[0]
        if not hmac.compare_digest(token.encode(errors="replace"), self.token.encode()):
            raise web.HTTPNotFound
        host = request.headers.get("Host", "")
        if not self._is_our_name(host):
            raise web.HTTPForbidden(text=f"not served under the name {host}; start it with --host to change that\n")
        self.on_admitted(request.transport)
        return await handler(request)

    def _is_our_name(self, host: str) -> bool:
        match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?", host)
        if match is None:
            return False
        name = match[1].strip("[]").lower()
        return name in self._hosts or _is_address(name)

    # --- requests ---------------------------------------------------------------------------------------------------

    async def _page(self, request: web.Request) -> web.Response:
        name = request.match_info.get("name", "index.html")
        if name not in self._pages:
            raise web.HTTPNotFound
        return web.Response(body=self._pages[name], content_type=_TYPES[name.rpartition(".")[2]], charset="utf-8")

    async def _film(self, request: web.Request) -> web.StreamResponse:
        try:
            film_format = cast(FilmFormat, request.match_info["format"])  # by the route's pattern
            return web.FileResponse(self._recorder.film(int(request.match_info["number"]), film_format))
        except IndexError:
            raise web.HTTPNotFound from None

    async def _picture(self, request: web.Request) -> web.Response:
        """A frame to begin at: its bytes, uint8 [H,W,3]."""
        _require_own_page(request)
        expected = math.prod(self._description["frame"])
        if request.content_length != expected:
            raise web.HTTPBadRequest(text=f"picture: expected {expected} bytes\n")
        pixels = await request.content.readexactly(expected)
        if not self._game.submit(Command(PICTURE, pixels)):
            raise web.HTTPServiceUnavailable(text="too many commands at once\n")
        return web.Response(status=204)

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        _require_own_page(request)
        if len(self._clients) >= MAX_CLIENTS:
            raise web.HTTPServiceUnavailable(text=f"{MAX_CLIENTS} are watching already\n")
        client = _Client(
            web.WebSocketResponse(timeout=2.0, heartbeat=HEARTBEAT, max_msg_size=MAX_MESSAGE_BYTES, compress=False)
        )
        await client.socket.prepare(request)
        self._clients.add(client)
        self._game.watch(len(self._clients))
        sender = asyncio.create_task(self._send_views(client))
        try:
            await client.socket.send_json({"hello": self._description})
            client.wake.set()
            async for message in client.socket:
                await self._receive(client, message.data if message.type is WSMsgType.TEXT else "")
        except ConnectionError:  # gone while something was sent
            pass
        finally:
            sender.cancel()
            self._clients.discard(client)
            self._game.watch(len(self._clients))
            self._game.submit(Command("hold", []))
        return client.socket

    async def _receive(self, client: "_Client", text: str) -> None:
        try:
            command = decode(text)
        except ValueError as error:
            await client.socket.send_json({"notice": str(error)})
            return
        if command.do == SEEN:
            client.in_flight = max(client.in_flight - 1, 0)
            client.wake.set()
        elif not self._game.submit(command):
            await client.socket.send_json({"notice": "too many commands at once"})

    async def _send_views(self, client: "_Client") -> None:
        last = None
        while True:
            await client.wake.wait()
            client.wake.clear()
            view = self._game.view
            if view is not last and client.in_flight < VIEWS_IN_FLIGHT:
                last = view
                client.in_flight += 1
                try:
                    await client.socket.send_bytes(encode_view(view, self._game.frames_per_second))
                except ConnectionError:
                    return


_SCHEMES = ("http", "https")


def _require_own_page(request: web.Request) -> None:
    if request.headers.get("Origin") not in [f"{scheme}://{request.headers['Host']}" for scheme in _SCHEMES]:
        raise web.HTTPForbidden(text="the game's own page only\n")


class _Client:
    """Someone watching."""

    def __init__(self, websocket: web.WebSocketResponse):
        self.socket = websocket
        self.wake = asyncio.Event()
        self.in_flight = 0


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any that is free.

    Raises:
        ValueError: this machine has no such address, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"--host {host} --port {port}: {reason}; --port 0 takes any free port") from None


def address(listening: socket.socket, token: str) -> str:
    """What to open in the browser."""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/{token}/"


def invitation(listening: socket.socket, token: str, host: str) -> list[str]:
    """What to print: where to play, and what to know about it."""
    lines = [f"Play at {address(listening, token)}", "Whoever has this link can play. Ctrl-C ends."]
    if host not in _LOOPBACK:
        lines.append("The link goes over the network unencrypted; share it only if that is fine.")
    elif "SSH_CONNECTION" in os.environ:
        port = listening.getsockname()[1]
        lines.append(f"On the machine you sit at, first: ssh -L {port}:localhost:{port} <this machine>")
    return lines


async def serve(server: PlayServer, listening: socket.socket) -> None:
    """Serve until interrupted or terminated."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
        loop.add_signal_handler(signal.SIGHUP, stopped.set)
    loop.set_exception_handler(tell_once())
    runner = web.AppRunner(
        server.app(),
        access_log=None,
        logger=quiet_logger(),
        shutdown_timeout=1.0,
        keepalive_timeout=KEEP_ALIVE,
    )
    await runner.setup()
    assert runner.server is not None
    door = Door(runner.server)
    server.on_admitted = door.admit
    listener = await loop.create_server(door, sock=listening, backlog=ACCEPTED_AT_ONCE)
    try:
        await stopped.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # a second one ends at once what takes too long
            loop.remove_signal_handler(number)
        listener.close()
        await runner.cleanup()


def _is_address(name: str) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return False


async def _add_safe_headers(request: web.Request, response: web.StreamResponse) -> None:
    own = "'self'" if response.status != 200 else f"'self' ws://{request.host} wss://{request.host}"
    response.headers.update(
        {
            "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
            f"connect-src {own}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }
    )
