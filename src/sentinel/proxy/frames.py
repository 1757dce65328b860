"""The two sides of one exchange that goes over WebSockets.

Its client sends a message and gets messages, and so does its provider. To the exchange (exchange.py) they are a client
and a provider as any other, and an answer is a stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from sentinel.endpoints.response_create import event_of, is_last, messages_of, refusal, status_of
from sentinel.error import UpstreamError, UpstreamTimeout
from sentinel.memory_budget import Claim
from sentinel.proxy.chunk import TakeChunk
from sentinel.proxy.client import ClientSide
from sentinel.proxy.headers import pairs_of
from sentinel.proxy.provider import (
    Message,
    OnBlank,
    PassedStream,
    ProviderAnswer,
    ProviderRequest,
    Room,
    Socket,
    SocketRefused,
)
from sentinel.proxy.redaction import Redactor
from sentinel.proxy.sse import EventBuffer, split_events
from sentinel.tasks import Tasks, pause

LARGE_EVENT_BYTES = 32 * 1024
"""What is longer is looked at beside the event loop."""
MOST_AT_ONCE = 8
"""Messages in one step; thousands may have come at once."""
_BLANK_LINE = b"\n\n"
_ENDLESS = 2**62
"""An event is a message, so it is held until it is whole, whatever its size: the provider's message was, too."""


async def _unused() -> dict[str, object]:
    raise AssertionError("a message has come whole")


async def _unsent(_: object) -> None:
    raise AssertionError("an answer goes over the socket")


class FrameClient(ClientSide):
    """The client of one message. body: the message; claim: counts it as long as it is held.

    headers: those of the handshake. task: that runs the exchange.
    """

    __slots__ = ("_body", "_buffer", "_held", "_held_bytes", "_is_content", "_socket", "task")

    def __init__(self, socket: Socket, headers: Mapping[bytes, bytes], body: bytes, claim: Claim) -> None:
        super().__init__(None, _unused, _unsent, headers, b"")
        self.task: asyncio.Task[None] | None = None
        self._socket = socket
        self._body = body
        self._held, self._held_bytes = claim, len(body)
        claim.took(len(body))
        self._buffer = EventBuffer(_ENDLESS)
        self._is_content = False

    def leave(self) -> None:
        """The client has left: its exchange ends, unless all is done for it."""
        if self._is_content:
            return
        self.gone = True
        if self.task is not None:
            self.task.cancel()

    def holds(self, count: int) -> None:
        """So many bytes are held of the message from now on."""
        self._held.took(count - self._held_bytes)
        self._held_bytes = count

    def take_small_body(self, most_bytes: int) -> bytes | None:  # noqa: ARG002 (no longer message is taken in)
        """The message, whatever its size."""
        body, self._body = self._body, b""
        return body

    def watch(self, tasks: Tasks) -> None:
        """Whoever reads the socket tells when the client leaves (`leave`)."""

    def unwatch(self) -> None:
        """If it leaves from here on, it leaves content."""
        self._is_content = True

    def answer_at_once(self, status: int, header_lines: bytes, body: bytes) -> bool:  # noqa: ARG002
        """False: it is sent by `answer`."""
        return False

    async def answer(self, status: int, header_lines: bytes, body: bytes) -> None:
        """Send a refusal; there is no other whole answer."""
        self.started = self.ended = True
        await self._send_all([refusal(status, pairs_of(self.header_lines + header_lines), body)])

    async def answer_early(self, status: int, header_lines: bytes, body: bytes) -> None:
        """The same."""
        await self.answer(status, header_lines, body)

    async def start(self, status: int, header_lines: bytes, length: int | None = None) -> None:  # noqa: ARG002
        """A stream of messages has no head."""
        self.started = True

    @property
    def is_full(self) -> bool:
        """Whether a write would wait."""
        return self._socket.is_full

    @property
    def is_in_doubt(self) -> bool:
        """Never: a socket is closed in good order, or pinged."""
        return False

    def pass_on(self, piece: bytes) -> None:
        """Send a piece of the stream at once."""
        self.last_piece = piece
        for message in self._messages_in(piece):
            self._socket.send(message)

    def chunk_writer(self, stop: Callable[[], None]) -> None:
        """None: events are framed anew."""

    def comment(self, line: bytes, head: Callable[[], bytes], tasks: Tasks) -> None:  # noqa: ARG002
        """A sign of life between messages."""
        self._socket.ping()

    async def write(self, piece: bytes) -> None:
        """Send a piece of the stream; waits while the client does not read."""
        self.last_piece = piece
        if len(piece) + self._buffer.held_bytes > LARGE_EVENT_BYTES and piece.endswith(_BLANK_LINE):
            messages = await asyncio.to_thread(self._messages_in, piece)
        else:
            messages = self._messages_in(piece)
        await self._send_all(messages)

    def _messages_in(self, piece: bytes) -> list[bytes]:
        return messages_of(split_events(self._buffer.feed(piece)))

    async def end(self, piece: bytes = b"") -> None:
        """Send the last piece."""
        await self.write(piece)
        self.ended = True

    async def _send_all(self, messages: list[bytes]) -> None:
        for message in messages:
            await self._socket.deliver(Message(message))


