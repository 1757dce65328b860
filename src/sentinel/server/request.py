"""One request on a client's connection, and its answer: what connection.py hands to the application.

A request has two states, of its body and of its answer; `BODY_CHANGES` and `ANSWER_CHANGES` are all transitions that
there are. One thing more is known: whether the connection serves another request afterwards (`keep_alive`).
Long because it speaks ASGI as well as what our own client side calls (`proxy/client.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

import structlog

from sentinel.error import Header, InternalError, headers_of
from sentinel.proxy.headers import lines_of
from sentinel.server.refusal import STATUS_LINES, renderer_for

if TYPE_CHECKING:
    from sentinel.memory_budget import Claim
    from sentinel.proxy.logging import RequestContext
    from sentinel.server.connection import HttpConnection

log = structlog.get_logger()

Serve = Callable[["ServedRequest"], Awaitable[None] | None]
"""The application's: serves a request without ASGI's messages; None where it wants to be asked in ASGI."""

_ASGI = {"version": "3.0", "spec_version": "2.3"}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_SWITCHING = STATUS_LINES[101]
_NO_BODY = (204, 304)


class Body(Enum):
    """How much of the request's body has come."""

    COMING = "not all of it"
    INVITED = "not all of it, and the client, which waited to be told so, has been told to send it"
    WHOLE = "all of it"


class Answer(Enum):
    """How far the answer is."""

    AWAITED = "nothing has been sent but interim answers"
    SENDING = "the head has been sent, and pieces of the body are sent as they are"
    SENDING_CHUNKS = "the head has been sent, and pieces of the body are sent as chunks (RFC 9112, 7.1)"
    SENDING_NOTHING = "the head has been sent, and there is no body, whatever pieces come (HEAD, 204, 304)"
    COMPLETE = "all has been sent"
    UPGRADED = "the connection goes on in another protocol"
    GONE = "the client is gone, or the request broke off: what is sent is dropped"


# The members by themselves, for an attribute of an Enum costs more than a global.
COMING, INVITED, WHOLE = Body
AWAITED, SENDING, SENDING_CHUNKS, SENDING_NOTHING, COMPLETE, UPGRADED, GONE = Answer

BODY_CHANGES = {COMING: {INVITED, WHOLE}, INVITED: {WHOLE}, WHOLE: set[Body]()}
ANSWER_CHANGES = {
    AWAITED: {SENDING, SENDING_CHUNKS, COMPLETE, UPGRADED, GONE},
    SENDING: {SENDING_NOTHING, COMPLETE, GONE},
    SENDING_CHUNKS: {COMPLETE, GONE},
    SENDING_NOTHING: {COMPLETE, GONE},
    COMPLETE: set[Answer](),
    UPGRADED: {GONE},
    GONE: set[Answer](),
}


