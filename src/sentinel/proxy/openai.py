"""OpenAI as the AiProvider, over HTTP/1.1; also anything else that is asked in the same way (doors.py says where).

Whatever passes on from it passes without our key: heads, whole answers, refusals in any spelling (proxy/redaction.py);
events of a stream by the meter, which sees them whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from sentinel.egress import DIRECT, Egress
from sentinel.error import AppError, ServiceUnavailable, UpstreamError, UpstreamNotReached, UpstreamTimeout
from sentinel.proxy import content_coding
from sentinel.proxy.chunk import TakeChunk
from sentinel.proxy.doors import Door, doors_of, refuses_key
from sentinel.proxy.headers import lines_of, of_our_own, pairs_of, passed_to_client, to_client
from sentinel.proxy.provider import (
    OnBlank,
    PassedStream,
    ProviderAnswer,
    ProviderRequest,
    ProviderStream,
    Room,
)
from sentinel.proxy.redaction import Redactor
from sentinel.proxy.transport.answer import (
    MOST_UNREAD_BYTES,
    ConnectFailed,
    Http1Answer,
    HttpError,
    IdleTimeout,
    OpenFilesExceeded,
    Take,
)
from sentinel.proxy.transport.http1 import Http1Client
from sentinel.tokens.counter import is_large

log = structlog.get_logger()

CONNECT_RETRIES = 2
_GET_SECONDS = 10.0
MOST_ANSWER_BYTES = 64 * 1024 * 1024


class OpenAIProvider:
    """Sends requests to `{url}{path}` with our key. What was never sent, for want of a connection, is tried again.

    doors: where its paths begin, if not all of them where OpenAI's do.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        connect_timeout_seconds: float,
        idle_timeout_seconds: float,
        keepalive_seconds: float,
        egress: Egress = DIRECT,
        has_room: Callable[[], bool] = lambda: True,
        doors: Sequence[Door] = (),
    ) -> None:
        self._redactor = Redactor(api_key)
        self._url = url.rstrip("/").encode()
        client = partial(
            Http1Client,
            connect_seconds=connect_timeout_seconds,
            idle_seconds=idle_timeout_seconds,
            keep_seconds=keepalive_seconds,
            connect_retries=CONNECT_RETRIES,
            egress=egress,
            has_room=has_room,
        )
        # We read what we relay; without this line any coding would do (RFC 9110, 12.5.3).
        identity = "accept-encoding: identity\r\n"
        self._doors = tuple(
            (door, client(door.url, f"{door.key}{api_key}\r\n{identity}".encode()))
            for door in doors or doors_of("openai", url)
        )

    @property
    def connections(self) -> int:
        """How many there are."""
        return sum(client.connections for _, client in self._doors)

    async def post(self, request: ProviderRequest, on_blank: OnBlank, room: Room) -> ProviderAnswer:
        """Send a request and read the whole answer. Raises UpstreamError, UpstreamTimeout, ServiceUnavailable."""
        answer = await self._send(request)
        if answer.status == 200:
            if not answer.ended:
                await _pass_blanks(answer, on_blank, self._redactor)
            elif (plain := self._plain(answer)) is not None:
                return plain
        return await _whole(answer, self._redactor, room)

    def _plain(self, answer: Http1Answer) -> ProviderAnswer | None:
        """A small answer that has come at once, in no content coding and without our key: nearly all of them."""
        header_lines, upstream_id = to_client(answer.headers)
        body, mark = answer.came_whole(), self._redactor.mark
        # `in` makes an exception for whatever is no number, and forgets it: `find` takes half as long.
        if header_lines.find(b"content-encoding: ") >= 0:
            return None
        if mark is not None and (
            body.find(mark) >= 0 or header_lines.find(mark) >= 0 or (upstream_id or b"").find(mark) >= 0
        ):
            return None
        return ProviderAnswer(200, header_lines, upstream_id, body)

    async def stream(self, request: ProviderRequest, room: Room) -> ProviderStream:
        """Send a request whose answer is read piece by piece. Raises UpstreamError, UpstreamTimeout."""
        answer = await self._send(request)
        stream = _Stream(answer, self._redactor, room)
        coding = stream.coding if stream.status == 200 else None
        return stream if coding is None else _DecodedStream(stream, coding)

    async def pass_on(self, request: ProviderRequest, room: Room) -> PassedStream:
        """Send a request of any kind, whose answer is read piece by piece. Raises UpstreamError, UpstreamTimeout."""
        stream = _PassedStream(await self._send(request), self._redactor, room, self._url)
        # A part of what is coded can be decoded by nobody.
        is_readable = 200 <= stream.status < 300 and stream.status != 206
        coding = stream.coding if is_readable else None
        return stream if coding is None else _DecodedStream(stream, coding)

    async def get(self, path: str, request_id: str) -> ProviderAnswer:
        """Fetch something that does not depend on the caller. Raises UpstreamError, UpstreamTimeout."""
        try:
            async with asyncio.timeout(_GET_SECONDS):
                asked = path.encode("ascii")
                request = ProviderRequest(asked, of_our_own(asked, request_id), b"", b"GET")
                return await _whole(await self._send(request), self._redactor)
        except TimeoutError as error:
            raise _ours(IdleTimeout("no whole answer in time")) from error

    async def close(self) -> None:
        """Close all connections."""
        for _, client in self._doors:
            await client.close()

    async def _send(self, request: ProviderRequest) -> Http1Answer:
        """The answer, whose head is there. Raises UpstreamError, UpstreamTimeout, and what a streamed body raises."""
        body, path = request.body, request.path
        door, client = self._doors[-1]
        for special in self._doors[:-1]:
            if path.startswith(special[0].begins):
                door, client = special
        path, header_lines = door.path(path, request.model), door.lines(request.header_lines)
        try:
            if isinstance(body, bytes):
                answer = await client.send(request.method, path, header_lines, body, request)
            else:
                answer = await client.upload(request.method, path, header_lines, body, request)
            if door.is_googles and answer.status == 400:
                await _judge(answer)
            return answer
        except HttpError as error:
            raise _ours(error) from error


