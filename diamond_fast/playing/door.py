"""The way in: few connections at a time may be held, and not for long, by whoever has not shown the token."""

import asyncio
import logging
import sys
from collections.abc import Callable
from typing import Any

from aiohttp.http_exceptions import HttpProcessingError

MAX_STRANGERS = 32
"""Connections without the token. One more closes the oldest: whoever has the token shows it with the first bytes."""
PATIENCE = 10.0
"""Seconds a connection may be held without the token."""
ACCEPTED_AT_ONCE = 32
"""Connections taken before any of them is looked at; so many more wait in the kernel."""


class Door:
    """Makes the protocols of new connections, as ``loop.create_server`` asks for them.

    Args:
        make_protocol: what serves a connection.
    """

    def __init__(self, make_protocol: Callable[[], asyncio.Protocol]):
        self._make_protocol = make_protocol
        self._strangers: dict[asyncio.Transport, asyncio.TimerHandle] = {}  # oldest first

    def __call__(self) -> asyncio.Protocol:
        return _Connection(self, self._make_protocol())

    def admit(self, transport: asyncio.Transport | None) -> None:
        """The token was shown: this connection may stay."""
        if transport is not None and (patience := self._strangers.pop(transport, None)):
            patience.cancel()

    def enter(self, transport: asyncio.Transport) -> None:
        patience = asyncio.get_running_loop().call_later(PATIENCE, transport.abort)
        self._strangers[transport] = patience
        if len(self._strangers) > MAX_STRANGERS:
            oldest = next(iter(self._strangers))
            self.admit(oldest)
            oldest.abort()


class _Connection(asyncio.Protocol):
    """Hands everything on to the protocol that serves the connection, and tells the door who comes and goes."""

    def __init__(self, door: Door, inner: asyncio.Protocol):
        self._door, self._inner = door, inner
        for name in ("data_received", "eof_received", "pause_writing", "resume_writing"):
            setattr(self, name, getattr(inner, name))

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # sockets give no other
        self._transport = transport
        self._inner.connection_made(transport)
        self._door.enter(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._door.admit(self._transport)
        self._inner.connection_lost(error)


def quiet_logger() -> logging.Logger:
    """For aiohttp: what a client sends is answered and not worth a line; an error of ours still is."""
    logger = logging.getLogger("diamond_fast.playing")
    logger.addFilter(_is_ours)
    return logger


def _is_ours(record: logging.LogRecord) -> bool:
    error = record.exc_info and record.exc_info[1]
    return not isinstance(error, HttpProcessingError | ConnectionError)


def tell_once() -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """A handler of the event loop's errors, such as too many open files: one line each, and each only once."""
    told: set[str] = set()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        line = " ".join(f"{context['message']}{f' ({error})' if error else ''}".split())
        if line not in told and len(told) < 100:
            told.add(line)
            print(line, file=sys.stderr, flush=True)

    return handle
