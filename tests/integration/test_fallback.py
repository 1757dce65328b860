"""REDIS_DOWN=local: a lost connection is no outage, and after an outage all processes take the same way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis

from sentinel.cache.local_ledger import FallbackLedger, LocalLedger
from sentinel.cache.redis import Store, open_store
from sentinel.cache.redis_ledger import RedisLedger
from sentinel.dev.store import EmbeddedStore
from sentinel.error import RedisUnavailable
from sentinel.limits.policy import Cost, Policy, Quota
from tests.support.arrivals import ask_of, policy_of
from tests.support.waiting import until

LEASE_SECONDS = 30


@pytest.fixture
def server(tmp_path: Path) -> EmbeddedStore:
    return EmbeddedStore(tmp_path, appendonly="yes").start()


@pytest.fixture
async def stores(server: EmbeddedStore) -> AsyncIterator[list[Store]]:
    """Connections of two processes."""
    stores = [open_store(server.url) for _ in range(2)]
    for store in stores:
        await store.start()
    yield stores
    for store in stores:
        await store.close()
    server.stop()


def fallback(store: Store, unsettled: int = 0) -> FallbackLedger:
    policy: Policy = policy_of(lease_seconds=LEASE_SECONDS)
    return FallbackLedger(RedisLedger(store, policy), LocalLedger(policy, 2), lambda: unsettled)


async def cut(store: Store) -> None:
    """All connections are lost; the server is there."""
    connects = store.connects
    await store.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await until(lambda: not store.available or store.connects > connects, "the loss")


async def test_a_lost_connection_is_waited_for(stores: list[Store]) -> None:
    """Redis goes on to admit, extend and tell; nothing is granted twice."""
    ledger = fallback(stores[0])
    await ledger.refresh("ana", Quota((2, -1, -1)), -1)
    first = ask_of(1)
    verdict = await ledger.reserve(first)
    await cut(stores[0])
    second = await ledger.reserve(ask_of(2))
    assert (second.admitted, second.degraded) == (True, False)
    await cut(stores[0])
    assert not (await ledger.view(first.user)).degraded
    await cut(stores[0])
    assert await ledger.extend(first, verdict.granted_output, 0, 1, verdict.now_ms) == verdict.granted_output
    await cut(stores[0])
    assert (await ledger.reserve(ask_of(3))).admitted is False


async def test_a_settlement_that_misses_redis_for_a_moment(server: EmbeddedStore, stores: list[Store]) -> None:
    """It goes to the spool; that does not make it an outage."""
    ledger = fallback(stores[0])
    await ledger.refresh("ana", Quota((5, -1, -1)), -1)
    ask = ask_of(1)
    verdict = await ledger.reserve(ask)
    # In one step of the loop, so that nobody sees the loss before.
    with redis.Redis(port=server.port) as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    with pytest.raises(RedisUnavailable):
        await ledger.settle(ask, Cost(1, 1, 1), verdict.now_ms)
    assert not (await ledger.reserve(ask_of(2))).degraded


async def test_after_an_outage_all_go_on_from_memory(server: EmbeddedStore, stores: list[Store]) -> None:
    """Also a process that was asked nothing during it: what the others have spent is not in Redis yet."""
    asked, idle = map(fallback, stores)
    for ledger in (asked, idle):
        await ledger.refresh("ana", Quota((-1, -1, -1)), -1)
        assert not (await ledger.reserve(ask_of(1))).degraded
    await asyncio.to_thread(server.kill)
    assert await _degraded(asked)
    await asyncio.to_thread(server.start)
    await until(lambda: all(store.available for store in stores), "the connections")
    assert await _degraded(asked)
    assert await _degraded(idle)
    for number, ledger in enumerate((asked, idle)):
        await until(lambda n=number, of=ledger: _by_redis(of, 10 + n), "Redis to admit again")  # type: ignore[misc]


async def _degraded(ledger: FallbackLedger) -> bool:
    """Whether memory decides; limits are not known there yet, which is a decision, too."""
    return (await ledger.reserve(ask_of(2))).degraded


async def _by_redis(ledger: FallbackLedger, number: int) -> bool:
    return not (await ledger.reserve(ask_of(number))).degraded
