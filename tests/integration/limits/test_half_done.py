"""A script that fails at any of its commands has done nothing, and when it is called again, all of it, once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from typing import Any
from zlib import crc32

import pytest
from msgspec.structs import replace

from sentinel.cache import keys
from sentinel.cache.redis import Store
from sentinel.cache.redis_ledger import Found, Letter, RedisLedger, Taken
from sentinel.config import parse_rate_limits
from sentinel.error import RedisUnavailable
from sentinel.limits.policy import Cost, Policy, Quota, Reservation
from sentinel.usage.batch import Record
from tests.support.metering import patient_store
from tests.support.streams import entries

START_MS = 1_800_000_000_000
LEASE_MS = 30_000
LATER_MS = START_MS + LEASE_MS
RATES = "ai_requests=100/60s,ai_input_tokens=100000/60s,ai_output_tokens=5000/60s,concurrency=9"
ANA = "ana"
BO = next(name for name in map("bo{}".format, count()) if crc32(name.encode()) % 64 == crc32(b"ana") % 64)
PARTITION = keys.account_keys(ANA).partition
OUTBOX, LETTERS = keys.outbox(PARTITION), keys.dead_letters(PARTITION)

FAILING_REDIS = """
local register_function, calls, fail_at = redis.register_function, 0, 0
-- While a library is being loaded `redis` is another table.
local function real() return redis end
local redis = { register_function = register_function }
redis.pcall = function(...) return real().pcall(...) end
redis.call = function(...)
  calls = calls + 1
  if calls == fail_at then error('made to fail') end
  return real().call(...)
end
register_function('fail_at', function(_, args)
  calls, fail_at = 0, tonumber(args[1])
  return 1
end)
"""
"""In place of the library's `redis`: its n-th command fails."""


Call = Callable[[], Awaitable[object]]
Prepare = Callable[[RedisLedger], Awaitable[Call]]


class FailingPolicy(Policy):
    """A policy whose library can be told which command shall fail."""

    def lua(self) -> str:
        return super().lua() + FAILING_REDIS


@pytest.fixture
async def ledger(store_url: str) -> AsyncIterator[RedisLedger]:
    store = patient_store(store_url)
    await store.start()
    policy = FailingPolicy.of(
        parse_rate_limits(RATES), lease_seconds=LEASE_MS / 1000, fresh_seconds=300, stale_seconds=600
    )
    yield RedisLedger(store, policy)
    await store.client.flushall()
    await store.close()


def ask(name: str, user: str = ANA) -> Reservation:
    return Reservation(f"req_{user}_{name}", user, f"{user}@corp.test", "gpt-4o-mini", 10, 300)


async def build(ledger: RedisLedger) -> None:
    """Two users, with everything that there can be: leases, some due, notes, records, a job, a dead letter."""
    await ledger.store.client.flushall()
    await ledger.store.client.xgroup_create(OUTBOX, keys.GROUP, "0", mkstream=True)
    ledger.now_ms = START_MS - 2 * LEASE_MS
    for user in (ANA, BO):
        await ledger.refresh(user, Quota((500, 50_000, 50_000), (1, 1, 1), (0, START_MS + 10**7, 0)), 0)
        await ledger.settle(ask("old", user), Cost(1, 10, 70), ledger.now_ms)
    await started(ledger, "late", 40)
    ledger.now_ms = START_MS - LEASE_MS
    # The lease of `late` has ended: it leaves a note.
    await ledger.settle(ask("buried"), Cost(1, 10, 90), ledger.now_ms)
    await started(ledger, "due", 60)
    await ledger.reserve(ask("done", BO))
    await ledger.settle(ask("done", BO), Cost(1, 10, 80), ledger.now_ms)
    ledger.now_ms = START_MS - 1000
    await started(ledger, "streaming", 80)
    await ledger.extend(ask("streaming"), 300, 50, 90, ledger.now_ms)
    await ledger.reserve(ask("waiting"))
    name, due = keys.jobs(PARTITION), keys.jobs_due(PARTITION)
    await ledger.store.command("HSET", name, "resp_1", "the record of `streaming`")
    await ledger.store.command("ZADD", due, START_MS, "resp_1")
    await ledger.store.client.xreadgroup(keys.GROUP, "deliverer", {OUTBOX: ">"})
    buried = await records(ledger.store, "buried")
    letter = Letter(ask("buried"), ledger.now_ms, "refused")
    assert await ledger.acknowledge([Taken(ANA, [buried.entry], buried.spent, buried.period)], letter) == 1
    ledger.now_ms = START_MS