class ServedRequest:
    """One request and its answer: ASGI's `receive` and `send`, and the shorter way that our own application takes.

    `send_head` puts the head of an answer and its first piece into one write. Headers are not checked there: they come
    from constants, numbers and the provider's answer, which has been through an HTTP parser.

    path: decoded; target: it and what else `head.target_of` tells. version: of HTTP, such as `1.1`. headers: those of
    one name as one list, names in lower case. client: the address of the other side. task: that serves it. context:
    what its line in the log tells, once there is anybody who writes that: the application, or before it is asked
    whoever refuses the request. keep_alive: the connection serves another request afterwards. claim: on the memory
    budget, of a large one. on_shutdown: whom to tell when the server stops, of an upgraded connection.
    """

    __slots__ = (
        *("_answer", "_body", "_connection", "_head", "_news", "_pieces", "_raw_headers", "_scope", "_size", "_tell"),
        *("_transport", "claim", "client", "context", "headers", "keep_alive", "method", "on_shutdown", "path"),
        *("target", "task", "version"),
    )

    def __init__(
        self,
        connection: HttpConnection,
        method: str,
        target: tuple[str, bytes, bytes],
        version: str,
        raw_headers: list[Header],
        headers: Mapping[bytes, bytes],
        keep_alive: bool,
    ) -> None:
        self.method = method
        self.path = target[0]
        self.target = target
        self.version = version
        self.headers = headers
        self.client = connection.client
        self.task: asyncio.Task[None] | None = None
        self.context: RequestContext | None = None
        self.keep_alive = keep_alive
        self.claim: Claim | None = None
        self.on_shutdown: Callable[[], None] | None = None
        self._raw_headers = raw_headers
        self._scope: dict[str, Any] | None = None
        self._body = COMING
        self._answer = AWAITED
        self._connection = connection
        self._transport = connection.transport
        self._pieces: list[bytes] = []
        self._size = 0
        self._news: asyncio.Event | None = None
        self._tell: Callable[[], None] | None = None
        self._head: tuple[int, bytes, int | None, bool] | None = None

    @property
    def scope(self) -> dict[str, Any]:
        """ASGI's, made when it is first asked for: what our own application serves at once does without."""
        if self._scope is None:
            path, raw_path, query = self.target
            self._scope = {
                "type": "http",
                "asgi": _ASGI,
                "http_version": self.version,
                "method": self.method,
                **self._connection.address,
                "root_path": "",
                "path": path,
                "raw_path": raw_path,
                "query_string": query,
                "headers": self._raw_headers,
                "state": self._connection.state,
                "extensions": {"sentinel.connection": self},
            }
        return self._scope

    async def run(self, app: Any, serve: Serve) -> None:
        """Have the application answer: at once, else in ASGI. What it leaves open is ended here."""
        try:
            # What broke off before it was begun has had its answer, and its line in the log.
            if self._answer is not GONE or self.context is None:
                await (serve(self) or app(self.scope, self.receive, self.send))
        except BaseException:
            # There is nobody else who would hear of it.
            log.exception("the application failed")
        finally:
            if self._answer is not COMPLETE and self._answer is not GONE:
                self._end()
            # No circle of references shall be left for the collector of garbage.
            self._connection.server_state.tasks.discard(self.task)
            self._scope = self.task = self._tell = self.on_shutdown = None
            self.let_go()

    def _end(self) -> None:
        """The application has done with it, and the answer is not complete."""
        if self._answer is not AWAITED:
            self._transport.close()
            return
        error = InternalError("The server had an error while processing your request.")
        request_id = "" if self.context is None else self.context.id
        body = renderer_for(self._connection.state, self.path)(error, request_id)
        self.send_head(error.status, lines_of(headers_of(error)), body, len(body), close=True, more=False)

    # ------------------------------------------------------------------------------------------------------ incoming

    def came(self, piece: bytes) -> int:
        """A piece of the body has come; returns how much of it waits. That of an answered request is not looked at."""
        if self._answer is COMPLETE:
            return 0
        self._pieces.append(piece)
        self._size += len(piece)
        if self._news is not None:
            self._news.set()
        return self._size

    def has_come(self) -> None:
        """The body is whole."""
        self._body = WHOLE
        if self._news is not None:
            self._news.set()

    def count(self, more: int) -> None:
        """So many bytes have come of something large; what came of the body before is counted, too."""
        claim = self.claim
        if claim is None:
            claim = self._claim_memory()
            more = max(more, self._size)
        claim.took(more)

    def claim_for(self, user: str) -> Claim:
        """What is held of it, from now on as this user's."""
        claim = self.claim
        if claim is None:
            claim = self._claim_memory()
            claim.took(self._size)
        claim.belongs_to(user)
        return claim

    def _claim_memory(self) -> Claim:
        claim = self.claim = self._connection.memory.claim(int(self.headers.get(b"content-length", b"0")))
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
        if self._answer is not COMPLETE:
            self._answer = GONE
        if self._news is not None:
            self._news.set()

    def on_gone(self, tell: Callable[[], None] | None) -> None:
        """Whom to tell when the connection is closed."""
        self._tell = tell
        if tell is not None:
            # Reading is paused after a large body, and an unread socket does not tell that its client has left.
            self._connection.resume_reading()

    @property
    def gone(self) -> bool:
        """Whether the client is gone, before its answer was complete."""
        return self._answer is GONE

    @property
    def started(self) -> bool:
        """Whether an answer has begun, or none can any more."""
        return self._answer is not AWAITED

    @property
    def half_closed(self) -> bool:
        """Whether the client sends nothing more, and may be gone."""
        return self._connection.half_closed is not None

    @property
    def body_is_there(self) -> bool:
        """Whether the whole body has come."""
        return self._body is WHOLE

    def take_body(self) -> bytes:
        """What has come of the body."""
        body = b"".join(self._pieces)
        self._pieces, self._size = [], 0
        return body

    async def receive(self) -> dict[str, Any]:
        """ASGI's: the next of the body, or that the client is gone or the answer complete."""
        if self._news is None:
            self._news = asyncio.Event()
            if self._pieces or self._body is WHOLE:
                self._news.set()
            elif self._answer is AWAITED and self._expects_continue():
                self._body = INVITED
                self._transport.write(CONTINUE)
        if self._answer is not GONE and self._answer is not COMPLETE:
            if self.claim is not None and self._body is not WHOLE:
                self.claim.read_on(self._connection)
            else:
                self._connection.resume_reading()
            await self._news.wait()
            self._news.clear()
        if self._answer is GONE or self._answer is COMPLETE:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self.take_body(), "more_body": self._body is not WHOLE}

    def _expects_continue(self) -> bool:
        return any(name == b"expect" and value.lower() == b"100-continue" for name, value in self._raw_headers)

    # ------------------------------------------------------------------------------------------------------ outgoing

    @property
    def is_full(self) -> bool:
        """Whether the client should read before it gets more."""
        return self._connection.flow.write_paused

    async def has_room(self) -> None:
        """Wait until the client has read, or has left."""
        await self._connection.flow.drain()

    def send_head(
        self, status: int, header_lines: bytes, body: bytes, length: int | None, *, close: bool, more: bool
    ) -> None:
        """The head of an answer, and the first piece of its body. length: of the body, None = to be seen.

        header_lines: headers, none of which is about the connection or the body's length.
        """
        if self._answer is not AWAITED:
            return
        if length is not None:
            # A status that has no body tells of none (RFC 9110, 8.6).
            has_length = length or status not in _NO_BODY
            sending, framing = SENDING, b"content-length: %d\r\n" % length if has_length else b""
        elif self.version != "1.0":
            sending, framing = SENDING_CHUNKS, b"transfer-encoding: chunked\r\n"
            if body:
                body = b"%x\r\n%b\r\n" % (len(body), body)
            if not more:
                body += b"0\r\n\r\n"
        else:
            # The end of the connection is the end of the body (RFC 9112, 6.3).
            sending, framing = SENDING, b""
        # A client that waits for 100 Continue may send its body after all, or leave it out and go on.
        if close or (self._body is COMING and not self._pieces and self._expects_continue()):
            self.keep_alive = False
        if not self.keep_alive:
            framing += b"connection: close\r\n"
        # Where pieces are long, this takes a third of what a format does.
        data = b"".join((STATUS_LINES[status], header_lines, framing, b"\r\n", body))
        if more:
            self._answer = sending
            self._transport.write(data)
            return
        if self.keep_alive:
            self._connection.writes.write(self._transport, data)
        else:
            # A close would not wait for what is written later.
            self._transport.write(data)
        self._complete()

    def chunk_writer(self, stop: Callable[[], None]) -> Callable[[bytes], None] | None:
        """What writes what is a chunk of HTTP already, until `stop` is called; None where it cannot.

        Where pieces are no chunks, or would wait. `stop` is called where they would, or the client is gone.
        """
        if self._answer is not SENDING_CHUNKS or self._connection.flow.write_paused:
            return None
        self._connection.on_stall = stop
        return self._transport.write

    def send_piece(self, piece: bytes, *, more: bool) -> None:
        """A further piece of the body."""
        answer = self._answer
        if answer is SENDING_CHUNKS:
            if more:
                if piece:
                    self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                return
            self._transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(piece), piece) if piece else b"0\r\n\r\n")
        elif answer is SENDING:
            self._transport.write(piece)
        elif answer is not SENDING_NOTHING:
            return
        if not more:
            self._complete()

    def _complete(self) -> None:
        self._answer = COMPLETE
        self._pieces, self._size = [], 0
        if self._news is not None:
            self._news.set()
        self._connection.answered(self)

    @property
    def can_upgrade(self) -> bool:
        """Whether the connection can go on in the protocol that the request asks for (upgrade.py)."""
        return self._answer is AWAITED and self._connection.offered is self

    def accept_upgrade(self, header_lines: bytes, protocol: asyncio.Protocol) -> bool:
        """Answer 101 and give the transport to `protocol`; returns False, and does nothing, without `can_upgrade`.

        header_lines: headers, with `Upgrade` and without `Connection`. Before this returns `protocol` is told of the
        connection, and of what came behind the head. The connection is closed when this request's task ends.
        """
        if not self.can_upgrade:
            return False
        self._answer = UPGRADED
        self.let_go()
        # What is held of the other protocol is another claim.
        self.claim = None
        self._connection.hand_over(b"%b%bconnection: Upgrade\r\n\r\n" % (_SWITCHING, header_lines), protocol)
        return True

    async def send(self, message: Any) -> None:
        """ASGI's. The head leaves with the first piece of the body. Raises RuntimeError for headers that are none."""
        if self.is_full and self._answer is not GONE:
            await self.has_room()
        if message["type"] == "http.response.start":
            self._head = self._head_of(message["status"], message.get("headers", ()))
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        head, self._head = self._head, None
        if head is None:
            self.send_piece(body, more=more)
            return
        status, header_lines, length, close = head
        has_body = self._may_have_body(status)
        self.send_head(status, header_lines, body if has_body else b"", length, close=close, more=more)
        if not has_body and self._answer is SENDING:
            self._answer = SENDING_NOTHING

    def _may_have_body(self, status: int) -> bool:
        return self.method != "HEAD" and status not in _NO_BODY

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
        if length is None and not self._may_have_body(status):
            length = 0
        return status, lines_of(others), length, close
