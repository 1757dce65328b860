"""Zion away for long: what waits costs little memory anywhere, and reaches Zion fast without flooding it."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections.abc import AsyncIterator

import pytest

from sentinel.dev.zion import BATCH, ZionSimulator
from sentinel.limits.policy import Cost
from sentinel.usage.timings import Timings
from tests.support.metering import Books, open_books
from tests.support.waiting import until

USERS, REQUESTS = 250, 25_000
CALLS_PER_SECOND = 20
RECORD_BYTES = 300
"""What a record may cost in Redis: about 200 in the stream, and 16 while it is on its way."""


@pytest.fixture
async def books(store_url: str, zion_url: str, simulator: ZionSimulator) -> AsyncIterator[Books]:
    """Deliverers as they are in earnest, but for the pause of up to 15 s after so many failures."""
    async with open_books(store_url, zion_url, simulator, Timings(backoff_scale=0.01)) as books:
        yield books


async def redis_bytes(books: Books) -> int:
    info = await books.store.client.info("memory")
    return int(info["used_memory"])


async def test_a_long_outage(books: Books) -> None:
    """A backlog of 25,000 requests is told in a few calls, each once, in bounded memory everywhere."""
    emails = [f"u{number}@corp.test" for number in range(USERS)]
    for email in emails:
        await books.user(email)
        await books.spend(email)
    outbox = books.outbox(calls_per_second=CALLS_PER_SECOND)
    books.simulator.faults.set(status=503, path_prefix=BATCH)
    await outbox.flush()
    before = await redis_bytes(books)
    for start in range(0, REQUESTS, 500):
        await asyncio.gather(
            *(books.spend(emails[n % USERS], Cost(1, 12, n % 90 + 1)) for n in range(start, start + 500))
        )
        if start % 5000 == 0:
            await outbox.flush()
    per_record = (await redis_bytes(books) - before) / REQUESTS
    assert per_record < RECORD_BYTES
    assert len(outbox._scheduler.held) + len(outbox._scheduler.loose) <= 1000

    books.simulator.faults.clear()
    books.simulator.calls.clear()
    started = time.time()
    await until(outbox.flush)
    assert books.booked() == books.owed
    calls = books.reports()
    assert len(calls) <= 20
    # A call may arrive late, which is no flood: so each is held against the start, not against the one before it.
    assert all(call.at - started >= number / CALLS_PER_SECOND - 0.01 for number, call in enumerate(calls))
    assert await redis_bytes(books) < before + 1_000_000


async def test_one_caller_with_a_long_backlog(books: Books) -> None:
    """What one caller spent in 9,000 requests takes a few calls, and little memory of the process that tells it."""
    await books.user("ana@corp.test")
    for _ in range(18):
        await asyncio.gather(*(books.spend("ana@corp.test") for _ in range(500)))
    outbox = books.outbox(calls_per_second=20)
    tracemalloc.start()
    try:
        await books.told(outbox)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()
    assert books.booked() == books.owed
    assert len(books.reports()) <= 4
