"""The body of a request that is sent as it comes: a file is not in memory before its provider takes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sentinel.proxy.provider import StreamedBody


class WrongLength(Exception):
    """The body has another length than it was said to have, so its request cannot be finished."""


def framing_of(body: StreamedBody) -> bytes:
    """The header that tells where the body ends (RFC 9112, 6)."""
    if body.length is None:
        return b"transfer-encoding: chunked\r\n"
    return b"content-length: %d\r\n" % body.length


class Upload:
    """One body on its way. The connection says with `pause` and `resume` whether its buffer takes more."""

    def __init__(self, body: StreamedBody, write: Callable[[bytes], None]) -> None:
        self._body = body
        self._write = write
        self._room = asyncio.Event()
        self._room.set()

    def pause(self) -> None:
        """Nothing more is taken for now, so nothing more is asked for."""
        self._room.clear()

    def resume(self) -> None:
        """More is taken."""
        self._room.set()

    async def run(self) -> None:
        """Send all of it. Raises WrongLength, and what reading the body raises."""
        length, sent = self._body.length, 0
        async for piece in self._body:
            sent += len(piece)
            if length is not None and sent > length:
                raise WrongLength
            if piece:
                self._write(piece if length is not None else b"%x\r\n%b\r\n" % (len(piece), piece))
            await self._room.wait()
        if length is None:
            self._write(b"0\r\n\r\n")
        elif sent < length:
            raise WrongLength
