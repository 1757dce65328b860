"""The client's side of one request: its body, its answer, and whether it is still there.

Long because it does so twice: over a connection of our own server, and in ASGI, for any other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Protocol

from sentinel.error import RequestTimeout, RequestTooLarge, ServiceUnavailable
from sentinel.memory_budget import UNCOUNTED_BYTES, Claim
from sentinel.proxy.headers import pairs_of
from sentinel.proxy.logging import RequestContext
from sentinel.tasks import Tasks

_LINGER_SECONDS = 1.0
MUCH_BYTES = 256 * 1024
"""More than what comes with a head: worth asking first whether it may be sent at all."""

_DIGITS = len(str(UNCOUNTED_BYTES))

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class ClientGone(Exception):
    """The client has closed its connection."""


class Connection(Protocol):
    """What our own server gives an application beside ASGI (server/request.py). task: that serves the request."""

    task: asyncio.Task[None] | None

    @property
    def gone(self) -> bool:
        """Whether the connection is closed."""

    def on_gone(self, tell: Callable[[], None] | None) -> None:
        """Whom to tell when the connection is closed."""

    @property
    def half_closed(self) -> bool:
        """Whether the client sends nothing more, and may be gone: what it is sent will tell."""

    @property
    def body_is_there(self) -> bool:
        """Whether the whole body has come."""

    def take_body(self) -> bytes:
        """What has come of the body."""

    def claim_for(self, user: str) -> Claim:
        """What is held of the request, from now on as this user's."""

    @property
    def is_full(self) -> bool:
        """Whether the client should read before it gets more."""

    async def has_room(self) -> None:
        """Wait until the client has read, or has left."""

    def send_head(
        self, status: int, header_lines: bytes, body: bytes, length: int | None, *, close: bool, more: bool
    ) -> None:
        """The head of an answer, and the first piece of its body. length: of the body, None = to be seen."""

    def send_piece(self, piece: bytes, *, more: bool) -> None:
        """A further piece of the body."""

    def chunk_writer(self, stop: Callable[[], None]) -> Callable[[bytes], None] | None:
        """What writes further pieces of the body that have the framing of chunks, until `stop` is called.

        None where pieces are no chunks, or would wait.
        """


class ClientRequest(Connection, Protocol):
    """All that our own server knows of a request: enough to serve it without a scope.

    path: decoded; target: it, the path as it came, the query. headers: names in lower case. client: the address of the
    other side. context: where the server notes that it has refused the rest of the request, so that its one log line
    tells of it.
    """

    method: str
    path: str
    target: tuple[str, bytes, bytes]
    headers: Mapping[bytes, bytes]
    client: str | None
    context: RequestContext | None

    async def receive(self) -> Message:
        """ASGI's."""

    async def send(self, message: Message) -> None:
        """ASGI's."""


class Passes(Protocol):
    """What passes chunks of a stream to the client, past us (passing.py)."""

    moved: bool


