"""The port to a model provider: as narrow as the need."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from sentinel.proxy.redaction import Redactor

Room = Callable[[int], Awaitable[None]]


class ProviderRequest(msgspec.Struct, frozen=True):
    """A request as it is sent on. path starts after `/v1`, such as `/chat/completions`.

    lines: headers as they go over the wire. on_sent: called when the provider may know of it from now on, and bill it.
    on_blank: takes the white space that comes before the rest of an answer that is read whole, with its head.
    room: waits until so many bytes more of an answer may be held; nobody is asked for small ones.
    """

    path: bytes
    lines: bytes
    body: bytes
    on_sent: Callable[[], None]
    on_blank: Callable[[ProviderAnswer], Awaitable[None]] | None = None
    room: Room | None = None


class ProviderAnswer(msgspec.Struct, frozen=True):
    """A whole answer. lines: the headers that proxy/headers.py lets pass, as they go over the wire; id: its own.

    Its body is in no content coding, and neither is what a ProviderStream gives: lines of ours may stand between.
    """

    status: int
    lines: bytes
    id: bytes | None
    body: bytes


class ProviderStream(Protocol):
    """An answer that comes in pieces. Its status and headers are there; leaving its context closes the connection."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def lines(self) -> bytes:
        """As in ProviderAnswer."""

    @property
    def id(self) -> bytes | None:
        """As in ProviderAnswer."""

    @property
    def redactor(self) -> Redactor:
        """Takes the provider's key out of events; what else comes of the provider is without it."""

    async def read(self) -> bytes | None:
        """The next bytes as they came, None at the end. Raises UpstreamError, UpstreamTimeout."""

    async def flow(self, take: Callable[[bytes], bytes | None]) -> bytes | None:
        """Give the next bytes to `take` where they come, until it leaves some: these are returned; None at the end.

        Raises as `read` does.
        """

    async def peek(self) -> bytes:
        """How it begins; that stays to be read. Raises as `read` does."""

    async def whole(self) -> ProviderAnswer:
        """It and all that is left, up to a bound. Raises UpstreamError, UpstreamTimeout."""


class AiProvider(Protocol):
    """A provider of models. Every failure is an UpstreamError or UpstreamTimeout."""

    async def post(self, request: ProviderRequest) -> ProviderAnswer:
        """Send a request and read the whole answer."""

    def stream(self, request: ProviderRequest) -> AbstractAsyncContextManager[ProviderStream]:
        """Send a request whose answer is read piece by piece."""

    async def get(self, path: str, request_id: str) -> ProviderAnswer:
        """Fetch something that does not depend on the caller, such as `/models`."""

    async def close(self) -> None:
        """Close all connections."""
