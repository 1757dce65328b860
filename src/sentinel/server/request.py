"""One request on a client's connection, and its answer: what protocol.py hands to the application."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import structlog

from sentinel.error import InternalError, body_of, headers_of
from sentinel.proxy.headers import lines_of

if TYPE_CHECKING:
    from sentinel.memory_budget import Claim
    from sentinel.server.protocol import HttpProtocol

log = structlog.get_logger()

_PHRASES = {status.value: status.phrase for status in HTTPStatus}
STATUS_LINES = {status: f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode() for status in range(100, 600)}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ServedRequest:
    """One request and its answer: ASGI's `receive` and `send`, and the shorter way that our own application takes.

    `send_head` puts the head of an answer and its first piece into one write. Headers are not checked there: they come
    from constants, numbers and the provider's answer, which has been through an HTTP parser.
    """

    __slots__ = (
        "_bodyless",
        "_chunked",
        "_complete",
        "_continued",
        "_head",
        "_news",
        "_pieces",
        "_protocol",
        "_size",
        "_tell",
        "_transport",
        "claim",
        "gone",
        "keep_alive",
        "more_body",
        "scope",
        "started",
        "task",
    )  # fmt: skip

    def __init__(self, protocol: HttpProtocol, scope: dict[str, Any], keep_alive: bool) -> None:
        self.scope = scope
        self.task: asyncio.Task[None] | None = None
        self.keep_alive = keep_alive
        self.gone = self.started = self._complete = self._chunked = self._bodyless = self._continued = False
        self.more_body = True
        self._protocol = protocol
        self._transport = protocol.transport
        self._pieces: list[bytes] = []
        self._size = 0
        self.claim: Claim | None = None
        self._news: asyncio.Event | None = None
        self._tell: Callable[[], None] | None = None
        self._head: tuple[int, bytes, int | None, bool] | None = None

    async def run(self, app: Any) -> None:
        """Have the application answer. What it leaves open is ended here."""
        self.scope["extensions"] = {"sentinel.connection": self}
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException:
            # There is nobody else who would hear of it.
            log.exception("the application failed")
        finally:
            if not self._complete and not self.gone:
                self._end_badly()
            # No circle of references shall be left for the collector of garbage.
            self._protocol.server_state.tasks.discard(self.task)
            self.scope.pop("extensions", None)
            self.task = self._tell = None
            self.let_go()

    def _end_badly(self) -> None:
        if self.started:
            self._transport.close()
            return
        error = InternalError("The server had an error while processing your request.")
        body = body_of(error)
        self.send_head(error.status, lines_of(headers_of(error)), body, len(body), close=True, more=False)

    # ------------------------------------------------------------------------------------------------------ incoming

    def came(self, piece: bytes) -> int:
        """A piece of the body has come; returns how much of it waits. That of an answered request is not looked at."""
        if self._complete:
            return 0
        self._pieces.append(piece)
        self._size += len(piece)
        self._wake()
        return self._size

    def has_come(self) -> None:
        """The body is whole."""
        self.more_body = False
        self._wake()

    def count(self, more: int) -> None:
        """So many bytes have come of something large; what came of the body before is counted, too."""
        claim = self.claim
        if claim is None:
            claim = self.claim = self._protocol.memory.claim()
            more = max(more, self._size)
        claim.took(more)

    def claim_for(self, user: str) -> Claim:
        """What is held of it, from now on as this user's."""
        claim = self.claim
        if claim is None:
            claim = self.claim = self._protocol.memory.claim()
            claim.took(self._size)
        claim.belongs_to(user)
        return claim

    def let_go(self) -> None:
        """Nothing is held of it any more."""
        if self.claim is not None:
            self.claim.release()

    def lost(self) -> None:
        """The connection is closed."""
        self.break_off()
        if self.task is None:
            self.let_go()
        if self._tell is not None:
            self._tell()

    def break_off(self) -> None:
        """Nothing will come any more, and nothing can be sent."""
        if not self._complete:
            self.gone = True
        self._wake()

    def _wake(self) -> None:
        if self._news is not None:
            self._news.set()

    def on_gone(self, tell: Callable[[], None] | None) -> None:
        """Whom to tell when the connection is closed."""
        # Reading is paused after a large body, and an unread socket does not tell that its client has left.
        self._protocol.resume_reading()
        self._tell = tell

    @property
    def half_closed(self) -> bool:
        """Whether the client sends nothing more, and may be gone."""
        return self._protocol.half_closed is not None

    @property
    def body_is_there(self) -> bool:
        """Whether the whole body has come."""
        return not self.more_body

    def take_body(self) -> bytes:
        """What has come of the body."""
        body = b"".join(self._pieces)
        self._pieces, self._size = [], 0
        return body

    async def receive(self) -> dict[str, Any]:
        """ASGI's: the next of the body, or that the client is gone or the answer complete."""
        if self._news is None:
            self._news = asyncio.Event()
            if self._pieces or not self.more_body:
                self._news.set()
            elif not self.gone and not self.started and self._expects_continue():
                self._continued = True
                self._transport.write(CONTINUE)
        if not self.gone and not self._complete:
            if self.claim is not None and self.more_body:
                self.claim.read_on(self._protocol)
            else:
                self._protocol.resume_reading()
            await self._news.wait()
            self._news.clear()
        if self.gone or self._complete:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self.take_body(), "more_body": self.more_body}

    def _expects_continue(self) -> bool:
        return any(name == b"expect" and value.lower() == b"100-continue" for name, value in self.scope["headers"])

    # ------------------------------------------------------------------------------------------------------ outgoing

    @property
    def is_full(self) -> bool:
        """Whether the client should read before it gets more."""
        return self._protocol.flow.write_paused

    async def has_room(self) -> None:
        """Wait until the client has read, or has left."""
        await self._protocol.flow.drain()

    def send_head(self, status: int, lines: bytes, body: bytes, length: int | None, *, close: bool, more: bool) -> None:
        """The head of an answer, and the first piece of its body. length: of the body, None = to be seen.

        lines: headers, none of which is about the connection or the body's length.
        """
        if length is not None:
            self._chunked, framing = False, b"content-length: %d\r\n" % length
        elif self.scope["http_version"] != "1.0":
            self._chunked, framing = True, b"transfer-encoding: chunked\r\n"
        else:
            self._chunked, framing = False, b""
        # A client that waits for 100 Continue may send its body after all, or leave it out and go on.
        if close or (self.more_body and not self._pieces and not self._continued and self._expects_continue()):
            self.keep_alive = False
        if not self.keep_alive:
            framing += b"connection: close\r\n"
        self.started = True
        self._send(b"%b%b%b\r\n" % (STATUS_LINES[status], lines, framing), body, head=True, more=more)

    def send_piece(self, piece: bytes, *, more: bool) -> None:
        """A further piece of the body."""
        if not more or not self._chunked:
            self._send(b"", piece, head=False, more=more)
        elif piece and not self.gone:
            self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def _send(self, data: bytes, body: bytes, *, head: bool, more: bool) -> None:
        if self.gone or self._complete:
            return
        if not self._chunked:
            data += body
        else:
            if body:
                data += b"%x\r\n%b\r\n" % (len(body), body)
            if not more:
                data += b"0\r\n\r\n"
        if head and not more and self.keep_alive:
            self._protocol.turn.write(self._transport, data)
        else:
            # A chunk shall not wait, and a close would not.
            self._transport.write(data)
        if not more:
            self._complete = True
            self._pieces, self._size = [], 0
            self._wake()
            self._protocol.answered(self)

    async def send(self, message: Any) -> None:
        """ASGI's. The head leaves with the first piece of the body. Raises RuntimeError for headers that are none."""
        if self.is_full and not self.gone:
            await self.has_room()
        if message["type"] == "http.response.start":
            self._head = self._head_of(message["status"], message.get("headers", ()))
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        head, self._head = self._head, None
        if self._bodyless:
            body = b""
        if head is not None:
            status, lines, length, close = head
            self.send_head(status, lines, body, length, close=close, more=more)
        else:
            self.send_piece(body, more=more)

    def _head_of(self, status: int, headers: Any) -> tuple[int, bytes, int | None, bool]:
        length, close, others = None, False, []
        for name, value in headers:
            if b"\r" in value or b"\n" in value:
                raise RuntimeError("a header may not have line ends")
            if name == b"content-length":
                length = int(value)
            elif name == b"connection":
                close = value == b"close"
            else:
                others.append((name, value))
        self._bodyless = self.scope["method"] == "HEAD" or status in (204, 304)
        return status, lines_of(others), 0 if length is None and self._bodyless else length, close