_UNREADABLE = (content_coding.UnknownCoding, content_coding.Undecodable, content_coding.Oversized)


class _Stream:
    def __init__(self, answer: Http1Answer, redactor: Redactor, room: Room | None) -> None:
        self.status = answer.status
        self.room = room
        self.header_lines, self.id = _head(answer, redactor)
        self.redactor = redactor
        self._answer = answer

    @property
    def coding(self) -> bytes | None:
        """Its Content-Encoding, which we did not ask for."""
        return _without_coding(self.header_lines)[1]

    async def read(self) -> bytes | None:
        try:
            return await self._answer.read()
        except HttpError as error:
            raise _ours(error) from error

    async def flow(self, take: Take, take_chunk: TakeChunk | None = None) -> bytes | None:
        try:
            return await self._answer.flow(take, take_chunk)
        except HttpError as error:
            raise _ours(error) from error

    async def peek(self) -> bytes:
        try:
            return await self._answer.peek()
        except HttpError as error:
            raise _ours(error) from error

    async def whole(self) -> ProviderAnswer:
        return await _whole(self._answer, self.redactor, self.room)

    def close(self) -> None:
        self._answer.close()


class _PassedStream(_Stream):
    """An answer of any kind."""

    def __init__(self, answer: Http1Answer, redactor: Redactor, room: Room, url: bytes) -> None:
        super().__init__(answer, redactor, room)
        self.header_lines = redactor.every_spelling(passed_to_client(answer.headers, url))
        told = next((value for name, value in answer.headers.items() if name.lower() == b"content-length"), b"")
        self.length = int(told) if told.isdigit() else None


class _DecodedStream:
    """A stream in a content coding, read as what it is without that."""

    length: int | None = None

    def __init__(self, stream: _Stream, coding: bytes) -> None:
        self.status, self.id, self.redactor = stream.status, stream.id, stream.redactor
        self.header_lines = _without_coding(stream.header_lines)[0]
        self._stream = stream
        self._peeked = b""
        try:
            self._decoder = content_coding.StreamDecoder(content_coding.codings_of(coding))
        except content_coding.UnknownCoding as error:
            stream.close()
            raise UpstreamError("The model provider gave a broken answer.") from error

    async def read(self) -> bytes | None:
        data, self._peeked = self._peeked, b""
        while not data:
            coded = await self._stream.read()
            try:
                if coded is None:
                    self._decoder.finish()
                    return None
                data = await asyncio.to_thread(self._decoder.feed, coded, MOST_ANSWER_BYTES)
            except _UNREADABLE as error:
                raise UpstreamError("The model provider's answer broke.") from error
        return data

    async def flow(self, take: Take, _: TakeChunk | None = None) -> bytes | None:
        while (data := await self.read()) is not None:
            if (rest := take(data)) is not None:
                return rest
        return None

    async def peek(self) -> bytes:
        self._peeked = await self.read() or b""
        return self._peeked

    async def whole(self) -> ProviderAnswer:
        try:
            return await self._whole()
        finally:
            self.close()

    def close(self) -> None:
        self._stream.close()

    async def _whole(self) -> ProviderAnswer:
        pieces, size = [], 0
        while (data := await self.read()) is not None:
            pieces.append(data)
            size += len(data)
            if self._stream.room is not None and size > MOST_UNREAD_BYTES:
                await self._stream.room(len(data))
            if size > MOST_ANSWER_BYTES:
                raise UpstreamError("The model provider gave a broken answer.")
        return ProviderAnswer(self.status, self.header_lines, self.id, self.redactor.plain(b"".join(pieces)))


