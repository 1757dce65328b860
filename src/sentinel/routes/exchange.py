"""POST /v1/chat/completions and /v1/completions: bare ASGI."""

from __future__ import annotations

from sentinel.clock import monotonic
from sentinel.error import Header
from sentinel.proxy.client import ClientSide, Receive, Scope, Send
from sentinel.proxy.exchange import Exchange, Kind, Parts
from sentinel.proxy.logging import RequestContext


async def exchange(
    parts: Parts, kind: Kind, request_id: str, common: list[Header], scope: Scope, receive: Receive, send: Send
) -> None:
    """Serve one request of the provider's API. common: the headers of every answer."""
    client = ClientSide(scope, receive, send, common)
    await Exchange(parts, kind, client, RequestContext(request_id, kind.route, monotonic())).run()
