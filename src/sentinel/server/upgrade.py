"""A connection that goes on in another protocol (RFC 9110, 7.8): how an application takes it over, as a WebSocket.

An offer, that is a request with `Upgrade`, is served as plain HTTP unless the application says otherwise: its lifespan
state has, as `takes_upgrade`, a function from a request's scope to whether it may want the connection. Where it says
yes, nothing behind the head is parsed until the request is answered:

- the application calls `accept_upgrade` of the request (`sentinel.connection` in the scope's extensions): the head of a
  101 leaves, and from then on the application's own asyncio protocol has the transport, and first of all the bytes that
  came behind the head;
- it answers as usual, which declines: what came behind the head is parsed as the next request.

An upgraded connection belongs to the task that serves the request: it is closed when the task ends. So it counts as an
open request in a shutdown, which tells the request's `on_shutdown`, and cancels the task at the end of the grace. The
slow-read timeout goes on, all other timeouts end; `on_gone`, `is_full` and `has_room` of the request hold as before.

Absent: any knowledge of WebSockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sentinel.error import Header
from sentinel.proxy.headers import lines_of

if TYPE_CHECKING:
    from sentinel.server.connection import HttpConnection

_FRAMING = (b"content-length", b"transfer-encoding")


def is_taken(scope: dict[str, Any]) -> bool:
    """Whether the application may want the connection of this request, which has an `Upgrade` header.

    HTTP/1.0 knows no upgrades (RFC 9110, 7.8), and a request with a body is served as plain HTTP: its sender would have
    to send all of it before the protocol changes.
    """
    takes: Callable[[dict[str, Any]], bool] | None = scope["state"].get("takes_upgrade")
    if takes is None or scope["http_version"] == "1.0":
        return False
    if any(name in _FRAMING and value != b"0" for name, value in scope["headers"]):
        return False
    return takes(scope)


def framing_of(headers: list[Header]) -> bytes:
    """A head that has a request's framing, and no `Upgrade`: with it a parser finds the end of the body."""
    return b"POST / HTTP/1.1\r\n" + lines_of([header for header in headers if header[0] in _FRAMING]) + b"\r\n"


class UpgradedProtocol(asyncio.Protocol):
    """Between a transport and the application's protocol: all goes to that one, and what the server must know to it.

    Events of data do not come by here: the attribute is the application's own method.
    """

    def __init__(self, connection: HttpConnection, protocol: asyncio.Protocol) -> None:
        self._connection = connection
        self._protocol = protocol
        self.data_received = protocol.data_received  # type: ignore[method-assign]
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self._connection.pause_writing()
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._connection.resume_writing()
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed. The application's protocol hears of it before its task does."""
        try:
            self._protocol.connection_lost(exc)
        finally:
            self._connection.connection_lost(exc)


def hand_over(connection: HttpConnection, protocol: asyncio.Protocol, came: bytes, *, has_ended: bool) -> None:
    """Give the transport to the application's protocol. came: behind the head. has_ended: the client sends no more."""
    transport = connection.transport
    upgraded = UpgradedProtocol(connection, protocol)
    transport.set_protocol(upgraded)
    protocol.connection_made(transport)
    if came:
        protocol.data_received(came)
    if has_ended and not upgraded.eof_received():
        transport.close()
