"""Leases in Redis: what dead processes held returns, also of users whom nobody touches, and is billed once."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from sentinel.cache import keys
from sentinel.cache.redis import open_store
from sentinel.cache.redis_ledger import RedisLedger, read_account
from sentinel.clock import monotonic
from sentinel.config import parse_rate_limits
from sentinel.error import RedisUnavailable, ZionUnavailable
from sentinel.limits.policy import REMEMBER_SETTLED_MS, Cost, Policy, Quota
from sentinel.middleware import lease_expirer
from sentinel.middleware.lease_keeper import LeaseKeeper
from tests.integration.limits.conftest import Caller, MakeLedger
from tests.support.waiting import until

START_MS = 1_800_000_000_000
LEASE_MS = 30_000


def policy_of(rates: str = "concurrency=2") -> Policy:
    return Policy.of(parse_rate_limits(rates), lease_seconds=LEASE_MS / 1000, fresh_seconds=300, stale_seconds=600)


def at(moment_ms: int, *ledgers: RedisLedger) -> None:
    """The clock of these ledgers shows so many milliseconds after START_MS."""
    for ledger in ledgers:
        ledger.now_ms = START_MS + moment_ms


async def indexed(ledger: RedisLedger, caller: Caller) -> bool:
    return await ledger.store.client.zscore(keys.account_keys(caller.name).index, caller.name) is not None


class Untold:
    """A Zion that tells limits, if there are any. asked: of whom."""

    def __init__(self, ledger: RedisLedger | None = None, quota: Quota | None = None) -> None:
        self._ledger, self._quota = ledger, quota
        self.asked: list[str] = []

    async def fetch_limits(self, user: str, seq: int) -> None:
        self.asked.append(user)
        if self._ledger is None or self._quota is None:
            raise ZionUnavailable("away")
        await self._ledger.refresh(user, self._quota, seq)

    def refresh_limits_soon(self, user: str, seq: int) -> None:
        return


async def test_the_lease_expirer_returns_what_nobody_else_touches(make_ledger: MakeLedger, caller: Caller) -> None:
    """The user is found by the index when the lease ends, not before, and billed the last checkpoint."""
    ledger = await make_ledger(policy_of())
    at(0, ledger)
    await caller.known(ledger, Quota((-1, -1, 1000)))
    dead, streaming = caller.ask(5, 300), caller.ask(7, 300)
    await ledger.reserve(dead)
    verdict = await ledger.reserve(streaming)
    await ledger.extend(streaming, 300, 0, 120, verdict.now_ms)
    at(LEASE_MS - 1, ledger)
    await lease_expirer.expire_due(ledger)
    assert await caller.bills(ledger) == []
    at(LEASE_MS, ledger)
    await lease_expirer.expire_due(ledger)
    assert await caller.bills(ledger) == [(1, 7, 120)]
    whole = await ledger.reserve(caller.ask(0, 1000))
    assert whole.granted_output == 880
    assert whole.concurrency_remaining == 1


async def test_the_index_forgets_users_without_leases(make_ledger: MakeLedger, caller: Caller) -> None:
    """Users who settled are looked at once more, and then no more."""
    ledger = await make_ledger(policy_of())
    at(0, ledger)
    await caller.known(ledger)
    ask = caller.ask()
    verdict = await ledger.reserve(ask)
    await ledger.settle(ask, Cost(1, 0, 0), verdict.now_ms)
    assert await indexed(ledger, caller)
    account = keys.account_keys(caller.name).account
    before = read_account(await ledger.store.command("GET", account))
    at(LEASE_MS - 1, ledger)
    assert await ledger.expire(caller.name) == 0
    assert await indexed(ledger, caller)
    at(LEASE_MS, ledger)
    await lease_expirer.expire_due(ledger)
    assert not await indexed(ledger, caller)
    assert read_account(await ledger.store.command("GET", account)) == before | {"lease": 0}


async def test_the_index_forgets_users_without_an_account(make_ledger: MakeLedger, caller: Caller) -> None:
    """None begins for them."""
    ledger = await make_ledger(policy_of())
    at(0, ledger)
    await caller.known(ledger)
    ask = caller.ask()
    verdict = await ledger.reserve(ask)
    await ledger.settle(ask, Cost(1, 0, 0), verdict.now_ms)
    await ledger.store.command("DEL", keys.account_keys(caller.name).account)
    at(LEASE_MS, ledger)
    assert await ledger.expire(caller.name) == 0
    assert await caller.stored(ledger) == [None, [], None]


async def test_many_processes_return_a_lease_once(make_ledger: MakeLedger, caller: Caller) -> None:
    """Every process expires leases; the script makes it one."""
    ledgers = [await make_ledger(policy_of("concurrency=10")) for _ in range(3)]
    at(0, *ledgers)
    await caller.known(ledgers[0], Quota((-1, -1, 1000)))
    for _ in range(5):
        ask = caller.ask(1, 100)
        verdict = await ledgers[0].reserve(ask)
        await ledgers[0].extend(ask, 100, 0, 40, verdict.now_ms)
    at(LEASE_MS, *ledgers)
    counts = await asyncio.gather(*(ledger.expire(caller.name) for ledger in ledgers * 3))
    assert sum(counts) == 5
    assert await caller.bills(ledgers[0]) == [(1, 1, 40)] * 5


async def test_the_keeper_waits_for_a_redis_that_is_away(make_ledger: MakeLedger, caller: Caller) -> None:
    """More output is reserved when Redis is back; if it stays away, that is an error, not an end of the tokens."""
    ledger = await make_ledger(policy_of())
    await caller.known(ledger, Quota((-1, -1, 1000)))
    ask = caller.ask(3, 300)
    hasty, keeper = (LeaseKeeper(ledger, Untold(), 30, patience_seconds=seconds) for seconds in (0.3, 30))
    held = keeper.hold(ask, await ledger.reserve(ask), monotonic())
    real, ledger.store = ledger.store, open_store("redis://127.0.0.1:1")
    with pytest.raises(RedisUnavailable):
        await hasty.extend(held, 100, 300)
    extending = asyncio.create_task(keeper.extend(held, 100, 300))
    await asyncio.sleep(0)
    ledger.store = real
    assert await extending == 100
    assert held.output == 400


async def test_the_keeper_asks_for_limits_that_redis_has_forgotten(make_ledger: MakeLedger, caller: Caller) -> None:
    """Nothing is added before they are known; then what all requests of this user hold here counts."""
    ledger = await make_ledger(policy_of())
    await caller.known(ledger, Quota((-1, -1, 1000)))
    limits = Untold(ledger, Quota((-1, -1, 1000)))
    keeper = LeaseKeeper(ledger, limits, lease_seconds=30)
    asks = caller.ask(3, 300), caller.ask(3, 650)
    growing, other = [keeper.hold(ask, await ledger.reserve(ask), monotonic()) for ask in asks]
    await ledger.store.command("DEL", keys.account_keys(caller.name).account)
    await ledger.store.command("DEL", keys.account_keys(caller.name).leases)
    assert await keeper.extend(growing, 100, 300) == 50
    assert await keeper.extend(growing, 100, 350) == 0
    assert limits.asked == [caller.name]
    assert (growing.output, other.output) == (350, 650)


async def test_the_keeper_adds_nothing_while_nobody_knows_the_limits(make_ledger: MakeLedger, caller: Caller) -> None:
    """That is an error, not an end of the tokens, and not leave to go on."""
    ledger = await make_ledger(policy_of())
    await caller.known(ledger, Quota((-1, -1, 1000)))
    ask = caller.ask(3, 300)
    keeper = LeaseKeeper(ledger, Untold(), lease_seconds=30, patience_seconds=0.3)
    held = keeper.hold(ask, await ledger.reserve(ask), monotonic())
    await ledger.store.command("DEL", keys.account_keys(caller.name).account)
    with pytest.raises(ZionUnavailable):
        await keeper.extend(held, 100, 300)
    assert held.output == 300


async def test_a_forgotten_account_holds_what_its_leases_hold(make_ledger: MakeLedger, caller: Caller) -> None:
    """An account that was evicted, or deleted, does not free what is in flight."""
    ledger = await make_ledger(policy_of())
    at(0, ledger)
    await caller.known(ledger, Quota((-1, -1, 1000)))
    asks = [caller.ask(3, 300), caller.ask(3, 300)]
    verdicts = [await ledger.reserve(ask) for ask in asks]
    await ledger.store.command("DEL", keys.account_keys(caller.name).account)
    await caller.known(ledger, Quota((-1, -1, 1000)))
    refused = await ledger.reserve(caller.ask(3, 300))
    assert refused.blocker is not None
    assert refused.blocker.metric == "concurrency"
    await ledger.settle(asks[0], Cost(1, 3, 300), verdicts[0].now_ms)
    assert (await ledger.reserve(caller.ask(3, 1000))).granted_output == 400
    at(LEASE_MS, ledger)
    assert await ledger.expire(caller.name) == 2
    assert (await ledger.view(caller.name)).used == (1, 3, 300)


@pytest.mark.parametrize("finder", ["a request", "the lease expirer"])
async def test_reservations_of_which_the_lease_is_gone_come_back(
    make_ledger: MakeLedger, caller: Caller, finder: str
) -> None:
    """What is reserved is summed up anew whenever leases are looked at."""
    ledger = await make_ledger(policy_of())
    at(0, ledger)
    await caller.known(ledger, Quota((-1, -1, 1000)))
    await ledger.reserve(caller.ask(3, 1000))
    account = keys.account_keys(caller.name)
    await ledger.store.command("DEL", account.leases)
    at(LEASE_MS, ledger)
    if finder == "the lease expirer":
        assert await ledger.expire(caller.name) == 0
        found = read_account(await ledger.store.command("GET", account.account))
        assert (found["open"], found["held"]) == (0, [0, 0, 0])
    assert (await ledger.reserve(caller.ask(3, 1000))).granted_output == 1000


async def test_the_keeper_renews_and_notes_what_was_delivered(make_ledger: MakeLedger, caller: Caller) -> None:
    """Held for many times its lease, a reservation neither ends nor is billed; a dead keeper's is, at its last note."""
    ledger = await make_ledger(policy_of())
    at(0, ledger)
    await caller.known(ledger, Quota((-1, -1, 1000)))
    ask = caller.ask(3, 300)
    keeper = LeaseKeeper(ledger, Untold(), lease_seconds=0.1)
    held = keeper.hold(ask, await ledger.reserve(ask), monotonic())
    delivered = 0
    held.delivered = lambda: delivered

    def is_noted(output: int) -> bool:
        return held.noted == output

    running = asyncio.create_task(keeper.run())
    for step in range(1, 11):
        delivered = 10 * step
        await until(partial(is_noted, delivered), "the keeper's note")
        at(step * (LEASE_MS - 1), ledger)
        assert await ledger.expire(caller.name) == 0
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    at(12 * LEASE_MS, ledger)
    assert await ledger.expire(caller.name) == 1
    assert await caller.bills(ledger) == [(1, 3, 100)]


