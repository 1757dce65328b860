"""The four timeouts of a client's connection, all in seconds. Each is started and stopped by one pair of methods here.

- head: runs from the first byte of a request head to its blank line, whatever comes in between; then 408.
- body: runs while the rest of a body is read whose request has been answered; then the connection is closed.
- idle: runs while no request has begun, on a new connection and between two requests; then the connection is closed.
- slow-read: runs while the client has not read what was written; without progress the connection is aborted.

How long a client may take while the application waits for a body is the application's business. The application says in
its lifespan state, as `head_seconds`, `body_seconds`, `keep_alive_seconds` and `stall_seconds`, how long these are.
"""

from __future__ import annotations

import asyncio
from asyncio import TimerHandle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentinel.server.connection import HttpConnection
    from sentinel.server.request import ServedRequest

HEAD_SECONDS, BODY_SECONDS, STALL_SECONDS = 10.0, 30.0, 60.0
KEEP_ALIVE_SECONDS = 75.0
"""Where the application does not say. The last is longer than the 60 s of most load balancers."""


class Timeouts:
    """Timers of one connection. `close` must be called: these and the connection form a cycle of references."""

    __slots__ = ("_body", "_connection", "_head", "_idle", "_idle_since", "_loop", "_seconds", "_slow_read")

    def __init__(self, connection: HttpConnection, loop: asyncio.AbstractEventLoop, seconds: dict[str, Any]) -> None:
        self._connection = connection
        self._loop = loop
        self._seconds = seconds
        self._idle_since = 0.0
        self._head: TimerHandle | None = None
        self._body: TimerHandle | None = None
        self._idle: TimerHandle | None = None
        self._slow_read: TimerHandle | None = None

    def close(self) -> None:
        """The connection is closed."""
        for timer in (self._head, self._body, self._idle, self._slow_read):
            if timer is not None:
                timer.cancel()
        self._head = self._body = self._idle = self._slow_read = None
        del self._connection

    # ---------------------------------------------------------------------------------------------------------- head

    def start_head(self) -> None:
        """A head is unfinished. More of it does not start the time anew."""
        if self._head is None:
            self._head = self._loop.call_later(self._seconds.get("head_seconds", HEAD_SECONDS), self._head_is_over)

    def stop_head(self) -> None:
        """The head is whole, or is not read any further."""
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _head_is_over(self) -> None:
        self._head = None
        if self._connection.flow.read_paused:
            # The client cannot go on while we do not read.
            self.start_head()
        else:
            self._connection.head_timed_out()

    # ---------------------------------------------------------------------------------------------------------- body

    def start_body(self, request: ServedRequest) -> None:
        """This request has been answered, and the rest of its body is still to come."""
        if self._body is not None:
            self._body.cancel()
        seconds = self._seconds.get("body_seconds", BODY_SECONDS)
        self._body = self._loop.call_later(seconds, self._body_is_over, request)

    def _body_is_over(self, request: ServedRequest) -> None:
        # That the body has come stops no timer, since that would cost every request a look.
        self._body = None
        self._connection.body_timed_out(request)

    # ---------------------------------------------------------------------------------------------------------- idle

    def start_idle(self) -> None:
        """No request is there. One timer serves for many requests: when it fires, the rest of the time is left."""
        self._idle_since = self._loop.time()
        if self._idle is None:
            seconds = self._seconds.get("keep_alive_seconds", KEEP_ALIVE_SECONDS)
            self._idle = self._loop.call_later(seconds, self._idle_is_over)

    def stop_idle(self) -> None:
        """A request has begun."""
        self._idle_since = 0.0

    def _idle_is_over(self) -> None:
        self._idle = None
        if self._idle_since == 0.0:
            return
        seconds = self._seconds.get("keep_alive_seconds", KEEP_ALIVE_SECONDS)
        left = self._idle_since + seconds - self._loop.time()
        if left > 0:
            self._idle = self._loop.call_later(left, self._idle_is_over)
        else:
            self._connection.transport.close()

    # ----------------------------------------------------------------------------------------------------- slow-read

    def start_slow_read(self) -> None:
        """The write buffer is full. Each time the client has read some of it, the time starts anew."""
        unread = self._connection.transport.get_write_buffer_size()
        seconds = self._seconds.get("stall_seconds", STALL_SECONDS)
        self._slow_read = self._loop.call_later(seconds, self._slow_read_is_over, unread)

    def stop_slow_read(self) -> None:
        """The client has caught up."""
        if self._slow_read is not None:
            self._slow_read.cancel()
            self._slow_read = None

    def _slow_read_is_over(self, unread: int) -> None:
        transport = self._connection.transport
        if transport.get_write_buffer_size() < unread:
            self.start_slow_read()
        else:
            # A close in good order would wait for the client to read the rest.
            transport.abort()
