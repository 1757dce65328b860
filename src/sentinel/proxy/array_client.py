"""A client that is sent a stream as one JSON array."""

from __future__ import annotations

import re
from collections.abc import Callable

from sentinel.proxy.client import ClientSide
from sentinel.proxy.json_array import ArrayWriter
from sentinel.tasks import Tasks

_CONTENT_TYPE = re.compile(rb"^content-type: *text/event-stream[^\r]*", re.IGNORECASE | re.MULTILINE)
_JSON = b"content-type: application/json; charset=UTF-8"


class ArrayClientSide(ClientSide):
    """Takes the events of a stream, and sends the array that they are. Whole answers are sent as they are."""

    __slots__ = ("_writer",)

    def __init__(self, *args: object, **more: object) -> None:
        super().__init__(*args, **more)  # type: ignore[arg-type]
        self._writer: ArrayWriter | None = None

    async def start(self, status: int, header_lines: bytes, length: int | None = None) -> None:
        """Send the head of a stream whose events follow."""
        self._writer = ArrayWriter()
        await super().start(status, _CONTENT_TYPE.sub(_JSON, header_lines), length)

    def comment(self, line: bytes, head: Callable[[], bytes], tasks: Tasks) -> None:
        """Send white space in passing, where the answer goes on and no write waits."""
        super().comment(line, lambda: _CONTENT_TYPE.sub(_JSON, head()), tasks)
        if self.started and self._writer is None:
            self._writer = ArrayWriter()

    def pass_on(self, piece: bytes) -> None:
        """Send events at once."""
        super().pass_on(self._framed(piece))
        self.last_piece = piece

    def chunk_writer(self, stop: Callable[[], None]) -> None:
        """None: events are framed anew."""

    async def write(self, piece: bytes) -> None:
        """Send events; waits while the client does not read."""
        await super().write(self._framed(piece))
        # Whether an event has ended is seen by what it was.
        self.last_piece = piece

    async def end(self, piece: bytes = b"") -> None:
        """Send the last events, and the end of the array."""
        writer = self._writer
        await super().end(piece if writer is None else writer.feed(piece) + writer.end())

    def _framed(self, piece: bytes) -> bytes:
        assert self._writer is not None
        return self._writer.feed(piece)
