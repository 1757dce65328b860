"""The requests of a batch, in lines of a file that lies at the provider: what they name must be the caller's as well.

So must their models be of the caller's plan. The file is read once more before the batch is created, for it may have
been put together from parts, or by other means.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from sentinel.endpoints.named_models import models_in_lines
from sentinel.endpoints.objects import in_lines
from sentinel.endpoints.references import Reference
from sentinel.error import InvalidType
from sentinel.middleware import model_check
from sentinel.proxy.forwarding import room_of
from sentinel.proxy.headers import UPSTREAM_ID
from sentinel.proxy.provider import AiProvider, PassedStream, ProviderRequest

if TYPE_CHECKING:
    from sentinel.proxy.state import ExchangeState

Check = Callable[[Sequence[Reference]], Awaitable[object]]

MOST_LINE_BYTES = 8 * 1024 * 1024
"""Of one request in a batch."""


async def check_lines(exchange: ExchangeState, provider: AiProvider, file: str, check: Check) -> None:
    """Look at all lines of a file.

    Raises NotFound, ModelNotAllowed, InvalidType or InvalidJson for what cannot be looked at, UpstreamError.
    """
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
            await _check_some(exchange, begun[:end], check)
    await _check_some(exchange, rest, check)


async def _check_some(exchange: ExchangeState, lines: bytes, check: Check) -> None:
    user, beside = exchange.context.user, exchange.deps.beside
    assert user is not None
    await check(await beside(in_lines, lines))
    if user.allowed_models is not None:
        model_check.check(user, await beside(models_in_lines, lines))