class ClientSide:
    """Reads the request, writes the answer, watches the connection.

    connection: None under another server than ours, which is spoken to in ASGI alone, by `receive` and `send`.
    headers: the request's, names in lower case. header_lines: headers that every answer of this request
    carries, here and below as they go over the wire. query: of its target, as it came. last_piece: of the body, as it
    was written; for whoever looks at it now and then.
    """

    __slots__ = (
        *("_claim", "_comment", "_connection", "_receive", "_send", "_waits", "_watch"),
        *("ended", "gone", "headers", "last_piece", "header_lines", "passing", "query", "started"),
    )

    def __init__(
        self,
        connection: Connection | None,
        receive: Receive,
        send: Send,
        headers: Mapping[bytes, bytes],
        header_lines: bytes,
        query: bytes = b"",
    ) -> None:
        self.headers = headers
        self.header_lines = header_lines
        self.query = query
        self.started = self.ended = False
        self.gone = False
        self.last_piece = b""
        self.passing: Passes | None = None
        self._waits = False
        self._claim: Claim | None = None
        self._comment: asyncio.Task[None] | None = None
        self._receive = receive
        self._send = send
        self._watch: asyncio.Task[None] | None = None
        self._connection = connection

    @property
    def is_sending_much(self) -> bool:
        """Whether a large body is still to come, or one of which nobody knows how large it is."""
        if self._connection is not None and self._connection.body_is_there:
            return False
        declared = self.headers.get(b"content-length")
        return declared is None or not declared.isdigit() or int(declared) > MUCH_BYTES

    def take_small_body(self, most_bytes: int) -> bytes | None:
        """The body if it has come whole, in no content coding, and too small to be counted; None: it must be read."""
        connection, headers = self._connection, self.headers
        declared = headers.get(b"content-length")
        if connection is None or declared is None or len(declared) > _DIGITS or not connection.body_is_there:
            return None
        if int(declared) > min(most_bytes, UNCOUNTED_BYTES) or b"content-encoding" in headers:
            return None
        return connection.take_body()

    async def read_body(self, most_bytes: int, timeout_seconds: float, user: str) -> bytes:
        """The whole body, in whatever content coding; as far as it is large it is held as this user's.

        Raises RequestTooLarge, RequestTimeout, ClientGone, and ServiceUnavailable where others hold too much for too
        long.
        """
        declared = self.headers.get(b"content-length")
        if declared is not None and declared.isdigit() and int(declared) > most_bytes:
            raise _too_large(most_bytes)
        body, connection = None, self._connection
        if connection is not None and connection.body_is_there:
            body = connection.take_body()
            if len(body) > most_bytes:
                raise _too_large(most_bytes)
            if len(body) <= UNCOUNTED_BYTES:
                return body
        claim = self._claim = None if connection is None else connection.claim_for(user)
        try:
            async with asyncio.timeout(timeout_seconds):
                body = await self._read(most_bytes) if body is None else body
                if claim is not None:
                    await claim.room(0)
        except TimeoutError as error:
            raise self._out_of_time() from error
        return body

    def _out_of_time(self) -> RequestTimeout | ServiceUnavailable:
        if self._claim is not None and self._claim.waited:
            return ServiceUnavailable("Too many large requests are in memory.", retry_after_seconds=1)
        return RequestTimeout("The request body came too slowly.")

    async def make_room(self, count: int, timeout_seconds: float, user: str) -> None:
        """Wait until so many bytes more than the body has may be held, for what comes out of it.

        Raises ServiceUnavailable.
        """
        if self._connection is None:
            return
        claim = self._claim = self._claim or self._connection.claim_for(user)
        try:
            async with asyncio.timeout(timeout_seconds):
                await claim.room(count)
        except TimeoutError as error:
            raise self._out_of_time() from error

    def holds(self, count: int) -> None:
        """So many bytes are held of the request from now on, all in all; 0 = nothing any more."""
        if self._claim is not None:
            self._claim.keep(count)

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

    def takes_pieces_of(self, user: str) -> None:
        """The body will be read piece by piece, each held as this user's until the next one is asked for."""
        if self._connection is not None:
            self._claim = self._connection.claim_for(user)

    async def read_piece(self, timeout_seconds: float) -> tuple[bytes, bool]:
        """What has come of the body since the last piece, and whether more follows.

        Raises RequestTimeout, ClientGone.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                message = await self._receive()
        except TimeoutError as error:
            raise self._out_of_time() from error
        if message["type"] == "http.disconnect":
            self.gone = True
            raise ClientGone
        piece: bytes = message.get("body", b"")
        if self._claim is not None:
            self._claim.took(len(piece) - self._claim.bytes)
        return piece, bool(message.get("more_body"))

    def holds_open(self, count: int) -> None:
        """So many bytes are held of a body that is read piece by piece."""
        if self._claim is not None:
            self._claim.took(count - self._claim.bytes)

    @property
    def can_be_watched(self) -> bool:
        """Whether it can be seen leaving while its body is read."""
        return self._connection is not None

    def watch(self, tasks: Tasks) -> None:
        """Cancel the current task when the client leaves, until `unwatch`; `gone` then says why."""
        connection = self._connection
        if connection is None:
            task = asyncio.current_task()
            assert task is not None
            self._watch = tasks.start(self._until_gone(task), "watch client")
            return
        connection.on_gone(self._leave)
        if connection.gone:
            self._leave()

    async def _until_gone(self, task: asyncio.Task[Any]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        task.cancel()

    def _leave(self) -> None:
        self.gone = True
        if self._connection is not None and self._connection.task is not None:
            self._connection.task.cancel()

    def unwatch(self) -> None:
        """Stop watching."""
        if self._connection is not None:
            self._connection.on_gone(None)
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def answer_at_once(self, status: int, header_lines: bytes, body: bytes) -> bool:
        """Send a whole small answer, if that needs no waiting; False, and nothing is sent, where it does."""
        connection = self._connection
        if connection is None or len(body) > MUCH_BYTES or connection.is_full:
            return False
        self.started = self.ended = True
        connection.send_head(status, self.header_lines + header_lines, body, len(body), close=False, more=False)
        return True

    async def answer(self, status: int, header_lines: bytes, body: bytes) -> None:
        """Send a whole answer; a large one in pieces, for what a client does not read would be in memory twice."""
        more = len(body) > MUCH_BYTES
        await self._head(status, header_lines, body[:MUCH_BYTES] if more else body, len(body), more=more)
        for start in range(MUCH_BYTES, len(body), MUCH_BYTES):
            await self._piece(body[start : start + MUCH_BYTES], more=start + MUCH_BYTES < len(body))

    async def answer_early(self, status: int, header_lines: bytes, body: bytes) -> None:
        """Send a whole answer while the client is still sending, then close the connection.

        A connection closed with unread bytes is reset, which can take the answer from the client: so what still
        comes is read and thrown away for a moment.
        """
        await self._head(status, header_lines, body, len(body), close=True, more=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while (message := await self._receive())["type"] != "http.disconnect" and message.get("more_body"):
                    pass
        await self.end()

    async def start(self, status: int, header_lines: bytes, length: int | None = None) -> None:
        """Send the head of an answer whose body follows in pieces. length: of that, None = to be seen."""
        # The head goes out now, although the first bytes of the body may be long in coming.
        await self._head(status, header_lines, b"", length, more=True)

    @property
    def is_full(self) -> bool:
        """Whether a write would wait, so that `pass_on` is not for now."""
        return self._connection is None or self._connection.is_full

    @property
    def is_in_doubt(self) -> bool:
        """Whether the client has part of an answer, and may be gone without our hearing of it."""
        return self.started and self._connection is not None and self._connection.half_closed

    def pass_on(self, piece: bytes) -> None:
        """Send a piece of the body at once."""
        assert self._connection is not None
        self.last_piece = piece
        self._connection.send_piece(piece, more=True)

    def chunk_writer(self, stop: Callable[[], None]) -> Callable[[bytes], None] | None:
        """What writes pieces of the body at once that have the framing of chunks; None where it cannot now.

        stop: called where it cannot any longer.
        """
        return None if self._connection is None else self._connection.chunk_writer(stop)

    def comment(self, line: bytes, head: Callable[[], bytes], tasks: Tasks) -> None:
        """Send a line in passing, where the answer goes on and no write waits. head: of an answer not yet started."""
        connection = self._connection
        if self.ended or self.gone or self._waits or (connection is not None and connection.is_full):
            return
        header_lines = None if self.started else self.header_lines + head()
        self.started = True
        if connection is None:
            self._waits = True
            self._comment = tasks.start(self._send_comment(line, header_lines), "keep-alive")
        elif header_lines is None:
            connection.send_piece(line, more=True)
        else:
            connection.send_head(200, header_lines, line, None, close=False, more=True)

    async def _send_comment(self, line: bytes, header_lines: bytes | None) -> None:
        try:
            # The server says so if the client has left; whoever watches for that hears of it, too.
            with contextlib.suppress(OSError):
                if header_lines is not None:
                    await self._send({"type": "http.response.start", "status": 200, "headers": pairs_of(header_lines)})
                await self._send({"type": "http.response.body", "body": line, "more_body": True})
        finally:
            self._waits = False

    async def write(self, piece: bytes) -> None:
        """Send a piece of the body; waits while the client does not read."""
        await self._piece(piece, more=True)

    async def end(self, piece: bytes = b"") -> None:
        """Send the last piece."""
        await self._piece(piece, more=False)

    async def _head(
        self, status: int, header_lines: bytes, body: bytes, length: int | None, *, close: bool = False, more: bool
    ) -> None:
        self.started = True
        self.ended = not more
        connection = self._connection
        if connection is None:
            headers = pairs_of(self.header_lines + header_lines)
            if length is not None:
                headers.append((b"content-length", b"%d" % length))
            if close:
                headers.append((b"connection", b"close"))
            await self._say(
                {"type": "http.response.start", "status": status, "headers": headers},
                {"type": "http.response.body", "body": body, "more_body": more},
            )
            return
        if connection.is_full:
            await self._has_room(connection)
        connection.send_head(status, self.header_lines + header_lines, body, length, close=close, more=more)

    async def _piece(self, piece: bytes, *, more: bool) -> None:
        self.last_piece = piece
        self.ended = not more
        connection = self._connection
        if connection is None:
            await self._say({"type": "http.response.body", "body": piece, "more_body": more})
            return
        if connection.is_full:
            await self._has_room(connection)
        connection.send_piece(piece, more=more)

    async def _has_room(self, connection: Connection) -> None:
        """Wait until the client has read; nothing may be written meanwhile that this write goes before."""
        self._waits = True
        try:
            await connection.has_room()
        finally:
            self._waits = False

    async def _say(self, *messages: Message) -> None:
        """ASGI's `send`, one after the other."""
        while self._comment is not None and not self._comment.done():
            await asyncio.wait([self._comment])
        self._waits = True
        try:
            for message in messages:
                await self._send(message)
        finally:
            self._waits = False


def _too_large(most_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"Request body is larger than the limit of {most_bytes} bytes.")
