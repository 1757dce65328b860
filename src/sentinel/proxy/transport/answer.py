"""An HTTP/1.1 answer whose body comes in pieces: read piece by piece, as a whole, or handed on right where it comes.

It is filled by its connection (http1.py), which is held up while too much of it waits to be read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from sentinel.proxy.chunk import TakeChunk

MOST_UNREAD_BYTES = 256 * 1024
"""When so much waits to be read, the connection is not read from: back-pressure reaches the provider."""
_WHITE_SPACE = b" \t\r\n"
"""Of JSON (RFC 8259, 2)."""


class HttpError(Exception):
    """The exchange broke: no connection any more, or no HTTP."""


class ConnectFailed(HttpError):
    """There was no connection, so nothing was sent."""


class OpenFilesExceeded(HttpError):
    """There may be no further connection: this process has as many open files as it may."""


class IdleTimeout(HttpError):
    """Nothing came for too long."""


Take = Callable[[bytes], bytes | None]
"""Takes bytes, and returns what it leaves to the task that waits for them; None: it has taken all, and wants more."""


def _leave(data: bytes) -> bytes:
    return data


class Source(Protocol):
    """The connection that an answer comes over. take_chunk: who takes chunks as they come, framing and all."""

    take_chunk: TakeChunk | None

    def more(self) -> asyncio.Future[None]:
        """To wait until something has come. Raises HttpError when nothing will."""

    def resume(self) -> None:
        """There is room for more."""

    def abort(self) -> None:
        """Close at once."""


class Http1Answer:
    """An answer whose head is there and whose body comes in pieces. headers: names as they were spelled.

    ended: the body has come whole.
    """

    __slots__ = ("_connection", "_pieces", "_size", "_take", "ended", "headers", "status")

    def __init__(self, connection: Source) -> None:
        self._connection: Source | None = connection
        self._pieces: list[bytes] = []
        self._size = 0
        self.ended = False
        self._take: Take | None = None
        self.status = 0
        self.headers: dict[bytes, bytes] = {}

    def came(self, piece: bytes) -> int:
        """Take a piece of the body; returns how many bytes wait."""
        self._pieces.append(piece)
        self._size += len(piece)
        return self._size

    def pass_on(self) -> bool:
        """Give what has come to whoever takes it right here; False if a task has to be woken for it."""
        if self._take is None or self.ended:
            return False
        if not self._pieces:
            return True
        rest = self._take(self._gather())
        if rest is not None:
            self._pieces, self._size = [rest], len(rest)
            self._take_no_chunk()
            return False
        if self._connection is not None:
            self._connection.resume()
        return True

    @property
    def is_counted(self) -> bool:
        """Whether its head says where the body ends."""
        names = {name.lower() for name in self.headers}
        return self.status in (204, 304) or b"content-length" in names or b"transfer-encoding" in names

    def end(self) -> None:
        """The body is complete; the connection belongs to others now."""
        self.ended = True
        self._take_no_chunk()
        self._connection = None

    def _take_no_chunk(self) -> None:
        """Not before what is left has been read; and the next answer's are not ours."""
        if self._connection is not None:
            self._connection.take_chunk = None

    def came_whole(self) -> bytes:
        """The body of an answer that has ended, which stays to be read."""
        pieces = self._pieces
        if len(pieces) != 1:
            pieces = self._pieces = [b"".join(pieces)]
        return pieces[0]

    async def read(self) -> bytes | None:
        """What has come since the last read, at least a byte; None at the end. Raises HttpError."""
        return await self.flow(_leave)

    async def flow(self, take: Take, take_chunk: TakeChunk | None = None) -> bytes | None:
        """Give what comes to `take` right where it comes, without waking a task; returns the first rest that it leaves.

        take_chunk: is offered each read first that may be a whole chunk of the body, with its framing.
        None at the end. Raises HttpError, and what `take` raises.
        """
        self._take = take
        if self._connection is not None:
            self._connection.take_chunk = take_chunk
        try:
            while not self._pieces or self.pass_on():
                if self.ended:
                    return None
                assert self._connection is not None
                await self._connection.more()
        finally:
            self._take = None
            self._take_no_chunk()
        if self._connection is not None:
            self._connection.resume()
        return self._gather()

    def _gather(self) -> bytes:
        pieces = self._pieces
        self._pieces, self._size = [], 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def peek(self) -> bytes:
        """The first of what has come, which stays to be read; nothing at the end. Raises HttpError."""
        while not self._pieces and not self.ended:
            assert self._connection is not None
            await self._connection.more()
        return self._pieces[0] if self._pieces else b""

    async def read_blank(self) -> bytes:
        """White space that has come before anything else of the body; nothing once that has come. Raises HttpError."""
        while not self.ended:
            if self._pieces:
                came = self._gather()
                if not came.strip(_WHITE_SPACE):
                    if self._connection is not None:
                        self._connection.resume()
                    return came
                self._pieces, self._size = [came], len(came)
                break
            assert self._connection is not None
            await self._connection.more()
        return b""

    async def read_all(self, most_bytes: int, room: Callable[[int], Awaitable[None]] | None = None) -> bytes:
        """The rest of the body. Raises HttpError, also for a body that is larger.

        room: waits until so many bytes more may be held, as soon as a connection would hold up its provider for them.
        """
        counted = 0
        while not self.ended:
            assert self._connection is not None
            if self._size > most_bytes:
                raise HttpError("the body is too large")
            if room is not None and self._size - counted > MOST_UNREAD_BYTES:
                more, counted = self._size - counted, self._size
                await room(more)
                continue
            self._connection.resume()
            await self._connection.more()
        return self._gather()

    def close(self) -> None:
        """Give up what has not been read, and the connection with it. Does nothing after the end."""
        if self._connection is not None:
            self._connection.abort()
            self._connection = None
