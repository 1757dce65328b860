"""Whatever speaks the port is a governance: usage is delivered to it and callers are known by it, without HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from sentinel.cache.redis_ledger import RedisLedger
from sentinel.cache.subscription import SubscriptionCache
from sentinel.error import InvalidApiKey, ZionUnavailable
from sentinel.governance.port import AuthenticatedUser, Governance, Outcome
from sentinel.limits.policy import Cost, Quota, Reservation
from sentinel.usage.dead_letters import DeadLetters
from sentinel.usage.outbox import Outbox
from tests.support.memory_governance import MemoryGovernance
from tests.support.metering import POLICY, QUICK, empty_store
from tests.support.waiting import until

ANA, BO, CY = "ana", "bo", "cy"
SPENT: Cost = Cost(1, 12, 7)


@dataclass
class World:
    """A Redis and a governance, with three users of whom each has spent something."""

    ledger: RedisLedger
    governance: MemoryGovernance
    spent: int = 0

    def outbox(self) -> Outbox:
        governance: Governance = self.governance
        return Outbox(self.ledger, governance, flush_seconds=0.05, calls_per_second=1000, timings=QUICK)

    async def spend(self, user: str) -> None:
        self.spent += 1
        ask = Reservation(f"req_{self.spent}", user, f"{user}@corp.test", "gpt-4o-mini", 0, 0)
        assert await self.ledger.settle(ask, SPENT, 1)


@pytest.fixture
async def world(store_url: str) -> AsyncIterator[World]:
    governance = MemoryGovernance()
    async with empty_store(store_url) as store:
        world = World(RedisLedger(store, POLICY), governance)
        for user in (ANA, BO, CY):
            governance.add(user)
            await world.ledger.refresh(user, Quota(), -1)
            await world.spend(user)
        yield world


async def delivered(world: World) -> Outbox:
    outbox = world.outbox()
    await until(outbox.flush)
    assert await outbox.depth() == (0, 0)
    return outbox


@pytest.mark.parametrize("outcomes", [[], [Outcome.LATER] * 2, [Outcome.REFUSED], [Outcome.UNKNOWN] * 2], ids=str)
async def test_each_outcome_ends_with_all_booked_once(world: World, outcomes: list[Outcome]) -> None:
    """A batch is repeated after LATER, divided after REFUSED, and looked into after UNKNOWN."""
    world.governance.outcomes = outcomes
    world.governance.applied_when_unknown = 1
    outbox = await delivered(world)
    assert [world.governance.used(user) for user in (ANA, BO, CY)] == [SPENT] * 3
    assert (outbox.delivered.taken, outbox.delivered.ambiguous) == (3, 0)


async def test_a_report_keeps_its_key_until_its_items_change(world: World) -> None:
    """The governance may know by the key what it has booked before."""
    world.governance.outcomes = [Outcome.LATER, Outcome.REFUSED]
    await delivered(world)
    first, again, *halves = world.governance.reports
    assert first == again
    assert [key for key, _ in halves if key == first[0]] == []


async def test_a_governance_that_takes_few_items_gets_few(world: World) -> None:
    """What it cannot take at once is split, and so is what comes next."""
    world.governance.most_items = 1
    await delivered(world)
    assert [len(users) for _, users in world.governance.reports] == [1, 1, 1]


async def test_a_refused_item_is_a_dead_letter_with_its_reason(world: World) -> None:
    """Others are booked."""
    world.governance.refused = {BO}
    outbox = world.outbox()
    await until(outbox.flush)
    (letter,) = [letter async for letter in DeadLetters(world.ledger).all()]
    assert letter.record is not None
    assert (letter.record.user, letter.reason) == (BO, "not today")
    assert world.governance.used(BO) == (0, 0, 0)
    assert world.governance.used(ANA) == world.governance.used(CY) == SPENT


async def test_callers_are_known_while_the_governance_is_away(world: World) -> None:
    """The cache keeps users and limits in a form of its own."""
    stale: list[bool] = []
    token = world.governance.add("di", (5, -1, 100)).encode()

    def cache() -> SubscriptionCache:
        return _cache(world, lambda: stale.append(True))

    assert await cache().user(token) == AuthenticatedUser("di", "di@corp.test")
    with pytest.raises(InvalidApiKey):
        await cache().user(b"nobody's")
    await cache().fetch_limits("di", -1)
    world.governance.away = True
    assert await cache().user(token) == AuthenticatedUser("di", "di@corp.test")
    await world.ledger.store.command("DEL", *await world.ledger.store.command("KEYS", "*account4:di"))
    await cache().fetch_limits("di", -1)
    assert (await world.ledger.view("di")).limit == (5, -1, 100)
    with pytest.raises(ZionUnavailable):
        await cache().fetch_limits("ed", -1)
    assert stale == []


async def test_limits_that_somebody_else_wrote_are_asked_for(world: World) -> None:
    """An older Sentinel kept Zion's answer, from which nothing may be guessed."""
    world.governance.add("di", (5, -1, 100))
    for kept in (b'{"success":true,"data":{"limits":[]}}', b"{}", b"[]", b"\xff", b"[[1,2],[0,0,0],[0,0,0],[true]]"):
        await world.ledger.store.command("SET", b"limits:di", kept)
        await _cache(world, lambda: None).fetch_limits("di", -1)
        assert (await world.ledger.view("di")).limit == (5, -1, 100)
        await world.ledger.store.command("DEL", *await world.ledger.store.command("KEYS", "*account4:di"))


def _cache(world: World, on_stale: Callable[[], None]) -> SubscriptionCache:
    return SubscriptionCache(
        world.ledger.store,
        world.governance,
        world.ledger,
        jwt_ttl_seconds=60,
        limits_ttl_seconds=60,
        stale_seconds=60,
        redis_optional=False,
        on_stale=on_stale,
    )
