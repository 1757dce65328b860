"""OpenAI as the AiProvider, over pyreqwest; also anything else that speaks its API."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TypeVar

import structlog
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import ConnectError, ConnectTimeoutError, PyreqwestError, RequestTimeoutError
from pyreqwest.request import RequestBuilder
from pyreqwest.response import Response

from sentinel.error import AppError, UpstreamError, UpstreamTimeout
from sentinel.proxy.headers import TO_CLIENT
from sentinel.proxy.provider import ProviderAnswer, ProviderRequest
from sentinel.tasks import pause

log = structlog.get_logger()

T = TypeVar("T")

_PASSED = (*TO_CLIENT, "x-request-id")
CONNECT_RETRIES = 2
_RETRY_SECONDS = 0.05
MOST_ERROR_BYTES = 1024 * 1024
"""An error body that is larger than this is no error body of OpenAI's."""


class OpenAIProvider:
    """Sends requests to `{url}{path}` with our key. Connect errors, when nothing was sent yet, are tried again."""

    def __init__(self, url: str, api_key: str, *, connect_timeout_seconds: float, idle_timeout_seconds: float) -> None:
        self._url = url
        self._client: Client = (
            ClientBuilder()
            .default_headers({"authorization": f"Bearer {api_key}"})
            .connect_timeout(timedelta(seconds=connect_timeout_seconds))
            .read_timeout(timedelta(seconds=idle_timeout_seconds))
            .pool_idle_timeout(timedelta(seconds=60))
            .follow_redirects(False)
            .referer(False)
            .gzip(False)
            .brotli(False)
            .zstd(False)
            .deflate(False)
            .user_agent("sentinel")
            .build()
        )

    async def post(self, request: ProviderRequest) -> ProviderAnswer:
        """Send a request and read the whole answer. Raises UpstreamError, UpstreamTimeout."""

        async def send() -> ProviderAnswer:
            response = await self._post(request).build().send()
            return ProviderAnswer(response.status, _headers(response), bytes(await response.bytes()))

        return await _retrying(send)

    @asynccontextmanager
    async def stream(self, request: ProviderRequest) -> AsyncIterator[_Stream]:
        """Send a request whose answer is read piece by piece. Raises UpstreamError, UpstreamTimeout."""

        # Without this limit the first 64 KB of the answer would be held back.
        async def send() -> tuple[object, Response]:
            context = self._post(request).streamed_read_buffer_limit(1).build_streamed()
            return context, await context.__aenter__()

        context, response = await _retrying(send)
        try:
            yield _Stream(response)
        finally:
            await context.__aexit__(None, None, None)  # type: ignore[attr-defined]

    async def get(self, path: str, request_id: str) -> ProviderAnswer:
        """Fetch something that does not depend on the caller. Raises UpstreamError, UpstreamTimeout."""

        async def send() -> ProviderAnswer:
            builder = self._client.get(self._url + path).header("x-request-id", request_id)
            response = await builder.timeout(timedelta(seconds=10)).build().send()
            return ProviderAnswer(response.status, _headers(response), bytes(await response.bytes()))

        return await _retrying(send)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    def _post(self, request: ProviderRequest) -> RequestBuilder:
        return self._client.post(self._url + request.path).headers(request.headers).body_bytes(request.body)


class _Stream:
    def __init__(self, response: Response) -> None:
        self.status = response.status
        self.headers = _headers(response)
        self._reader = response.body_reader

    async def read(self) -> bytes | None:
        try:
            chunk = await self._reader.read_chunk()
        except PyreqwestError as error:
            raise _ours(error) from error
        return None if chunk is None else bytes(chunk)

    async def read_all(self) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while (piece := await self.read()) is not None and size <= MOST_ERROR_BYTES:
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)


def _headers(response: Response) -> dict[str, str]:
    return {name: value for name in _PASSED if (value := _header(response, name)) is not None}


def _header(response: Response, name: str) -> str | None:
    try:
        return response.get_header(name)
    except ValueError:
        # A value with other characters than ASCII cannot be had from pyreqwest; the answer is good all the same.
        return None


async def _retrying(send: Callable[[], Awaitable[T]]) -> T:
    for attempt in range(CONNECT_RETRIES + 1):
        try:
            return await send()
        except (ConnectError, ConnectTimeoutError) as error:
            if attempt == CONNECT_RETRIES:
                raise _ours(error) from error
            # Jitter: callers that failed together must not come back together.
            await pause(_RETRY_SECONDS * (attempt + 1) * (0.5 + random.random()))  # noqa: S311 (no secret)
        except PyreqwestError as error:
            raise _ours(error) from error
    raise AssertionError("unreachable")


def _ours(error: PyreqwestError) -> AppError:
    log.warning("provider fails", reason=type(error).__name__)
    if isinstance(error, RequestTimeoutError):
        return UpstreamTimeout("The model provider did not answer in time.")
    return UpstreamError("The model provider is not available or its answer broke.")
