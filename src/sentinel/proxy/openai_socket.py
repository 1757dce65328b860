"""OpenAI over WebSockets: opens them with our key, through the same forward proxies and with the same TLS as HTTP.

What passes on of a refused handshake passes without our key (proxy/redaction.py); messages are the affair of who reads
them.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit

import structlog
from websockets.http11 import Response

from sentinel.egress import DIRECT, Egress
from sentinel.error import AppError, ServiceUnavailable, UpstreamError, UpstreamNotReached, UpstreamTimeout
from sentinel.memory_budget import MemoryBudget
from sentinel.proxy.headers import pairs_of, to_client
from sentinel.proxy.provider import ProviderAnswer, Socket, SocketRefused, SocketRequest
from sentinel.proxy.redaction import Redactor
from sentinel.proxy.transport.dialer import Dialer
from sentinel.proxy.transport.websocket import ClientWebSocket, HandshakeRefused, OpeningRequest

log = structlog.get_logger()

MOST_MESSAGE_BYTES = 64 * 1024 * 1024
"""Of a provider, as of its whole answers."""
_HANDSHAKES = 2.0
"""Times as long as a connection may take the answer to a handshake, which the provider has to think about."""


class OpenAISockets:
    """Opens WebSockets to `{url}{path}`. answers: what is in memory of messages counts there."""

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        connect_timeout_seconds: float,
        ping_seconds: float,
        answers: MemoryBudget,
        egress: Egress = DIRECT,
        has_room: Callable[[], bool] = lambda: True,
        most_message_bytes: int = MOST_MESSAGE_BYTES,
    ) -> None:
        self.redactor = Redactor(api_key)
        self._url = url
        self._path = urlsplit(url).path
        self._authorization = f"Bearer {api_key}".encode()
        self._dialer = Dialer(url, egress)
        self._connect_seconds = connect_timeout_seconds
        self._ping_seconds = ping_seconds
        self._answers = answers
        self._has_room = has_room
        self._most_message_bytes = most_message_bytes
        self._open: set[_CountedSocket] = set()
        self._opening = 0

    @property
    def connections(self) -> int:
        """How many there are, and are being made."""
        return len(self._open) + self._opening

    def made(self, socket: _CountedSocket) -> None:
        """One stands."""
        self._open.add(socket)

    def lost(self, socket: _CountedSocket) -> None:
        """One is closed."""
        self._open.discard(socket)

    async def open(self, request: SocketRequest) -> Socket:
        """An open WebSocket. Raises SocketRefused, UpstreamError, UpstreamTimeout, ServiceUnavailable."""
        if not self._has_room():
            raise ServiceUnavailable("Too many requests are in progress.", retry_after_seconds=1)
        target = f"{self._dialer.before_path.decode()}{self._path}{request.path.decode()}"
        key = self._authorization if request.key is None else b"Bearer " + request.key
        headers = [*request.headers, (b"authorization", key), *pairs_of(self._dialer.header_lines)]
        asked = OpeningRequest(self._url, target, headers)
        socket: _CountedSocket = await _in_time(self._dial(asked), self._connect_seconds, "connect")
        try:
            await _in_time(_opened(socket), _HANDSHAKES * self._connect_seconds, "handshake")
        except HandshakeRefused as error:
            raise self._refusal(error.response) from error
        except BaseException:
            socket.abort()
            raise
        return socket

    async def _dial(self, asked: OpeningRequest) -> _CountedSocket:
        def make() -> _CountedSocket:
            return _CountedSocket(self, asked, self._most_message_bytes, self._ping_seconds, self._answers)

        self._opening += 1
        try:
            return await self._dialer.connect(make)
        finally:
            self._opening -= 1

    def _refusal(self, response: Response | None) -> SocketRefused | UpstreamError:
        if response is None:
            return UpstreamError("The model provider gave a broken answer.")
        log.warning("provider refuses a websocket", status=response.status_code)
        headers = {name.lower().encode(): value.encode("latin-1") for name, value in response.headers.raw_items()}
        header_lines, upstream_id = to_client(headers)
        blotted = self.redactor.every_spelling
        body = blotted(bytes(response.body or b""))
        return SocketRefused(ProviderAnswer(response.status_code, blotted(header_lines), upstream_id, body))


class _CountedSocket(ClientWebSocket):
    """One of the connections of this process."""

    def __init__(
        self, sockets: OpenAISockets, asked: OpeningRequest, most_bytes: int, ping_seconds: float, answers: MemoryBudget
    ) -> None:
        self._memory = answers.claim()
        super().__init__(asked, most_bytes, ping_seconds=ping_seconds, claim=self._memory)
        self._sockets = sockets

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._sockets.made(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        super().connection_lost(exc)
        self._memory.release()
        self._sockets.lost(self)


async def _opened(socket: ClientWebSocket) -> None:
    await asyncio.shield(socket.opened)


async def _in_time(work: Coroutine[Any, Any, Any], seconds: float, step: str) -> Any:
    """The result of a step of opening a WebSocket. Raises UpstreamNotReached, UpstreamTimeout, ServiceUnavailable."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError as error:
        raise _failed(step, error, UpstreamTimeout("The model provider did not answer in time.")) from error
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            no_room = ServiceUnavailable("Too many requests are in progress.", retry_after_seconds=1)
            raise _failed(step, error, no_room) from error
        raise _failed(step, error, UpstreamNotReached("The model provider is not available.")) from error


def _failed(step: str, error: Exception, ours: AppError) -> AppError:
    log.warning("provider fails", reason=type(error).__name__, detail=f"websocket: {step}")
    return ours
