"""The requests of a batch, in lines of a file that lies at the provider: what they name must be the caller's as well.

The file is read once more before the batch is created, for it may have been put together from parts, or by other means.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from sentinel.endpoints.objects import in_lines
from sentinel.endpoints.references import Reference
from sentinel.error import InvalidType
from sentinel.proxy.forwarding import room_of
from sentinel.proxy.headers import UPSTREAM_ID
from sentinel.proxy.provider import AiProvider, PassedStream, ProviderRequest

if TYPE_CHECKING:
    from sentinel.proxy.state import ExchangeState

Check = Callable[[Sequence[Reference]], Awaitable[object]]

MOST_LINE_BYTES = 8 * 1024 * 1024
"""Of one request in a batch."""


async def check_lines(exchange: ExchangeState, provider: AiProvider, file: str, check: Check) -> None:
    """Look at all lines of a file. Raises NotFound, InvalidType for what cannot be looked at, UpstreamError."""
    header_lines = b"%b: %b\r\n" % (UPSTREAM_ID, exchange.context.id.encode())
    request = ProviderRequest(b"/files/%b/content" % quote(file, safe="").encode(), header_lines, b"", b"GET")
    stream = exchange.stream = await provider.pass_on(request, room_of(exchange))
    try:
        if stream.status != 200:
            raise InvalidType("The file cannot be looked into.", param="input_file_id")
        await _check_all(exchange, stream, check)
    finally:
        stream.close()


async def _check_all(exchange: ExchangeState, stream: PassedStream, check: Check) -> None:
    rest = b""
    while (data := await stream.read()) is not None:
        begun = rest + data
        end = begun.rfind(b"\n") + 1
        rest = begun[end:]
        if len(rest) > MOST_LINE_BYTES:
            raise InvalidType("The file has a line that is too long.", param="input_file_id")
        if end:
            await check(await exchange.deps.beside(in_lines, begun[:end]))
    await check(await exchange.deps.beside(in_lines, rest))
