"""What a user may spend is read without changing anything, and also where nothing can be written."""

from __future__ import annotations

import pytest

from sentinel.config import parse_rate_limits
from sentinel.error import RedisUnavailable
from sentinel.limits.policy import Cost, Policy, Quota
from tests.integration.limits.conftest import Caller, MakeLedger

RATES = "ai_requests=5/60s,ai_output_tokens=100/1h,concurrency=3"
POLICY = Policy.of(parse_rate_limits(RATES), lease_seconds=30, fresh_seconds=300, stale_seconds=600)
START_MS = 1_800_000_000_000


async def test_a_view_has_what_is_spent_reserved_and_waiting(make_ledger: MakeLedger, caller: Caller) -> None:
    """And it is the same before and after it was looked at."""
    ledger = await make_ledger(POLICY)
    ledger.now_ms = START_MS
    assert not (await ledger.view(caller.name)).known
    assert await caller.stored(ledger) == [None, [], None]
    await caller.known(ledger, Quota((10, -1, 1000), (2, 50, 300), (START_MS + 90_000, 0, START_MS + 90_000)))
    settled, held = caller.ask(7, 20), caller.ask(9, 30)
    await ledger.reserve(settled)
    await ledger.settle(settled, Cost(1, 7, 11), START_MS)
    await ledger.reserve(held)
    stored = await caller.stored(ledger)
    view = await ledger.view(caller.name)
    assert (view.known, view.refresh, view.limit, view.used) == (True, False, (10, -1, 1000), (4, 66, 341))
    assert view.ends_ms == (START_MS + 90_000, 0, START_MS + 90_000)
    assert (view.windows[::2], view.in_flight) == ((3, 59), 1)
    ledger.now_ms += 90_000
    later = await ledger.view(caller.name)
    assert (later.used, later.ends_ms, later.refresh) == ((2, 66, 41), (0, 0, 0), True)
    assert (later.windows[::2], later.in_flight) == ((5, 59), 1)
    ledger.now_ms += 900_000
    assert not (await ledger.view(caller.name)).known
    ledger.now_ms = START_MS - 1000
    assert (await ledger.view(caller.name)).used == view.used
    assert await caller.stored(ledger) == stored


async def test_what_is_left_after_a_reservation_comes_with_its_verdict(make_ledger: MakeLedger, caller: Caller) -> None:
    """Never below zero, not even where Zion has lowered a limit; of a refusal, what is there."""
    ledger = await make_ledger(Policy((), None, 30_000, 300_000, 600_000))
    await caller.known(ledger, Quota((3, -1, 1000), (1, 50, 300)))
    first = await ledger.reserve(caller.ask(7, 200))
    assert (first.admitted, first.quota_remaining) == (True, (1, -1, 500))
    await ledger.refresh(caller.name, Quota((3, 10, 400), (1, 50, 300)), -1)
    second = await ledger.reserve(caller.ask(7, 200))
    assert (second.admitted, second.quota_remaining) == (False, (1, 0, 0))


async def test_a_full_redis_can_be_looked_into(make_ledger: MakeLedger, caller: Caller) -> None:
    """It takes no reservation, but a view writes nothing."""
    ledger = await make_ledger(POLICY)
    await caller.known(ledger, Quota((10, -1, -1), (2, 0, 0)))
    client = ledger.store.client
    nodes = {"target_nodes": "all"} if hasattr(client, "get_primaries") else {}
    await client.config_set("maxmemory", "1", **nodes)
    try:
        with pytest.raises(RedisUnavailable):
            await ledger.reserve(caller.ask())
        assert (await ledger.view(caller.name)).used == (2, 0, 0)
    finally:
        await client.config_set("maxmemory", "0", **nodes)
