"""Many requests at once over plain sockets: cheaper than an SDK, so that the crowd really is one."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.support import patient as patience
from tests.support.client import Answer, request_beside
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import CHAT, MESSAGES, SOCKET
from tests.support.talks import LAST, talk

JSON = "application/json"


async def post(
    sentinel: SentinelProcess,
    token: str,
    body: dict[str, Any] | bytes,
    path: str = CHAT,
    address: str = "127.0.0.1",
    kind: str = JSON,
) -> Answer:
    """One request over a connection of its own, read to the end. kind: the content type of a body in bytes."""
    if path == SOCKET:
        assert isinstance(body, dict)
        return await _said_to(sentinel, token, body)
    headers = {"authorization": f"Bearer {token}", "content-type": kind}
    if path == MESSAGES:
        headers["anthropic-version"] = "2023-06-01"
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await request_beside(sentinel.port, path, data, headers, address)


async def _said_to(sentinel: SentinelProcess, token: str, body: dict[str, Any]) -> Answer:
    """A response over a WebSocket of its own, as if it were a stream; an error as if it were an answer."""
    async with talk(sentinel, token) as one:
        assert one.socket.response is not None
        await one.say(type="response.create", **body)
        messages = await one.hear_until(*LAST)
        headers = {"x-request-id": one.socket.response.headers["x-request-id"], **messages[-1].get("headers", {})}
    if messages[-1]["type"] == "error":
        said = json.dumps({"error": messages[-1]["error"]}).encode()
        return Answer(messages[-1]["status"], {**headers, "content-type": JSON}, said)
    events = "".join(f"data: {json.dumps(message)}\n\n" for message in messages)
    return Answer(200, {**headers, "content-type": "text/event-stream"}, events.encode())


async def crowd(
    sentinels: Sequence[SentinelProcess],
    token: str,
    bodies: Iterable[dict[str, Any] | bytes],
    path: str = CHAT,
    kind: str = JSON,
) -> list[Answer]:
    """All requests at once, in turn to each of the processes."""
    asked = (post(sentinels[n % len(sentinels)], token, body, path, kind=kind) for n, body in enumerate(bodies))
    return await asyncio.gather(*asked)


def start_all(stack: Stack, count: int, *, patient: bool = False, **settings: str) -> list[SentinelProcess]:
    """So many Sentinels with the same settings, started side by side. patient: they wait longer for Redis."""
    sentinels = [stack.sentinel(settings, start=False) for _ in range(count)]
    if patient:
        for sentinel in sentinels:
            sentinel.command = [sys.executable, patience.__file__]
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(SentinelProcess.start, sentinels))
