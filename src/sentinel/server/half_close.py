"""A client that has said all it will say may still read, or be gone: TCP tells of both in the same words, by a FIN.

Whoever is gone answers what it is sent with a reset. So a client that waits for the head of its answer is sent an
interim one now and then (100 Continue, which every client of HTTP/1.1 must be able to read and may ignore: RFC 9110,
15.2); after that the pieces of the answer do. Whether a reset has come is asked of the kernel, for a socket that
nobody reads does not tell.
"""

from __future__ import annotations

import asyncio
import socket
from asyncio import TimerHandle
from collections.abc import Callable

_LOOK_SECONDS = 0.25
_FIRST_PROBE, _NEXT_PROBE = 2, 20
"""In looks: an answer that comes within half a second is not disturbed; then every five seconds."""
_TCP_CLOSE = 7
"""State of a connection that is over (Linux, include/net/tcp_states.h); the first byte of tcp_info."""


def can_be_watched(transport: asyncio.Transport) -> bool:
    """Whether the kernel tells of this connection that it is over."""
    return _state_of(transport) is not None


def _state_of(transport: asyncio.Transport) -> int | None:
    option, connection = getattr(socket, "TCP_INFO", None), transport.get_extra_info("socket")
    if option is None or connection is None:
        return None
    try:
        state: int = connection.getsockopt(socket.IPPROTO_TCP, option, 1)[0]
    except OSError:
        return None
    return state


class HalfClosed:
    """Watches a connection whose client sends nothing more, and aborts it once the client is gone.

    probe: sends something that leaves the answer as it is, where that is possible.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, probe: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._probe = probe
        self._looks = 0
        self._timer: TimerHandle = loop.call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        if self._transport.is_closing():
            return
        if _state_of(self._transport) == _TCP_CLOSE:
            self._transport.abort()
            return
        self._looks += 1
        if self._looks % _NEXT_PROBE == _FIRST_PROBE:
            self._probe()
        self._timer = self._loop.call_later(_LOOK_SECONDS, self._look)

    def stop(self) -> None:
        """The connection is closed."""
        self._timer.cancel()