class FrameProvider:
    """The provider of all messages of one client's socket. open: another socket to it.

    A socket that was given up in the middle of an answer is closed, which ends what goes on at the provider, and the
    next message goes over a new one: only what the provider has kept of earlier answers can be gone on from there.
    idle_seconds: between two messages of an answer. key: the name of ours.
    """

    def __init__(
        self,
        socket: Socket | None,
        open_: Callable[[], Awaitable[Socket]],
        redactor: Redactor,
        idle_seconds: float,
        key: str = "",
    ) -> None:
        self.socket = socket
        self.is_busy = False
        self._at_once = 0
        self._open = open_
        self._redactor = redactor
        self._idle_seconds = idle_seconds
        self._key = key

    async def post(self, request: ProviderRequest, on_blank: OnBlank, room: Room) -> ProviderAnswer:
        """Never asked: every answer is a stream."""
        raise NotImplementedError

    async def pass_on(self, request: ProviderRequest, room: Room) -> PassedStream:
        """Never asked."""
        raise NotImplementedError

    async def get(self, path: str, request_id: str) -> ProviderAnswer:
        """Never asked."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close the socket."""
        if self.socket is not None:
            self.socket.close()

    async def stream(self, request: ProviderRequest, room: Room) -> FrameStream:  # noqa: ARG002 (the socket counts)
        """Send a message; returns when the first of its answer is there. Raises UpstreamError, UpstreamTimeout."""
        if self.socket is None:
            try:
                self.socket = await self._open()
            except SocketRefused as refused:
                return FrameStream(self, refused.answer)
        assert isinstance(request.body, bytes)
        request.sent, request.key = True, self._key
        self.is_busy = True
        await self.socket.deliver(Message(request.body))
        stream = FrameStream(self, None)
        try:
            await stream.begin()
        except BaseException:
            stream.close()
            raise
        return stream

    async def next(self) -> bytes:
        """The next message of the answer. Raises UpstreamError, UpstreamTimeout."""
        socket = self.socket
        assert socket is not None
        if (message := socket.take()) is not None:
            self._at_once += 1
            if self._at_once % MOST_AT_ONCE == 0:
                await pause(0)
            return message.data
        news = asyncio.Event()
        before, socket.on_news = socket.on_news, news.set
        try:
            while (message := socket.take()) is None:
                if socket.ended:
                    raise UpstreamError("The model provider's answer broke off.")
                news.clear()
                async with asyncio.timeout(self._idle_seconds):
                    await news.wait()
        except TimeoutError as error:
            raise UpstreamTimeout("The model provider did not answer in time.") from error
        finally:
            socket.on_news = before
        return message.data

    def given_up(self) -> None:
        """What comes of the answer is for nobody."""
        self.is_busy = False
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def done(self) -> None:
        """The answer has come whole."""
        self.is_busy = False

    @property
    def redactor(self) -> Redactor:
        """Takes the provider's key out of messages."""
        return self._redactor


class _Read(NamedTuple):
    """What is known of a message. status: of an error that it is, None for any other."""

    event: bytes
    is_last: bool
    status: int | None


def _read(message: bytes) -> _Read:
    return _Read(event_of(message), is_last(message), status_of(message))


class FrameStream:
    """One answer, as a stream. refused: there is no socket to get one from."""

    def __init__(self, provider: FrameProvider, refused: ProviderAnswer | None) -> None:
        self.header_lines, self.id = b"", None
        self.redactor = provider.redactor
        self.status = 200 if refused is None else refused.status
        self._provider = provider
        self._refused = refused
        self._first: bytes | None = None
        self._ended = refused is not None

    async def begin(self) -> None:
        """Wait for the first message: an error is a refusal. Raises UpstreamError, UpstreamTimeout."""
        first = await self._next()
        self._first = first.event
        if first.status is not None:
            self.status = first.status
            (message,) = messages_of([first.event])
            self._refused = ProviderAnswer(first.status, b"", None, self.redactor.every_spelling(message))

    async def _next(self) -> _Read:
        message = await self._provider.next()
        read = _read(message) if len(message) <= LARGE_EVENT_BYTES else await asyncio.to_thread(_read, message)
        if read.is_last:
            self._ended = True
            self._provider.done()
        return read

    async def read(self) -> bytes | None:
        """The next event; None after the last. Raises UpstreamError, UpstreamTimeout."""
        first, self._first = self._first, None
        if first is not None:
            return first
        return None if self._ended else (await self._next()).event

    async def flow(self, take: Callable[[bytes], bytes | None], _: TakeChunk | None = None) -> bytes | None:
        """As ProviderStream has it."""
        while (data := await self.read()) is not None:
            if (rest := take(data)) is not None:
                return rest
        return None

    async def peek(self) -> bytes:
        """How it begins."""
        return self._first or b""

    async def whole(self) -> ProviderAnswer:
        """The refusal that it is."""
        if self._refused is None:
            raise UpstreamError("The model provider gave a broken answer.")
        return self._refused

    def close(self) -> None:
        """Give up what has not come."""
        if not self._ended:
            self._ended = True
            self._provider.given_up()
