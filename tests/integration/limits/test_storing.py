"""How an account is written: its numbers alone while older slices stay as they are; and how long it is kept then.

About: `limits/lua/ledger.lua`.
"""

from __future__ import annotations

import pytest

from sentinel.cache import keys
from sentinel.cache.redis_ledger import read_account
from sentinel.config import parse_rate_limits
from sentinel.limits.policy import ACCOUNT_MS, Cost, Policy
from tests.integration.limits.conftest import Caller, MakeLedger

START_MS = 1_800_000_000_000
SLICE_MS, MINUTE_MS = 1000, 60_000
SHORT_MS = 50_000


@pytest.mark.parametrize("rates", ["ai_requests=100/60s,ai_output_tokens=5000/60s", "concurrency=9"])
async def test_the_first_of_a_minute_sets_the_time_to_live(make_ledger: MakeLedger, caller: Caller, rates: str) -> None:
    """All that comes in the same minute, and slice, writes the numbers alone, and leaves the rest as it is."""
    policy = Policy.of(parse_rate_limits(rates), lease_seconds=600, fresh_seconds=600, stale_seconds=600)
    ledger = await make_ledger(policy)
    account = keys.account_keys(caller.name).account
    ledger.now_ms = START_MS
    await caller.known(ledger)
    for n in range(3):
        ledger.now_ms = START_MS + n * SLICE_MS
        assert (await ledger.reserve(caller.ask(1, 10))).admitted

    async def seen() -> tuple[int, dict[str, list[int]], int]:
        now = read_account(await ledger.store.command("GET", account))
        return now["open"], now["w"], int(await ledger.store.client.pttl(account))

    _, before, _ = await seen()
    await ledger.store.command("PEXPIRE", account, SHORT_MS)
    ask = caller.ask(1, 10)
    assert (await ledger.reserve(ask)).admitted
    opened, windows, ttl_ms = await seen()
    assert (opened, ttl_ms <= SHORT_MS) == (4, True)
    assert [of[:-1] for of in windows.values()] == [of[:-1] for of in before.values()]
    assert [of[-1] for of in windows.values()] == [2 * of[-1] for of in before.values()]

    assert await ledger.settle(ask, Cost(1, 1, 7), ledger.now_ms)
    opened, _, ttl_ms = await seen()
    assert (opened, ttl_ms <= SHORT_MS) == (3, True)

    ledger.now_ms = START_MS + MINUTE_MS
    assert await ledger.settle(caller.ask(), Cost(1, 1, 7), ledger.now_ms)
    assert (await seen())[2] > ACCOUNT_MS - MINUTE_MS
