"""The ledger in Lua and its twin in Python give the same answers, whatever happens in whatever order."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sentinel.cache import keys
from sentinel.cache.redis_ledger import Letter, RedisLedger, Taken, read_account
from sentinel.config import parse_rate_limits
from sentinel.limits import ledger as twin
from sentinel.limits.account import Account, Bill
from sentinel.limits.policy import SLICES, Cost, Policy, Quota, Reservation, Window
from sentinel.usage.batch import Record
from tests.support.metering import patient_store
from tests.support.streams import entries, read_one

USER = "ana"
LETTERS = keys.dead_letters(keys.account_keys(USER).partition)
START = 1_800_000_000_000
RATES = "ai_requests=7/60s,ai_requests=11/1h,ai_input_tokens=300/60s,ai_output_tokens=500/60s,concurrency=4"

ids = st.sampled_from([f"req_{n}" for n in range(12)])
tokens = st.integers(0, 200)
huge = st.sampled_from([0, 1, 5_000, 2**31 - 1, 2**31, 2**32 - 1, 2**32 + 7])
triples = st.tuples(st.integers(0, 3), tokens, tokens)
costs = triples.map(lambda numbers: Cost(*numbers))
unknown = st.integers(-1, 600)
steps = st.one_of(
    st.tuples(st.just("reserve"), ids, tokens, st.integers(0, 400), st.integers(0, 3), st.sampled_from([0, 20])),
    st.tuples(st.just("settle"), ids, costs, st.booleans()),
    st.tuples(st.just("extend"), ids, tokens, st.integers(-1, 200)),
    st.tuples(st.sampled_from(["expire", "forget"])),
    st.tuples(st.just("view")),
    st.tuples(st.just("bury")),
    st.tuples(st.sampled_from(["requeue", "discard"]), st.integers(0, 5)),
    st.tuples(
        st.just("refresh"),
        st.tuples(unknown, unknown, unknown),
        triples,
        st.tuples(*[st.sampled_from([0, 40_000, 100_000, 900_000])] * 3),
        st.integers(-1, 5),
    ),
    st.tuples(
        st.just("acknowledge"),
        st.tuples(unknown, unknown, unknown),
        st.tuples(*[st.sampled_from([-2, 50, 500])] * 3),
    ),
)
waits = st.sampled_from([0, 1, 37, 999, 1000, 4_999, 29_999, 30_000, 60_000, 61_000, 400_000, -1, -900, -70_000])
stories = st.lists(st.tuples(waits, steps), max_size=40)


def record_of(fields: dict[bytes, bytes]) -> tuple[str, tuple[int, int, int], int]:
    """The request id, sums and period of a usage record."""
    n, i, o, period, _ = (int(number) for number in struct.unpack("<5d", fields[b"sum"]))
    return json.loads(fields[b"who"])[0], (n, i, o), period


class Both:
    """One account in Redis and its twin, taken through the same steps."""

    def __init__(self, ledger: RedisLedger) -> None:
        self.redis = ledger
        self.account = Account()
        self.now = START
        self.redis.now_ms = START
        self.held: dict[str, int] = {}
        self.letters: list[tuple[str, Bill]] = []

    async def step(self, wait: int, step: tuple[Any, ...]) -> None:
        self.now += wait
        self.redis.now_ms = self.now
        if wait < 0:
            # What had left a window may be forgotten or not, and so come back with the clock.
            self.account.windows = {window.name: await self.stored(window) for window in self.redis.policy.windows}
        await getattr(self, step[0])(*step[1:])

    async def reserve(self, id_: str, inputs: int, outputs: int, least: int, fair: int) -> None:
        if id_ in self.account.leases or id_ in self.account.expired:
            return  # Ids are never used twice.
        ask = Reservation(id_, USER, "ana@corp.test", "m", inputs, outputs, least, fair)
        expected = twin.reserve(self.account, self.redis.policy, ask, self.now)
        assert await self.redis.reserve(ask) == expected
        self.held[id_] = expected.granted_output

    async def settle(self, id_: str, spent: Cost, unsure: bool = False) -> None:
        ask = Reservation(id_, USER, "ana@corp.test", "m", 0, 0)
        cost = 7 * spent.input + spent.output
        expected = twin.settle(
            self.account, self.redis.policy, ask, spent, self.now, unsure=unsure, cost_micro_usd=cost
        )
        assert await self.redis.settle(ask, spent, START, unsure=unsure, cost_micro_usd=cost) is expected

    async def extend(self, id_: str, more: int, sent: int) -> None:
        ask = Reservation(id_, USER, "ana@corp.test", "m", 5, self.held.get(id_, 0))
        expected = twin.extend(self.account, self.redis.policy, ask, more, sent, self.now)
        assert await self.redis.extend(ask, ask.output_tokens, more, sent, START) == expected
        self.held[id_] = ask.output_tokens if expected is None else expected

    async def expire(self) -> None:
        expected = twin.expire(self.account, self.redis.policy, self.now)
        assert await self.redis.expire(USER) == expected

    async def refresh(self, limit: Any, used: Any, ends: tuple[int, int, int], seq: int) -> None:
        r, i, o = (moment and START + moment for moment in ends)
        quota = Quota(limit, used, (r, i, o))
        twin.refresh(self.account, self.redis.policy, quota, seq, self.now)
        await self.redis.refresh(USER, quota, seq)

    async def forget(self) -> None:
        if await self.redis.forget_limits(USER):
            twin.forget(self.account, self.redis.policy, self.now)

    async def taken(self) -> tuple[str, Bill] | None:
        """A record of the outbox, on both sides; None where there is none."""
        taken = await read_one(self.redis.store, keys.account_keys(USER).outbox, keys.GROUP)
        if taken is None:
            assert not self.account.outbox
            return None
        entry, fields = taken
        # Leases that end in the same moment are billed in any order.
        bill = next(bill for bill in self.account.outbox if bill.id == record_of(fields)[0])
        self.account.outbox.remove(bill)
        assert record_of(fields) == (bill.id, bill.spent, bill.period)
        assert Record.read(0, entry, fields).cost_micro_usd == bill.cost_micro_usd
        return entry.decode(), bill

    async def acknowledge(self, new: Any, limit: Any) -> None:
        if taken := await self.taken():
            entry, bill = taken
            twin.acknowledge(self.account, self.redis.policy, bill.spent, bill.period, new, limit, self.now)
            assert await self.redis.acknowledge([Taken(USER, [entry], bill.spent, bill.period, new, limit)]) == 1

    async def bury(self) -> None:
        if taken := await self.taken():
            entry, bill = taken
            bill.at = self.now
            twin.bury(self.account, self.redis.policy, bill, self.now)
            letter = Letter(self.asked(bill), bill.at, "refused", bill.cost_micro_usd)
            assert await self.redis.acknowledge([Taken(USER, [entry], bill.spent, bill.period)], letter) == 1
            newest, _ = (await entries(self.redis.store, LETTERS))[-1]
            self.letters.append((newest.decode(), bill))

    async def requeue(self, which: int) -> None:
        if self.letters:
            entry, letter = self.letters.pop(which % len(self.letters))
            twin.requeue(self.account, self.redis.policy, letter, self.now)
            self.account.outbox.append(letter)
            assert await self.redis.requeue(self.asked(letter), entry)
            assert await self.redis.requeue(self.asked(letter), entry) is None

    async def discard(self, which: int) -> None:
        if self.letters:
            entry, letter = self.letters.pop(which % len(self.letters))
            twin.discard(self.account, self.redis.policy, letter, self.now)
            assert await self.redis.discard(USER, entry)
            assert not await self.redis.discard(USER, entry)

    def asked(self, bill: Bill) -> Reservation:
        return Reservation(bill.id, USER, "ana@corp.test", "m", 0, 0)

    async def view(self) -> None:
        """What a user may spend; asked for after each step, so that it is seen to change nothing."""
        before = await self.redis.store.command("GET", keys.account_keys(USER).account)
        expected = twin.view(self.account, self.redis.policy, self.now)
        assert await self.redis.view(USER) == expected
        assert await self.redis.store.command("GET", keys.account_keys(USER).account) == before

    async def state(self) -> dict[str, Any]:
        packed = await self.redis.store.command("GET", keys.account_keys(USER).account)
        return read_account(packed)

    async def stored(self, window: Window) -> dict[int, int]:
        first, *amounts = (await self.state())["w"].get(window.id) or [0]
        return {slice_: amount for slice_, amount in enumerate(amounts, first) if amount}

    async def compare(self) -> None:
        state = await self.state()
        for window in self.redis.policy.windows:
            oldest = window.slice_of(self.now) - SLICES
            stored = {s: amount for s, amount in (await self.stored(window)).items() if s >= oldest}
            live = {s: amount for s, amount in self.account.windows.get(window.name, {}).items() if s >= oldest}
            assert stored == live, window.name
        await self.view()
        for name in ("held", "pend", "blind", "letters", "n", "rolled", "seq", "ask", "open", "lease", "last"):
            assert state[name] == getattr(self.account, name), name


@pytest.fixture(scope="module")
def runner(store_url: str) -> Iterator[tuple[asyncio.Runner, RedisLedger]]:
    """An event loop for the whole module, and a ledger that lives on it."""
    policy = Policy.of(parse_rate_limits(RATES), lease_seconds=30, fresh_seconds=300, stale_seconds=600)
    with asyncio.Runner() as runner:

        async def opened() -> RedisLedger:
            store = patient_store(store_url)
            await store.start()
            return RedisLedger(store, policy)

        ledger = runner.run(opened())
        yield runner, ledger
        runner.run(ledger.store.close())


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(story=stories)
def test_the_script_and_its_twin_agree(runner: tuple[asyncio.Runner, RedisLedger], story: list[Any]) -> None:
    """Any sequence of steps leaves the same account and gives the same verdicts in Redis and in Python."""

    async def play() -> None:
        ledger = runner[1]
        await ledger.store.command("FLUSHALL")
        await ledger.store.client.xgroup_create(keys.account_keys(USER).outbox, keys.GROUP, "0", mkstream=True)
        both = Both(ledger)
        await both.refresh((50, 5000, 5000), (0, 0, 0), (100_000, 100_000, 0), 0)
        for wait, step in story:
            await both.step(wait, step)
            await both.compare()

    runner[0].run(play())


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(story=st.lists(st.tuples(waits, st.tuples(st.sampled_from(["reserve", "settle"]), ids, huge)), max_size=30))
def test_they_agree_on_sums_that_need_wider_slices(
    runner: tuple[asyncio.Runner, RedisLedger], story: list[Any]
) -> None:
    """Sums of a window go beyond 31 bits and back, and no slice loses a token."""
    rates = "ai_requests=1000/60s,ai_input_tokens=20000000000/60s,ai_output_tokens=9000000000/1h"
    policy = Policy.of(parse_rate_limits(rates), lease_seconds=30, fresh_seconds=300, stale_seconds=600)

    async def play() -> None:
        ledger = RedisLedger(runner[1].store, policy)
        await ledger.store.command("FLUSHALL")
        both = Both(ledger)
        await both.refresh((-1, -1, -1), (0, 0, 0), (0, 0, 0), 0)
        for wait, (kind, id_, amount) in story:
            step = (
                ("reserve", id_, amount, amount // 3, 1, 0)
                if kind == "reserve"
                else ("settle", id_, Cost(1, amount, 1))
            )
            await both.step(wait, step)
            await both.compare()

    runner[0].run(play())


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(story=st.lists(st.tuples(st.integers(0, 70_000), steps.filter(lambda s: s[0] != "refresh")), max_size=40))
def test_nothing_is_granted_while_no_limits_are_known(
    runner: tuple[asyncio.Runner, RedisLedger], story: list[Any]
) -> None:
    """Whatever is asked of an account that Zion has never spoken of, in Redis and in Python: no request, no token."""

    async def play() -> None:
        ledger = runner[1]
        await ledger.store.command("FLUSHALL")
        await ledger.store.client.xgroup_create(keys.account_keys(USER).outbox, keys.GROUP, "0", mkstream=True)
        both = Both(ledger)
        for wait, step in story:
            await both.step(wait, step)
            ask = Reservation("req_more", USER, "ana@corp.test", "m", 1, 1)
            assert not (await ledger.reserve(ask)).quota_known
            for id_, lease in both.account.leases.items():
                # As much as the request said that it holds, or was delivered or billed before.
                assert lease.cost[2] <= max(both.held.get(id_, 0), lease.delivered, lease.billed[2])
            assert not (await ledger.view(USER)).known

    runner[0].run(play())
