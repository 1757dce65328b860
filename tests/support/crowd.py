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
from tests.support.surface import CHAT


async def post(
    sentinel: SentinelProcess, token: str, body: dict[str, Any], path: str = CHAT, address: str = "127.0.0.1"
) -> Answer:
    """One request over a connection of its own, read to the end."""
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    return await request_beside(sentinel.port, path, json.dumps(body).encode(), headers, address)


async def crowd(sentinels: Sequence[SentinelProcess], token: str, bodies: Iterable[dict[str, Any]]) -> list[Answer]:
    """All requests at once, in turn to each of the processes."""
    return await asyncio.gather(*(post(sentinels[n % len(sentinels)], token, body) for n, body in enumerate(bodies)))


def start_all(stack: Stack, count: int, *, patient: bool = False, **settings: str) -> list[SentinelProcess]:
    """So many Sentinels with the same settings, started side by side. patient: they wait longer for Redis."""
    sentinels = [stack.sentinel(settings, start=False) for _ in range(count)]
    if patient:
        for sentinel in sentinels:
            sentinel.command = [sys.executable, patience.__file__]
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(SentinelProcess.start, sentinels))
