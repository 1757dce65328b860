"""The port to a model provider: as narrow as the need."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple, Protocol

import msgspec

from sentinel.proxy.chunk import TakeChunk
from sentinel.proxy.redaction import Redactor

Room = Callable[[int], Awaitable[None]]
"""Waits until so many bytes more of an answer may be held; nobody is asked for small ones."""


class StreamedBody(Protocol):
    """A body that comes piece by piece, once. length: its bytes in all, None where they are not known before.

    is_whole: all of it has come, and was taken.
    """

    length: int | None
    is_whole: bool

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Its pieces. What is raised while they are waited for ends the request."""


class ProviderRequest(msgspec.Struct):
    """A request as it is sent on. path starts after `/v1`, such as `/chat/completions`, or names it.

    A path that begins with a version is Gemini's own (doors.py).

    header_lines: headers as they go over the wire. body: one that is streamed is sent once, over a fresh connection.
    sent: the provider may know of it from now on, and bill it. model: as the provider names it. key: which of several
    keys it was sent with, by its name (key_pool.py).
    """

    path: bytes
    header_lines: bytes
    body: bytes | StreamedBody
    method: bytes = b"POST"
    sent: bool = False
    model: str = ""
    key: str = ""


class ProviderAnswer(msgspec.Struct, frozen=True):
    """A whole answer. header_lines: the headers that proxy/headers.py lets pass, as they go over the wire; id: its own.

    Its body is in no content coding, and neither is what a ProviderStream gives: header lines of ours may be added.
    """

    status: int
    header_lines: bytes
    id: bytes | None
    body: bytes


OnBlank = Callable[[ProviderAnswer], Awaitable[None]]


class ProviderStream(Protocol):
    """An answer that comes in pieces. Its status and headers are there; it must be read to its end, or closed."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def header_lines(self) -> bytes:
        """As in ProviderAnswer."""

    @property
    def id(self) -> bytes | None:
        """As in ProviderAnswer."""

    @property
    def redactor(self) -> Redactor:
        """Takes the provider's key out of events; what else comes of the provider is without it."""

    async def read(self) -> bytes | None:
        """The next bytes as they came, None at the end. Raises UpstreamError, UpstreamTimeout."""

    async def flow(self, take: Callable[[bytes], bytes | None], take_chunk: TakeChunk | None = None) -> bytes | None:
        """Give the next bytes to `take` where they come, until it leaves some: these are returned; None at the end.

        take_chunk: is offered chunks as they come over HTTP first, where they do. Raises as `read` does.
        """

    async def peek(self) -> bytes:
        """How it begins; that stays to be read. Raises as `read` does."""

    async def whole(self) -> ProviderAnswer:
        """It and all that is left, up to a bound; then it is closed. Raises UpstreamError, UpstreamTimeout."""

    def close(self) -> None:
        """Give up what has not been read. Does nothing after the end."""


class PassedStream(ProviderStream, Protocol):
    """An answer of any kind and status, with the headers that tell of its body. length: of that, None = to be seen."""

    @property
    def length(self) -> int | None:
        """In bytes, as the provider has told it."""


class AiProvider(Protocol):
    """A provider of models. Every failure is an UpstreamError or UpstreamTimeout."""

    async def post(self, request: ProviderRequest, on_blank: OnBlank, room: Room) -> ProviderAnswer:
        """Send a request and read the whole answer.

        on_blank: takes the white space that comes before the rest of it, with its head.
        """

    async def stream(self, request: ProviderRequest, room: Room) -> ProviderStream:
        """Send a request whose answer is read piece by piece. room: for what may have to be read whole of it."""

    async def pass_on(self, request: ProviderRequest, room: Room) -> PassedStream:
        """Send a request of any kind, whose answer is read piece by piece. Redirections are not followed."""

    async def get(self, path: str, request_id: str) -> ProviderAnswer:
        """Fetch something that does not depend on the caller, such as `/models`."""

    async def close(self) -> None:
        """Close all connections."""


class ProviderPool(AiProvider, Protocol):
    """One with several keys, used in turns."""

    def of(self, key: str) -> AiProvider:
        """The same for what names an object that was made with the key of this name; empty where nobody knows it."""

    def has_another(self) -> bool:
        """Whether a key is at hand that does not rest, beside the one that was used last."""


class Message(NamedTuple):
    """A message of a WebSocket. is_text: or else binary."""

    data: bytes
    is_text: bool = True


class Socket(Protocol):
    """A WebSocket: to a provider, or to a client. Whoever reads it sets `on_news`.

    on_news: called whenever a message may be taken, there is room to write, or it has ended. ended: no message comes
    any more, and none can be sent. came: when something came last, by the loop's clock.
    """

    on_news: Callable[[], None]
    ended: bool
    came: float

    def take(self) -> Message | None:
        """The next message; None while there is none."""

    @property
    def is_full(self) -> bool:
        """Whether the other side should read before it gets more."""

    def send(self, data: bytes, *, is_text: bool = True) -> None:
        """Send a short message, which waits in memory where `is_full`."""

    async def deliver(self, message: Message) -> None:
        """Send a message of any length, as the other side reads it."""

    def ping(self) -> None:
        """Show that we are there."""

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin to close."""

    def abort(self) -> None:
        """Close at once."""

    @property
    def close_code(self) -> int:
        """How the other side closed; 1006 where it did not say."""

    @property
    def close_reason(self) -> str:
        """Why the other side closed, in its words."""


class SocketRequest(msgspec.Struct):
    """What a WebSocket is asked for with. path: after `/v1`, with its query. key: the provider's own, instead of ours.

    headers: that accompany it, without any key.
    """

    path: bytes
    headers: list[tuple[bytes, bytes]]
    key: bytes | None = None


class SocketRefused(Exception):
    """A provider has answered the handshake of a WebSocket with something else than 101."""

    def __init__(self, answer: ProviderAnswer) -> None:
        super().__init__("the handshake was refused")
        self.answer = answer


class SocketProvider(Protocol):
    """A provider that speaks over WebSockets, too."""

    @property
    def redactor(self) -> Redactor:
        """Takes the provider's key out of what passes on."""

    @property
    def connections(self) -> int:
        """How many there are."""

    async def open(self, request: SocketRequest) -> Socket:
        """An open WebSocket. Raises SocketRefused, UpstreamError, UpstreamTimeout, ServiceUnavailable."""