async def test_the_keeper_renews_what_a_redis_that_comes_back_has_lost(make_ledger: MakeLedger, caller: Caller) -> None:
    """Nobody gets what is in flight, long before its renewal would be due."""
    ledger = await make_ledger(policy_of())
    await caller.known(ledger, Quota((2, -1, 1000)))
    keeper = LeaseKeeper(ledger, Untold(), lease_seconds=3600)
    for ask in (caller.ask(3, 300), caller.ask(3, 300)):
        keeper.hold(ask, await ledger.reserve(ask), monotonic())
    running = asyncio.create_task(keeper.run_for_losses(lambda: ledger.store.connects))
    for key in (keys.account_keys(caller.name).account, keys.account_keys(caller.name).leases):
        await ledger.store.command("DEL", key)
    await caller.known(ledger, Quota((2, -1, 1000)))
    await ledger.store.client.client_kill_filter(_type="normal", skipme=True)

    async def are_there() -> bool:
        return await ledger.store.client.hlen(keys.account_keys(caller.name).leases) == 2

    await until(are_there, "the leases")
    refused = await ledger.reserve(caller.ask(3, 300))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert refused.blocker is not None


@pytest.mark.parametrize("taken_up", [False, True])
async def test_a_paused_process_settles_late(make_ledger: MakeLedger, caller: Caller, taken_up: bool) -> None:
    """Its bills together are what was spent, whether or not it renewed its lease before it settled."""
    ledger = await make_ledger(policy_of())
    at(0, ledger)
    await caller.known(ledger, Quota((-1, -1, 1000)))
    ask = caller.ask(9, 300)
    verdict = await ledger.reserve(ask)
    await ledger.extend(ask, 300, 0, 50, verdict.now_ms)
    at(LEASE_MS, ledger)
    assert await ledger.expire(caller.name) == 1
    if taken_up:
        await ledger.extend(ask, 300, 0, 60, verdict.now_ms)
    assert await ledger.settle(ask, Cost(1, 9, 200), verdict.now_ms)
    assert not await ledger.settle(ask, Cost(1, 9, 200), verdict.now_ms)
    assert await caller.bills(ledger) == [(1, 9, 50), (0, 0, 150)]
    assert (await ledger.reserve(caller.ask(0, 1000))).granted_output == 800


