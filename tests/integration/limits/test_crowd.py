"""Crowds: whatever the concurrency, exactly the limit is admitted, over all dimensions at once or not at all."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from sentinel.config import parse_rate_limits
from sentinel.limits.policy import Cost, Policy, Quota, Reservation, Verdict
from tests.integration.limits.conftest import Caller, MakeLedger

CROWD = 500
PROCESSES = 4


def policy_of(rates: str) -> Policy:
    return Policy.of(parse_rate_limits(rates), lease_seconds=60, fresh_seconds=300, stale_seconds=600)


async def crowd(
    make_ledger: MakeLedger, policy: Policy, caller: Caller, quota: Quota, asks: list[Reservation]
) -> list[Verdict]:
    """All ask at once, over the connections of several processes."""
    ledgers = [await make_ledger(policy) for _ in range(PROCESSES)]
    await caller.known(ledgers[0], quota)
    return await asyncio.gather(*(ledgers[n % PROCESSES].reserve(ask) for n, ask in enumerate(asks)))


@pytest.mark.parametrize(
    ("rates", "quota", "inputs", "output"),
    [
        ("ai_requests=50/60s", Quota(), 1, 1),
        ("", Quota((50, -1, -1)), 1, 1),
        ("", Quota((1050, -1, -1), (1000, 0, 0)), 1, 1),
        ("ai_input_tokens=560/60s", Quota(), 11, 1),
        ("", Quota((-1, 550, -1)), 11, 1),
        ("ai_output_tokens=850/60s", Quota(), 0, 17),
        ("", Quota((-1, -1, 900), (0, 0, 50)), 0, 17),
        ("concurrency=50", Quota(), 1, 1),
        ("ai_requests=60/60s,ai_input_tokens=550/1h,concurrency=70", Quota((55, 10_000, 51 * 17)), 11, 17),
    ],
    ids=["requests", "requests quota", "requests quota in use", "input", "input quota", "output", "output quota",
         "concurrency", "mixed"],
)  # fmt: skip
async def test_a_crowd_of_500_is_admitted_50_times(
    make_ledger: MakeLedger, caller: Caller, rates: str, quota: Quota, inputs: int, output: int
) -> None:
    """In each dimension, and where several limit together."""
    asks = [caller.ask(inputs, output, least=output) for _ in range(CROWD)]
    verdicts = await crowd(make_ledger, policy_of(rates), caller, quota, asks)
    assert sum(verdict.admitted for verdict in verdicts) == 50
    assert all(verdict.granted_output == output for verdict in verdicts if verdict.admitted)


async def test_a_refused_crowd_spends_nothing(make_ledger: MakeLedger, caller: Caller) -> None:
    """Not one byte of the user's state differs after a thousand refusals."""
    policy = policy_of("ai_requests=50/60s,ai_input_tokens=100000/60s,concurrency=1000")
    await crowd(make_ledger, policy, caller, Quota((-1, 10_000, -1)), [caller.ask(10) for _ in range(100)])
    ledger = await make_ledger(policy)
    before = await caller.stored(ledger)
    verdicts = await asyncio.gather(*(ledger.reserve(caller.ask(10)) for _ in range(1000)))
    assert not any(verdict.admitted for verdict in verdicts)
    assert await caller.stored(ledger) == before


async def test_a_crowd_shares_what_output_is_left(make_ledger: MakeLedger, caller: Caller) -> None:
    """Lowered or not, all grants together are the limit, and nobody is granted nothing."""
    asks = [caller.ask(0, 2**31 - 1, fair=40) for _ in range(CROWD)]
    verdicts = await crowd(make_ledger, policy_of(""), caller, Quota((-1, -1, 1000)), asks)
    grants = [verdict.granted_output for verdict in verdicts if verdict.admitted]
    assert sum(grants) == 1000
    assert min(grants) > 0
    assert len(grants) >= 10


async def test_crowds_of_two_users_do_not_touch(make_ledger: MakeLedger, caller: Caller) -> None:
    """Each has a limit of their own, also in the same partition."""
    policy = policy_of("ai_requests=50/60s")
    other = Caller(f"{caller.name}-other")
    both = [user.ask() for _ in range(200) for user in (caller, other)]
    ledger = await make_ledger(policy)
    await other.known(ledger)
    verdicts = await crowd(make_ledger, policy, caller, Quota(), both)
    admitted = [ask.user for ask, verdict in zip(both, verdicts, strict=True) if verdict.admitted]
    assert sorted(admitted) == sorted([caller.name] * 50 + [other.name] * 50)


async def test_a_crowd_that_settles_is_admitted_up_to_what_it_spends(make_ledger: MakeLedger, caller: Caller) -> None:
    """Reservations that come back are there for others, and in the end exactly the quota is spent, never more."""
    ledgers = [await make_ledger(policy_of("concurrency=20")) for _ in range(PROCESSES)]
    await caller.known(ledgers[0], Quota((-1, -1, 600)))
    spent = 0

    async def work(number: int) -> None:
        nonlocal spent
        ledger = ledgers[number % PROCESSES]
        for _ in range(40):
            ask = caller.ask(0, 10)
            verdict = await ledger.reserve(ask)
            if verdict.admitted:
                used = min(3, verdict.granted_output)
                spent += used
                await ledger.settle(ask, Cost(1, 0, used), verdict.now_ms)

    await asyncio.gather(*(work(number) for number in range(40)))
    assert spent == 600
    assert sum(bill[2] for bill in await caller.bills(ledgers[0])) == 600


@pytest.mark.parametrize("calls", [2, 20])
async def test_a_repeated_settlement_bills_once(make_ledger: MakeLedger, caller: Caller, calls: int) -> None:
    """Sent again by a process that had no answer, at once or over another connection."""
    ledgers = [await make_ledger(policy_of("concurrency=2")) for _ in range(2)]
    await caller.known(ledgers[0])
    ask = caller.ask(7, 5)
    verdict = await ledgers[0].reserve(ask)
    answers = await asyncio.gather(*(ledgers[n % 2].settle(ask, Cost(1, 7, 3), verdict.now_ms) for n in range(calls)))
    assert Counter(answers) == {True: 1, False: calls - 1}
    assert await caller.bills(ledgers[0]) == [(1, 7, 3)]
