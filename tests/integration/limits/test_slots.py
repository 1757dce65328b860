"""A cluster whose slots move while requests come: each call reaches the node that has its keys.

About: `cache/connection.py`.
"""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from redis.crc import key_slot

from sentinel.cache import keys
from sentinel.cache.redis import open_store
from sentinel.cache.redis_ledger import RedisLedger
from sentinel.config import parse_rate_limits
from sentinel.error import RedisUnavailable
from sentinel.limits.policy import Policy, Quota
from tests.integration.limits.conftest import Caller, MakeLedger
from tests.support.cluster import EmbeddedCluster
from tests.support.waiting import PATIENCE_SECONDS, until

POLICY = Policy.of(parse_rate_limits("ai_requests=50/1h"), lease_seconds=60, fresh_seconds=300, stale_seconds=600)


@pytest.fixture
def redis_url(cluster_url: str) -> str:
    """Only a cluster has slots."""
    return cluster_url


async def test_a_slot_moves_to_another_node(make_ledger: MakeLedger, caller: Caller, cluster: EmbeddedCluster) -> None:
    """On its way it is away; when it has arrived it is found (MOVED), and not one request is lost or doubled."""
    ledgers = [await make_ledger(POLICY) for _ in range(2)]
    await caller.known(ledgers[0], Quota((40, -1, -1)))
    slot = key_slot(keys.account_keys(caller.name).account)
    names = [cluster.ask(node, "CLUSTER MYID") for node in cluster.nodes]
    at = next(n for n, node in enumerate(cluster.nodes) if cluster.ask(node, "CLUSTER COUNTKEYSINSLOT", slot))
    to = (at + 1) % 3
    admitted = 0

    async def ask(number: int) -> None:
        nonlocal admitted
        verdicts = await asyncio.gather(*(ledgers[n % 2].reserve(caller.ask()) for n in range(number)))
        admitted += sum(verdict.admitted for verdict in verdicts)

    await ask(20)
    cluster.ask(cluster.nodes[to], "CLUSTER SETSLOT", slot, "IMPORTING", names[at])
    cluster.ask(cluster.nodes[at], "CLUSTER SETSLOT", slot, "MIGRATING", names[to])
    moving = cluster.ask(cluster.nodes[at], "CLUSTER GETKEYSINSLOT", slot, 1000)
    cluster.ask(cluster.nodes[at], "MIGRATE", "127.0.0.1", cluster.nodes[to].port, "", 0, 5000, "KEYS", *moving)
    with pytest.raises(RedisUnavailable):
        await ledgers[0].reserve(caller.ask())
    for node in (to, at):
        cluster.ask(cluster.nodes[node], "CLUSTER SETSLOT", slot, "NODE", names[to])
    await ask(20)
    assert admitted == 40
    await ask(20)
    assert admitted == 40


async def test_a_cluster_that_is_away_is_found_later(
    cluster: EmbeddedCluster, caller: Caller, make_ledger: MakeLedger
) -> None:
    """Calls fail at once while no node answers, and pass again without a new start."""
    await caller.known(await make_ledger(POLICY))
    hasty = open_store(cluster.url)
    await hasty.start()
    ledger = RedisLedger(hasty, POLICY)

    async def passes() -> bool:
        with contextlib.suppress(RedisUnavailable):
            return (await ledger.reserve(caller.ask())).admitted
        return False

    try:
        await until(passes, "an answer before")
        for node in cluster.nodes:
            node.pause()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                with pytest.raises(RedisUnavailable):
                    await ledger.reserve(caller.ask())
        finally:
            for node in cluster.nodes:
                node.resume()
        await until(passes, "an answer after")
    finally:
        await hasty.close()
