"""The client's side of one request: its body, its answer, and whether it is still there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from sentinel.error import Header, InvalidType, RequestTimeout, RequestTooLarge
from sentinel.proxy.headers import value_of
from sentinel.tasks import Tasks

_LINGER_SECONDS = 1.0

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class ClientGone(Exception):
    """The client has closed its connection."""


class ClientSide:
    """Reads the request, writes the answer, watches the connection.

    extra: headers that every answer of this request carries.
    """

    __slots__ = ("_connection", "_receive", "_send", "_watch", "extra", "gone", "scope", "started")

    def __init__(self, scope: Scope, receive: Receive, send: Send, extra: list[Header]) -> None:
        self.scope = scope
        self.extra = extra
        self.started = False
        self.gone = False
        self._receive = receive
        self._send = send
        self._watch: asyncio.Task[None] | None = None
        self._connection: Any = scope.get("extensions", {}).get("sentinel.connection")

    @property
    def headers(self) -> Iterable[Header]:
        """The request's headers, names in lower case."""
        headers: Iterable[Header] = self.scope["headers"]
        return headers

    async def read_body(self, most_bytes: int, timeout_seconds: float) -> bytes:
        """The whole body. Raises RequestTooLarge, RequestTimeout, InvalidType (compressed bodies), ClientGone."""
        declared = value_of(self.headers, b"content-length")
        if declared is not None and declared.isdigit() and int(declared) > most_bytes:
            raise _too_large(most_bytes)
        if value_of(self.headers, b"content-encoding") not in (None, b"identity"):
            raise InvalidType("Request bodies must not be compressed.", param="content-encoding")
        if self._connection is not None and self._connection.body_is_there:
            return await self._read(most_bytes)
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._read(most_bytes)
        except TimeoutError as error:
            raise RequestTimeout("The request body came too slowly.") from error

    async def _read(self, most_bytes: int) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                raise ClientGone
            piece: bytes = message.get("body", b"")
            size += len(piece)
            if size > most_bytes:
                raise _too_large(most_bytes)
            if not message.get("more_body"):
                return b"".join([*pieces, piece]) if pieces else piece
            pieces.append(piece)

    def watch(self, tasks: Tasks) -> None:
        """Cancel the current task when the client leaves, until `unwatch`; `gone` then says why."""
        task = asyncio.current_task()
        assert task is not None
        if self._connection is None:
            self._watch = tasks.start(self._until_gone(task), "watch client")
            return
        self._connection.keep_reading()
        self._connection.on_gone = lambda: self._leave(task)
        if self._connection.gone:
            self._leave(task)

    async def _until_gone(self, task: asyncio.Task[Any]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave(task)

    def _leave(self, task: asyncio.Task[Any]) -> None:
        self.gone = True
        task.cancel()

    def unwatch(self) -> None:
        """Stop watching."""
        if self._connection is not None:
            self._connection.on_gone = None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    async def answer(self, status: int, headers: Iterable[Header], body: bytes) -> None:
        """Send a whole answer."""
        self.started = True
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*headers, *self.extra, (b"content-length", b"%d" % len(body))],
            }
        )
        await self._send({"type": "http.response.body", "body": body})

    async def answer_early(self, status: int, headers: Iterable[Header], body: bytes) -> None:
        """Send a whole answer while the client is still sending, then close the connection.

        A connection closed with unread bytes is reset, which can take the answer from the client: so what still
        comes is read and thrown away for a moment.
        """
        await self.start(status, [*headers, (b"content-length", b"%d" % len(body)), (b"connection", b"close")])
        await self.write(body)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while (message := await self._receive())["type"] != "http.disconnect" and message.get("more_body"):
                    pass
        await self.end()

    async def start(self, status: int, headers: Iterable[Header]) -> None:
        """Send the head of an answer whose body follows in pieces."""
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *self.extra]})
        # An empty piece: the head goes out now, although the first bytes of the body may be long in coming.
        await self._send({"type": "http.response.body", "body": b"", "more_body": True})

    async def write(self, piece: bytes) -> None:
        """Send a piece of the body; waits while the client does not read."""
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self, piece: bytes = b"") -> None:
        """Send the last piece."""
        await self._send({"type": "http.response.body", "body": piece})


def _too_large(most_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"Request body is larger than the limit of {most_bytes} bytes.")
