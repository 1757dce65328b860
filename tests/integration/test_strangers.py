"""Tokens that nobody has seen: any number of them asks Zion little at a time, and keeps no honest newcomer out."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from sentinel.cache.bulkhead import MOST_AT_ONCE
from tests.support.client import Answer
from tests.support.crowd import post
from tests.support.metering import other_zion
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import chat
from tests.support.waiting import AT_ONCE_SECONDS

STRANGERS = 400
ZION_SECONDS = 0.5


class SlowZion:
    """The simulator, which takes its time for tokens. most: how many of them it was asked about at once."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._now = self.most = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if not scope.get("path", "").endswith("/users/me"):
            await self._app(scope, receive, send)
            return
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            await asyncio.sleep(ZION_SECONDS)
            await self._app(scope, receive, send)
        finally:
            self._now -= 1


@pytest.fixture(scope="module")
def zion(stack: Stack) -> SlowZion:
    return SlowZion(stack.simulators.zion.app)


@pytest.fixture(scope="module")
def sentinel(stack: Stack, zion: SlowZion) -> Iterator[SentinelProcess]:
    with other_zion(zion) as url:
        yield stack.sentinel(ZION_API_URL=url, JWT_CACHE_TTL_SECONDS="1")


async def ask(sentinel: SentinelProcess, token: str, address: str = "127.0.0.1") -> tuple[int, float, Answer]:
    """Status of a chat from this address, seconds that it took, and the whole answer."""
    started = time.monotonic()
    answer = await post(sentinel, token, chat("[[tokens=1]]"), address=address)
    return answer.status, time.monotonic() - started, answer


async def test_a_flood_of_strangers(stack: Stack, sentinel: SentinelProcess, zion: SlowZion) -> None:
    """Zion is asked a few at a time; who waits too long is told when to come back; newcomers elsewhere pass."""
    _, known = stack.user("known@corp.test")
    assert (await ask(sentinel, known))[0] == 200
    strangers = [asyncio.create_task(ask(sentinel, f"made-up-{n}")) for n in range(STRANGERS)]
    await asyncio.sleep(ZION_SECONDS / 2)
    newcomers = [stack.user(f"newcomer{n}@corp.test")[1] for n in range(4)]
    passed = await asyncio.gather(*(ask(sentinel, token, "127.0.0.2") for token in newcomers))
    assert [status for status, _, _ in passed] == [200] * 4
    # Its entry is no longer fresh, but stale, so it takes no place.
    assert (await ask(sentinel, known))[0] == 200
    answers = await asyncio.gather(*strangers)
    statuses = Counter(status for status, _, _ in answers)
    assert set(statuses) == {401, 503}
    assert statuses[401] >= MOST_AT_ONCE * 3 / 4
    assert all("retry-after" in answer.headers for status, _, answer in answers if status == 503)
    assert max(seconds for _, seconds, _ in answers) < AT_ONCE_SECONDS
    assert zion.most <= MOST_AT_ONCE + 1