async def _judge(answer: Http1Answer) -> None:
    """Say 401 of a key that is refused, as others do. The body stays to be read. Raises HttpError."""
    body = await answer.read_all(MOST_ANSWER_BYTES)
    answer.came(body)
    if refuses_key(body):
        answer.status = 401


def _head(answer: Http1Answer, redactor: Redactor) -> tuple[bytes, bytes | None]:
    """What passes of an answer's head, and the provider's id of it."""
    header_lines, upstream_id = to_client(answer.headers)
    return redactor.plain(header_lines), None if upstream_id is None else redactor.plain(upstream_id)


async def _pass_blanks(answer: Http1Answer, on_blank: OnBlank, redactor: Redactor) -> None:
    """Pass on at once what some providers send to keep the connection alive until their answer is ready."""
    try:
        header_lines, upstream_id = _head(answer, redactor)
        while blank := await answer.read_blank():
            await on_blank(ProviderAnswer(answer.status, header_lines, upstream_id, blank))
    except HttpError as error:
        raise _ours(error) from error
    except BaseException:
        answer.close()
        raise


async def _whole(answer: Http1Answer, redactor: Redactor, room: Room | None = None) -> ProviderAnswer:
    try:
        body = await answer.read_all(MOST_ANSWER_BYTES, room)
    except HttpError as error:
        raise _ours(error) from error
    finally:
        answer.close()
    header_lines, upstream_id = _head(answer, redactor)
    blotted = redactor.plain if answer.status == 200 else redactor.every_spelling
    header_lines, coding = _without_coding(blotted(header_lines))
    if coding is None and (answer.status == 200 or not is_large(len(body))):
        return ProviderAnswer(answer.status, header_lines, upstream_id, blotted(body))
    body = await asyncio.to_thread(_readable, body, coding, blotted)
    return ProviderAnswer(answer.status, header_lines, upstream_id, body)


def _without_coding(header_lines: bytes) -> tuple[bytes, bytes | None]:
    """The headers without Content-Encoding, and what that says.

    We ask for none, yet some send one (agent-vision-toolkit#36). What we read, the client gets as we read it.
    """
    if b"content-encoding: " not in header_lines:
        return header_lines, None
    headers = pairs_of(header_lines)
    coding = dict(headers)[b"content-encoding"]
    if coding.lower() in (b"identity", b""):
        return header_lines, None
    return lines_of(header for header in headers if header[0] != b"content-encoding"), coding


def _readable(body: bytes, coding: bytes | None, blotted: Callable[[bytes], bytes]) -> bytes:
    """A body without content coding and key. Raises UpstreamError: what is not read does not pass."""
    try:
        body = content_coding.decode(body, content_coding.codings_of(coding), MOST_ANSWER_BYTES)
    except _UNREADABLE as error:
        raise UpstreamError("The model provider gave a broken answer.") from error
    return blotted(body)


def _ours(error: HttpError) -> AppError:
    log.warning("provider fails", reason=type(error).__name__, detail=str(error))
    if isinstance(error, IdleTimeout):
        return UpstreamTimeout("The model provider did not answer in time.")
    if isinstance(error, OpenFilesExceeded):
        return ServiceUnavailable("Too many requests are in progress.", retry_after_seconds=1)
    if isinstance(error, ConnectFailed):
        return UpstreamNotReached("The model provider is not available.")
    return UpstreamError("The model provider is not available or its answer broke.")
