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
WIDE = 2**31
"""A window that holds so much has eight bytes for each slice, else four."""


def policy_of(rates: str) -> Policy:
    """Leases and Zion's word last longer than a test turns the clock."""
    return Policy.of(parse_rate_limits(rates), lease_seconds=600, fresh_seconds=600, stale_seconds=600)


@pytest.mark.parametrize("rates", ["ai_requests=100/60s,ai_output_tokens=5000/60s", "concurrency=9"])
async def test_the_first_of_a_minute_sets_the_time_to_live(make_ledger: MakeLedger, caller: Caller, rates: str) -> None:
    """All that comes in the same minute leaves it as it is; in the same slice it writes the numbers alone."""
    ledger = await make_ledger(policy_of(rates))
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

    ledger.now_ms += SLICE_MS
    assert (await ledger.reserve(caller.ask(1, 10))).admitted
    opened, _, ttl_ms = await seen()
    assert (opened, ttl_ms <= SHORT_MS) == (4, True)

    ledger.now_ms = START_MS + MINUTE_MS
    assert await ledger.settle(caller.ask(), Cost(1, 1, 7), ledger.now_ms)
    assert (await seen())[2] > ACCOUNT_MS - MINUTE_MS


async def test_a_row_that_got_shorter_is_written_anew(make_ledger: MakeLedger, caller: Caller) -> None:
    """A window that needs eight bytes for a slice, and then four, leaves nothing behind its last slice."""
    ledger = await make_ledger(policy_of(f"ai_output_tokens={10 * WIDE}/60s"))
    account = keys.account_keys(caller.name).account
    ledger.now_ms = START_MS
    await caller.known(ledger)
    asks = [caller.ask(1, output) for output in (10, WIDE, 10, 10)]
    lengths = []
    for ask in asks:
        ledger.now_ms += SLICE_MS
        assert (await ledger.reserve(ask)).admitted
        lengths.append(int(await ledger.store.command("STRLEN", account)))
    assert [length - lengths[0] for length in lengths] == [0, 8, 16, 24]
    assert await ledger.settle(asks[1], Cost(1, 1, 7), ledger.now_ms)
    assert int(await ledger.store.command("STRLEN", account)) == lengths[0] + 12
    [window] = read_account(await ledger.store.command("GET", account))["w"].values()
    assert window[-4:] == [10, 7, 10, 10]


@pytest.mark.parametrize("each", [10, WIDE], ids=["narrow", "wide"])
async def test_what_was_taken_from_an_older_slice_goes_back_to_it(
    make_ledger: MakeLedger, caller: Caller, each: int
) -> None:
    """Requests that last longer than a slice give back where they took, never more than is there."""
    ledger = await make_ledger(policy_of(f"ai_output_tokens={10 * WIDE}/60s"))
    account = keys.account_keys(caller.name).account
    ledger.now_ms = START_MS
    await caller.known(ledger)
    asks = [caller.ask(1, each) for _ in range(4)]
    for ask in asks:
        ledger.now_ms += SLICE_MS
        assert (await ledger.reserve(ask)).admitted

    async def slices() -> list[int]:
        [window] = read_account(await ledger.store.command("GET", account))["w"].values()
        return list(window[-4:])

    assert await ledger.settle(asks[1], Cost(1, 1, 3), ledger.now_ms)
    assert await slices() == [each, 3, each, each]
    assert await ledger.settle(asks[0], Cost(1, 1, 0), ledger.now_ms)
    assert await slices() == [0, 3, each, each]
