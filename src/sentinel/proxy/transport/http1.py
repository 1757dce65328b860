"""A lean HTTP/1.1 client for one origin: httptools' parser on an asyncio Protocol, in the loop that serves the request.

Why not a library: relaying is what Sentinel is for, and the call to the provider was the largest single cost of a
request. pyreqwest, the fastest client found, hands each answer and each chunk from its own thread to ours; measured
side by side that is 35 us for a whole answer and 29 us for a chunk, here 17 and 5 (docs/adr/0008).

What it does: keep-alive, one request at a time on a connection, chunked and counted and endless bodies, bodies that are
sent as they come (upload.py), a bound for what waits unread, an idle time-out, TLS. What it leaves out: HTTP/2,
redirects, cookies, compression, trailers.

Providers close connections that rest (vLLM after 5 s, OpenAI and Anthropic after 15), and may do so just as we send a
request. So a connection rests for a shorter time here; and a request whose kept connection dies before any byte of the
answer is sent once more, over a fresh one.
"""

from __future__ import annotations

import asyncio
import errno
import random
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast
from urllib.parse import urlsplit

import httptools
import structlog

from sentinel.egress import DIRECT, Egress
from sentinel.proxy.chunk import TakeChunk
from sentinel.proxy.provider import StreamedBody
from sentinel.proxy.transport.answer import (
    MOST_UNREAD_BYTES,
    ConnectFailed,
    Http1Answer,
    HttpError,
    IdleTimeout,
    OpenFilesExceeded,
)
from sentinel.proxy.transport.dialer import Dialer, ProxyRefused
from sentinel.proxy.transport.upload import Upload, WrongLength, framing_of
from sentinel.tasks import Tasks, pause
from sentinel.write_coalescer import write_coalescer

log = structlog.get_logger()

MOST_HEAD_BYTES = 256 * 1024
"""Of a head, or of a list of trailers, that the next read has still not ended."""
MOST_IDLE = 1024
_MOST_COPIED_BYTES = 64 * 1024
_TICK_SECONDS = 0.25
_RETRY_SECONDS = 0.05
"""Before the second attempt to connect, about; before the third it is twice as long."""


class _Stale(HttpError):
    """A kept connection died before any byte of the answer: most likely it was closed while it rested."""


class Note(Protocol):
    """sent: the other side may have the request."""

    sent: bool


