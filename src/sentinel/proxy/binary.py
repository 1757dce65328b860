"""The phase `relay` for an answer of bytes that are no events: passed on as they come, and charged by their number.

The end of its body is its last byte: it leaves once usage is durable. One that breaks is left unfinished, which ends
the connection: nobody shall take it for a whole one.
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial

from sentinel.clock import monotonic
from sentinel.proxy import billing
from sentinel.proxy.provider import ProviderStream
from sentinel.proxy.redaction import Redactor
from sentinel.proxy.state import ExchangeState
from sentinel.proxy.whole import Complete
from sentinel.tokens.usage import Usage


class _Blotter:
    """Bytes without the provider's key, which may come in two pieces."""

    def __init__(self, redactor: Redactor) -> None:
        self._redact, self._most_begun = redactor.plain, redactor.most_begun
        self.rest = b""

    def passing(self, data: bytes) -> bytes:
        data = self._redact(self.rest + data)
        end = max(0, len(data) - self._most_begun)
        self.rest = data[end:]
        return data[:end]


async def relay_binary(exchange: ExchangeState, stream: ProviderStream) -> Complete:
    """Relay bytes up to their end. Raises UpstreamError, UpstreamTimeout, PlaceTaken."""
    deps, client, context, lease = exchange.deps, exchange.client, exchange.context, exchange.lease
    if exchange.watched is not None:
        # A comment would be part of the answer.
        deps.keepalive.release(exchange.watched)
        exchange.watched = None
    blotter, size = _Blotter(stream.redactor), 0

    def delivered() -> int:
        return exchange.endpoint.passed_tokens(exchange.request, size) if size else -1

    lease.delivered = delivered
    context.status = 200
    try:
        await _keep_place(exchange)
        await client.start(200, stream.header_lines + context.trace_lines(monotonic()))
        while (data := await stream.read()) is not None:
            await _keep_place(exchange)
            if passing := blotter.passing(data):
                await client.write(passing)
            size += len(data)
    except BaseException:
        stream.close()
        raise
    finally:
        if size:
            exchange.spent = billing.spent(Usage(), context.counted_input, delivered())
    context.outcome = "ok" if size else "upstream_error"
    return partial(_complete, exchange, blotter.rest)


async def _keep_place(exchange: ExchangeState) -> None:
    """We were held up for longer than a lease. Raises PlaceTaken where others have what nothing was delivered of."""
    lease = exchange.lease
    if monotonic() > lease.ends and lease.noted < 0:
        await exchange.deps.leases.take_up(lease)


def _complete(exchange: ExchangeState, rest: bytes) -> Awaitable[None]:
    exchange.client.unwatch()
    return exchange.client.end(rest)