async def started(ledger: RedisLedger, name: str, sent: int) -> None:
    verdict = await ledger.reserve(ask(name))
    assert verdict.admitted
    await ledger.extend(ask(name), verdict.granted_output, 0, sent, verdict.now_ms)


async def records(store: Store, name: str, user: str = ANA) -> Record:
    """The record of this request."""
    found = [Record.read(PARTITION, entry, fields) for entry, fields in await entries(store, OUTBOX)]
    return next(record for record in found if record.id == f"req_{user}_{name}")


async def letter_entry(store: Store) -> str:
    ((entry, _),) = await entries(store, LETTERS)
    return str(entry, "ascii")


async def books(store: Store) -> dict[str, Any]:
    """All that Redis has, without the names that it gives to entries."""
    client, found = store.client, dict[str, Any]()
    for key in sorted([key async for key in client.scan_iter("sentinel:*")]):
        match await client.type(key):
            case b"string":
                found[key] = await client.get(key)
            case b"hash":
                found[key] = await client.hgetall(key)
            case b"zset":
                found[key] = await client.zrange(key, 0, -1, withscores=True)
            case b"set":
                found[key] = await client.smembers(key)
            case b"stream":
                found[key] = sorted(str(fields) for _, fields in await entries(store, key))
    found["read"] = (await client.xpending(OUTBOX, keys.GROUP))["pending"]
    return {str(key): value for key, value in found.items() if value}


async def acknowledge(ledger: RedisLedger) -> Call:
    found = [await records(ledger.store, "old", user) for user in (ANA, BO)]
    items = [Taken(r.user, [r.entry], r.spent, r.period, Cost(9, 99, 999)) for r in found]
    return lambda: ledger.acknowledge(items)


async def bury(ledger: RedisLedger) -> Call:
    record = await records(ledger.store, "old")
    items, letter = [Taken(ANA, [record.entry], record.spent, record.period)], Letter(ask("old"), START_MS, "refused")
    return lambda: ledger.acknowledge(items, letter)


async def requeue(ledger: RedisLedger) -> Call:
    entry = await letter_entry(ledger.store)
    return lambda: ledger.requeue(ask("buried"), entry)


async def discard(ledger: RedisLedger) -> Call:
    entry = await letter_entry(ledger.store)
    return lambda: ledger.discard(ANA, entry)


async def reconcile(ledger: RedisLedger) -> Call:
    waiting = await entries(ledger.store, OUTBOX)
    nothing_of_hers = Found(len(waiting), str(waiting[-1][0], "ascii"), [])
    letters = Found(1, await letter_entry(ledger.store), [])
    return lambda: ledger.reconcile(ANA, nothing_of_hers, letters)


def plain(call: Callable[[RedisLedger], Awaitable[object]]) -> Prepare:
    """A call that needs to know nothing of what is there."""

    async def prepare(ledger: RedisLedger) -> Call:
        return lambda: call(ledger)

    return prepare