class Http1Client:
    """Connections to one origin. connect_seconds: to a connection; idle_seconds: between two reads of an answer.

    keep_seconds: how long a connection is kept for the next request, 0 = not at all. connect_retries: how often it is
    tried again to get one. header_lines: headers of every request, as they go over the wire. egress: how the origin is
    reached. has_room: whether there may be one connection more.
    """

    def __init__(
        self,
        url: str,
        header_lines: bytes = b"",
        *,
        connect_seconds: float,
        idle_seconds: float,
        keep_seconds: float,
        connect_retries: int = 0,
        egress: Egress = DIRECT,
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._dialer = Dialer(url, egress)
        self._prefix = self._dialer.before_path + parts.path.encode("ascii")
        host = parts.netloc.rpartition("@")[2].encode()
        self._header_lines = b" HTTP/1.1\r\nhost: %b\r\n%b%b" % (host, header_lines, self._dialer.header_lines)
        self._connect_seconds = connect_seconds
        self._idle_seconds = idle_seconds
        self._keep_seconds = keep_seconds
        self._connect_retries = connect_retries
        self._idle: deque[_Connection] = deque()
        self._busy: set[_Connection] = set()
        self._connecting = 0
        self._has_room = has_room
        self._tasks = Tasks()
        self._ticking = False

    async def send(
        self,
        method: bytes,
        path: bytes,
        header_lines: bytes,
        body: bytes,
        note: Note | None = None,
    ) -> Http1Answer:
        """Send a request; returns when the head of its answer is there. Raises HttpError.

        header_lines: headers as they go over the wire, without host and content-length. note: is told once there is a
        connection. The answer must be read to its end, or closed.
        """
        connection = self._reuse() or await self._connect()
        if note is not None:
            note.sent = True
        length = b"content-length: %d\r\n" % len(body) if body or method != b"GET" else b""
        head = b"".join((method, b" ", self._prefix, path, self._header_lines, header_lines, length, b"\r\n"))
        while True:
            self._busy.add(connection)
            answer = Http1Answer(connection)
            try:
                connection.start(answer, head, body)
                while answer.status == 0:
                    await connection.more()
            except _Stale:
                log.info("a kept connection to the provider was dead", host=self._host)
            except BaseException:
                connection.abort()
                raise
            else:
                return answer
            # A fresh one is never stale, so this happens once.
            connection = await self._connect()

    async def upload(
        self, method: bytes, path: bytes, header_lines: bytes, body: StreamedBody, note: Note | None = None
    ) -> Http1Answer:
        """`send` for a body that comes piece by piece. Raises HttpError, and what reading the body raises.

        It cannot be sent twice, so a kept connection, which may be dead, will not do.
        """
        connection = await self._connect()
        if note is not None:
            note.sent = True
        head = b"%b %b%b%b%b%b\r\n" % (method, self._prefix, path, self._header_lines, header_lines, framing_of(body))
        self._busy.add(connection)
        answer = Http1Answer(connection)
        try:
            connection.start(answer, head, b"")
            connection.start_upload(self._tasks, body)
            while answer.status == 0:
                await connection.more()
        except BaseException:
            connection.abort()
            raise
        return answer

    @property
    def connections(self) -> int:
        """How many there are, and are being made."""
        return len(self._busy) + len(self._idle) + self._connecting

    def _reuse(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable(self._keep_seconds):
                return connection
            connection.abort()
        return None

    async def _connect(self) -> _Connection:
        """A fresh connection. Raises ConnectFailed, OpenFilesExceeded."""
        if not self._ticking:
            self._ticking = True
            self._tasks.start(self._tick(), "provider connections")
        for attempt in range(1, self._connect_retries + 1):
            try:
                return await self._connect_once()
            except ConnectFailed:
                # Jitter: callers that failed together must not come back together.
                await pause(_RETRY_SECONDS * attempt * (0.5 + random.random()))  # noqa: S311 (no secret)
        return await self._connect_once()

    async def _connect_once(self) -> _Connection:
        if not self._has_room():
            raise OpenFilesExceeded("too many connections")
        self._connecting += 1
        try:
            async with asyncio.timeout(self._connect_seconds):
                return await self._dialer.connect(lambda: _Connection(self))
        except ProxyRefused as error:
            raise ConnectFailed(str(error)) from error
        except (OSError, TimeoutError) as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise OpenFilesExceeded(type(error).__name__) from error
            raise ConnectFailed(type(error).__name__) from error
        finally:
            self._connecting -= 1

    def done(self, connection: _Connection, *, reusable: bool) -> None:
        """A connection has finished its exchange."""
        self._busy.discard(connection)
        if reusable and self._keep_seconds and len(self._idle) < MOST_IDLE:
            self._idle.append(connection)
        else:
            connection.abort()

    async def _tick(self) -> None:
        """Find what has been silent for too long: one look at all connections instead of a timer for each read."""
        loop = asyncio.get_running_loop()
        # Whoever connects next starts it again: a client that nobody uses any more is held by nothing.
        while self._idle or self._busy or self._connecting:
            await pause(min(_TICK_SECONDS, self._idle_seconds / 4))
            now = loop.time()
            for connection in [c for c in self._busy if c.waits_since(now) > self._idle_seconds]:
                connection.fail(IdleTimeout("nothing came for too long"))
            while self._idle and now - self._idle[0].moved_at > self._keep_seconds:
                self._idle.popleft().abort()
        self._ticking = False

    async def close(self) -> None:
        """Close all connections."""
        await self._tasks.cancel()
        for connection in [*self._idle, *self._busy]:
            connection.abort()


class _Connection(asyncio.Protocol):
    """One connection; one answer at a time."""

    def __init__(self, client: Http1Client) -> None:
        # What a chunk that passes needs comes first, and so is in one place. Whether what comes next begins a further
        # chunk of the body; who takes chunks as they come, framing and all; whether any has come.
        self._between_chunks = False
        self.take_chunk: TakeChunk | None = None
        self._moved = False
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._turn = write_coalescer(self._loop)
        self._transport: asyncio.Transport | None = None
        self._headers: dict[bytes, bytes] = {}
        # The parser calls this for each header; a provider sends more than twenty, of which few are of interest.
        self.on_header = self._headers.__setitem__
        self._parser = httptools.HttpResponseParser(self)
        # Some servers pad the size of a chunk, and what SDKs use takes that: h11, Node, Go.
        self._parser.set_dangerous_leniencies(lenient_spaces_after_chunk_size=True)
        self._answer: Http1Answer | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._head_bytes = 0
        self._complete = False
        self._in_chunk = True
        self._keep_alive = False
        self._is_kept = False
        self._surplus = False
        self._paused = False
        self._upload: Upload | None = None
        self._uploading: asyncio.Task[None] | None = None
        self.moved_at = self._loop.time()

    # --------------------------------------------------------------------------------------------- for the client

    def start(self, answer: Http1Answer, head: bytes, body: bytes) -> None:
        """Send a request."""
        self._answer, self._complete, self._head_bytes = answer, False, 0
        self._between_chunks, self._in_chunk = False, True
        self.moved_at = self._loop.time()
        assert self._transport is not None
        if len(body) <= _MOST_COPIED_BYTES:
            self._turn.write(self._transport, head + body)
        else:
            # As it is: put behind its head it would be in memory twice for as long as the provider takes to read it.
            self._transport.writelines((head, body))

    def start_upload(self, tasks: Tasks, body: StreamedBody) -> None:
        """Send the body of the request whose head was sent, as it comes."""
        upload = self._upload = Upload(body, self._write)
        self._uploading = tasks.start(self._send_all(upload), "upload to the provider")

    async def _send_all(self, upload: Upload) -> None:
        try:
            await upload.run()
        except WrongLength:
            self.fail(HttpError("the body of the request has another length than it was said to have"))
        except Exception as error:  # noqa: BLE001 (it is raised where the answer is read)
            self.fail(error)
        else:
            self._upload = None

    def _write(self, data: bytes) -> None:
        self.moved_at = self._loop.time()
        if self._transport is not None:
            self._transport.write(data)

    def more(self) -> asyncio.Future[None]:
        """To wait until something has come. Raises HttpError when nothing will."""
        if self._error is not None:
            raise self._error
        # The next request may be waiting here before this one has resumed, so everybody waits for their own future.
        waiter = self._waiter = self._loop.create_future()
        return waiter

    def usable(self, keep_seconds: float) -> bool:
        """Whether another request may be sent: it stands, and has not rested for longer than this."""
        return (
            self._transport is not None
            and self._error is None
            and not self._transport.is_closing()
            and self._loop.time() - self.moved_at <= keep_seconds
        )

    def waits_since(self, now: float) -> float:
        """Seconds since the provider last sent something; 0 while it is us who do not read."""
        if self._moved:
            self._moved, self.moved_at = False, now
        return 0.0 if self._paused else now - self.moved_at

    def resume(self) -> None:
        """There is room for more."""
        if self._paused and self._transport is not None:
            self._paused = False
            self.moved_at = self._loop.time()
            self._transport.resume_reading()

    def fail(self, error: Exception) -> None:
        """End the exchange with this error."""
        self._error = self._error or error
        self.abort()
        self._wake()

    def abort(self) -> None:
        """Close at once."""
        self._client._busy.discard(self)  # noqa: SLF001 (two halves of one thing)
        if self._uploading is not None:
            self._uploading.cancel()
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            if self._error is not None:
                waiter.set_exception(self._error)
            else:
                waiter.set_result(None)

    # ------------------------------------------------------------------------------------------------ for asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        # The parser need not see a chunk that begins where another could, and ends there.
        if self._between_chunks and self.take_chunk is not None and self.take_chunk(data):
            self._moved = True
            return
        self.moved_at = self._loop.time()
        answer = self._answer
        if answer is None:
            # Nobody asked: this is no connection to send a request on.
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.fail(HttpError(type(error).__name__))
            return
        if answer.status == 0 or self._headers:
            # A head that goes on, or trailers.
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self.fail(HttpError("the head is too large"))
                return
        self._between_chunks = not self._in_chunk and data.endswith(b"\r\n")
        if self._complete:
            self._finish()
        elif self._pass_on(answer):
            return
        self._wake()

    def _pass_on(self, answer: Http1Answer) -> bool:
        try:
            return answer.pass_on()
        except Exception as error:  # noqa: BLE001 (it is raised where the answer is read)
            self.fail(error)
            return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._uploading is not None:
            self._uploading.cancel()
        # It knows our methods: what has ended goes at once so, and not when the garbage collector looks.
        del self._parser
        answer = self._answer
        if answer is None:
            return
        if exc is None and answer.status and not answer.is_counted:
            # A body without a length ends with its connection (RFC 9112, 6.3).
            self._answer = None
            answer.end()
            self._client.done(self, reusable=False)
            self._wake()
        elif self._is_kept and answer.status == 0 and self._head_bytes == 0:
            self.fail(_Stale("the connection was closed before it was used again"))
        else:
            self.fail(HttpError("the connection was closed"))

    def pause_writing(self) -> None:
        if self._upload is not None:
            self._upload.pause()

    def resume_writing(self) -> None:
        if self._upload is not None:
            self._upload.resume()

    def _finish(self) -> None:
        answer, self._answer = self._answer, None
        assert answer is not None
        answer.end()
        self.resume()
        self._is_kept = True
        # What an early answer has not waited for would be taken for the next request.
        self._client.done(self, reusable=self._keep_alive and not self._surplus and self._upload is None)

    # ------------------------------------------------------------------------------------------- for the parser

    def on_message_begin(self) -> None:
        # More than was asked for: whatever it is, it must not be taken for the next answer.
        self._surplus = self._complete

    def on_headers_complete(self) -> None:
        headers, status = self._headers.copy(), self._parser.get_status_code()
        self._headers.clear()
        if status >= 200 and not self._surplus:
            assert self._answer is not None
            self._answer.headers, self._answer.status = headers, status

    def on_body(self, piece: bytes) -> None:
        if self._surplus or self._answer is None:
            return
        if self._answer.came(piece) > MOST_UNREAD_BYTES and not self._paused:
            assert self._transport is not None
            self._paused = True
            self._transport.pause_reading()

    def on_chunk_header(self) -> None:
        self._in_chunk = True

    def on_chunk_complete(self) -> None:
        self._in_chunk = False

    def on_message_complete(self) -> None:
        # Trailers shall not be taken for headers of the next answer.
        self._headers.clear()
        # The parser knows this only until it looks for the next message.
        self._keep_alive = not self._surplus and bool(self._parser.should_keep_alive())
        if self._answer is not None and self._answer.status:
            self._complete = True
