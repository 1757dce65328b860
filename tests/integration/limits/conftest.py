"""Ledgers on a real Redis: a single one, and a cluster of three, for the same tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
import pytest_asyncio

from sentinel.cache import keys
from sentinel.cache.redis_ledger import RedisLedger
from sentinel.limits.policy import Policy, Quota, Reservation
from sentinel.usage.batch import Record
from tests.support.cluster import EmbeddedCluster
from tests.support.metering import patient_store
from tests.support.streams import entries

_numbers = count(1)

MakeLedger = Callable[[Policy], Awaitable[RedisLedger]]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    """Three masters, for as long as the test session."""
    with EmbeddedCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def cluster_url(cluster: EmbeddedCluster) -> str:
    """What goes into REDIS_URL."""
    return cluster.url


@pytest.fixture(params=["single", "cluster"])
def redis_url(request: pytest.FixtureRequest) -> str:
    """A Redis of either kind. Tests share it, so each uses a user of its own."""
    return str(request.getfixturevalue("store_url" if request.param == "single" else "cluster_url"))


@pytest_asyncio.fixture
async def make_ledger(redis_url: str) -> AsyncIterator[MakeLedger]:
    """Makes ledgers with connections of their own, as separate processes have them."""
    ledgers: list[RedisLedger] = []

    async def make(policy: Policy) -> RedisLedger:
        store = patient_store(redis_url)
        await store.start()
        ledgers.append(RedisLedger(store, policy))
        return ledgers[-1]

    yield make
    for ledger in ledgers:
        await ledger.store.close()


@dataclass
class Caller:
    """A user of one test, who asks."""

    name: str

    def ask(self, inputs: int = 0, output: int = 0, *, least: int = 1, fair: int = 0) -> Reservation:
        """Another request of this user."""
        return Reservation(
            f"req_{next(_numbers)}", self.name, f"{self.name}@corp.test", "gpt-4o-mini", inputs, output, least, fair
        )

    async def known(self, ledger: RedisLedger, quota: Quota | None = None) -> None:
        """Zion has told the user's limits: none, unless given."""
        await ledger.refresh(self.name, quota or Quota(), 0)

    async def stored(self, ledger: RedisLedger) -> list[Any]:
        """All that Redis has of this user, as bytes."""
        account = keys.account_keys(self.name)
        leases = await ledger.store.client.hgetall(account.leases)
        return [
            await ledger.store.command("GET", account.account),
            sorted(leases.items()),
            await ledger.store.client.zscore(account.index, self.name),
        ]

    async def bills(self, ledger: RedisLedger) -> list[tuple[int, int, int]]:
        """What was written to the outbox for this user, oldest first."""
        found = await entries(ledger.store, keys.account_keys(self.name).outbox)
        # Other tests have put other things into this stream.
        records = [Record.read(0, entry, fields) for entry, fields in found if b"who" in fields]
        return [record.spent for record in records if record.user == self.name]


@pytest.fixture
def caller() -> Caller:
    """A user whom nobody knows yet."""
    return Caller(f"user-{next(_numbers)}")