async def test_a_settlement_is_remembered_long_after_the_last_one(make_ledger: MakeLedger, caller: Caller) -> None:
    """Ids are kept in sets by the time of their admission; a new one keeps its set alive, but for the next minute."""
    ledger = await make_ledger(policy_of())
    await caller.known(ledger)
    asks = [caller.ask() for _ in range(3)]
    started_ms, *_ = [(await ledger.reserve(ask)).now_ms for ask in asks]
    bucket = keys.account_keys(caller.name).settle(started_ms)[-1]
    client, left_ms = ledger.store.client, []
    for ask, later_ms in zip(asks, (0, 50_000, 61_000), strict=True):
        ledger.now_ms = started_ms + later_ms
        await ledger.settle(ask, Cost(1, 0, 0), started_ms)
        left_ms.append(await client.pttl(bucket))
        await client.pexpire(bucket, REMEMBER_SETTLED_MS)
    told, quiet, again = left_ms
    assert min(told, again) > REMEMBER_SETTLED_MS + 50_000
    assert REMEMBER_SETTLED_MS - 10_000 < quiet <= REMEMBER_SETTLED_MS


async def test_replicas_with_other_windows_leave_ours_alone(make_ledger: MakeLedger, caller: Caller) -> None:
    """While settings are rolled out, each kind of replica finds what its windows held, whatever the others' order."""
    old = await make_ledger(policy_of("ai_requests=100/60s,ai_input_tokens=1000/60s"))
    new = await make_ledger(policy_of("ai_output_tokens=500/1h,ai_input_tokens=2000/60s"))
    none = await make_ledger(policy_of("concurrency=9"))
    at(0, old)
    await caller.known(old)
    left = []
    for moment, ledger in enumerate([old, new, none, old, new] * 13):
        at(moment * 1100, ledger)
        ask = caller.ask(10, 3)
        verdict = await ledger.reserve(ask)
        await ledger.settle(ask, Cost(1, 10, 3), verdict.now_ms)
        left.append(verdict.windows[::2])
    assert left[:5] == [(99, 990), (497, 1980), (), (98, 970), (494, 1960)]
    # The input tokens of the first ten seconds have left their window, those of the hour have not.
    inputs = [10 for moment in range(65) if moment % 5 != 2 and moment * 1100 // 1000 >= 64 * 1100 // 1000 - 60]
    assert left[-1] == (500 - 26 * 3, 2000 - sum(inputs))


async def test_an_idle_account_outlives_its_longest_window(make_ledger: MakeLedger, caller: Caller) -> None:
    """Redis forgets it only when nothing in it counts any more."""
    ledger = await make_ledger(policy_of("ai_requests=1/31d"))
    await caller.known(ledger)
    await ledger.reserve(caller.ask())
    ttl_ms = await ledger.store.client.pttl(keys.account_keys(caller.name).account)
    assert ttl_ms > 31 * 86_400_000 * 61 / 60


async def test_a_redis_that_restarted_empty_bills_what_comes(make_ledger: MakeLedger, caller: Caller) -> None:
    """A settlement whose reservation nobody remembers is billed in full, and counts in the windows."""
    ledger = await make_ledger(policy_of("ai_input_tokens=100/60s"))
    ask = caller.ask(30)
    assert await ledger.settle(ask, Cost(1, 30, 5), 1_800_000_000_000)
    await caller.known(ledger)
    assert (await ledger.reserve(caller.ask(0))).windows[0] == 70
    assert await caller.bills(ledger) == [(1, 30, 5)]