CALLS: dict[str, tuple[int, Prepare]] = {
    "reserve": (START_MS, plain(lambda ledger: ledger.reserve(ask("new")))),
    "reserve when leases are due": (LATER_MS, plain(lambda ledger: ledger.reserve(ask("new")))),
    "settle": (START_MS, plain(lambda ledger: ledger.settle(ask("streaming"), Cost(1, 10, 200), START_MS))),
    "settle what is noted": (START_MS, plain(lambda ledger: ledger.settle(ask("late"), Cost(1, 10, 200), START_MS))),
    "settle what nobody knows": (
        START_MS,
        plain(lambda ledger: ledger.settle(ask("lost"), Cost(1, 10, 200), START_MS)),
    ),
    "settle a job": (
        START_MS,
        plain(lambda ledger: ledger.settle_job(ask("streaming"), Cost(1, 10, 200), START_MS, "resp_1")),
    ),
    "extend": (START_MS, plain(lambda ledger: ledger.extend(ask("streaming"), 350, 100, 120, START_MS))),
    "extend what is noted": (START_MS, plain(lambda ledger: ledger.extend(ask("late"), 300, 100, 120, START_MS))),
    "extend when leases are due": (LATER_MS, plain(lambda ledger: ledger.extend(ask("due"), 300, 9, 70, START_MS))),
    "extend what others have": (
        LATER_MS,
        plain(lambda ledger: ledger.extend(replace(ask("gone"), input_tokens=60_000), 300, 0, -1, START_MS)),
    ),
    "expire": (LATER_MS, plain(lambda ledger: ledger.expire(ANA))),
    "expire of one who settled all": (LATER_MS, plain(lambda ledger: ledger.expire(BO))),
    "expire all": (LATER_MS + 2 * 3_600_000, plain(lambda ledger: ledger.expire(ANA))),
    "refresh": (START_MS, plain(lambda ledger: ledger.refresh(ANA, Quota((600, 1, 1), (3, 0, 0)), -1))),
    "forget": (START_MS, plain(lambda ledger: ledger.forget_limits(ANA))),
    "acknowledge": (START_MS, acknowledge),
    "bury": (START_MS, bury),
    "requeue": (START_MS, requeue),
    "discard": (START_MS, discard),
    "reconcile": (START_MS, reconcile),
}


@pytest.mark.parametrize("clock_ms", [0, -5000], ids=["", "clock_went_back"])
@pytest.mark.parametrize("name", CALLS)
async def test_each_command_fails_once(ledger: RedisLedger, name: str, clock_ms: int) -> None:
    """Wherever it fails, nothing is left of it; called again, the books are those of a run without the failure."""
    moment, prepare = CALLS[name]
    await build(ledger)
    ledger.now_ms = moment + clock_ms
    untouched = await books(ledger.store)
    await (await prepare(ledger))()
    expected = await books(ledger.store)
    assert expected != untouched
    for n in count(1):
        await build(ledger)
        ledger.now_ms = moment + clock_ms
        call = await prepare(ledger)
        await ledger.store.command("FCALL", "fail_at", 0, n, key=b"")
        try:
            await call()
        except RedisUnavailable:
            # Records that are gone are acknowledged last; moments ahead of the clock may have been corrected.
            if name not in ("acknowledge", "bury") and not clock_ms:
                assert await books(ledger.store) == untouched, n
            await call()
            assert await books(ledger.store) == expected, n
        else:
            break
    assert n > 2
    await ledger.store.command("FCALL", "fail_at", 0, 0, key=b"")


@pytest.mark.parametrize("broken", [OUTBOX, keys.account_keys(ANA).leases])
async def test_a_key_of_another_type_costs_no_usage(ledger: RedisLedger, broken: bytes) -> None:
    """Somebody has put something else there; once it is put right the settlement is repeated, and complete."""
    await build(ledger)
    untouched = await books(ledger.store)
    client = ledger.store.client
    await client.rename(broken, "aside")
    await client.set(broken, "something else")
    with pytest.raises(RedisUnavailable):
        await ledger.settle(ask("streaming"), Cost(1, 10, 200), START_MS)
    await client.rename("aside", broken)
    assert await books(ledger.store) == untouched
    assert await ledger.settle(ask("streaming"), Cost(1, 10, 200), START_MS)
    assert (await records(ledger.store, "streaming")).spent == (1, 10, 200)
