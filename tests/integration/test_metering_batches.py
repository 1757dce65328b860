"""Records become batches, and every answer of Zion is understood: nothing told twice, nothing forgotten.

About: `usage/delivery.py`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sentinel.dev.zion import BATCH, INCREMENT, ZionSimulator
from sentinel.limits.policy import Cost
from sentinel.usage.dead_letters import DeadLetters
from sentinel.zion.client import ZionClient
from tests.support.metering import Books, open_books, other_zion, scripted
from tests.support.waiting import until

ANA, BO, CY = "ana@corp.test", "bo@corp.test", "cy@corp.test"


@pytest.fixture
async def books(store_url: str, zion_url: str, simulator: ZionSimulator) -> AsyncIterator[Books]:
    async with open_books(store_url, zion_url, simulator) as books:
        for email in (ANA, BO, CY):
            await books.user(email)
        yield books


def batches(books: Books) -> list[list[dict[str, Any]]]:
    return [call.body["increments"] for call in books.reports() if call.path == BATCH]


def keys_of(books: Books) -> list[str]:
    return [call.headers["idempotency-key"] for call in books.reports()]


async def test_usage_is_summed_up_by_caller_and_model(books: Books) -> None:
    """One item for each e-mail and model, with the earliest moment, without metrics that are zero."""
    await books.spend(ANA, Cost(1, 12, 7), at_ms=1_770_000_001_500)
    await books.spend(BO, Cost(1, 5, 0), at_ms=1_770_000_002_000)
    await books.spend(ANA, Cost(1, 30, 2), at_ms=1_770_000_000_250)
    await books.spend(ANA, Cost(1, 1, 1), "gpt-4o", at_ms=1_770_000_003_000)
    await books.spend(CY, Cost(0, 0, 9), at_ms=1_770_000_004_000)
    await books.told(books.outbox())
    (items,) = batches(books)
    stamp = "2026-02-02T02:40:0"
    assert sorted(items, key=str) == sorted(
        [
            {"email": ANA, "aiRequests": 2, "aiInputTokens": 42, "aiOutputTokens": 9, "costMicroUsd": 303}
            | {"model": "gpt-4o-mini", "timestamp": f"{stamp}0.250Z"},
            {"email": ANA, "aiRequests": 1, "aiInputTokens": 1, "aiOutputTokens": 1, "costMicroUsd": 8}
            | {"model": "gpt-4o", "timestamp": f"{stamp}3.000Z"},
            {"email": BO, "aiRequests": 1, "aiInputTokens": 5, "costMicroUsd": 35}
            | {"model": "gpt-4o-mini", "timestamp": f"{stamp}2.000Z"},
            {"email": CY, "aiOutputTokens": 9, "costMicroUsd": 9}
            | {"model": "gpt-4o-mini", "timestamp": f"{stamp}4.000Z"},
        ],
        key=str,
    )


async def test_what_cost_nothing_is_not_told(books: Books) -> None:
    """A request that cost nothing is no item, and an empty list is never sent."""
    await books.spend(ANA, Cost(0, 0, 0))
    await books.told(books.outbox())
    assert books.reports() == []


async def test_a_batch_has_a_thousand_items_at_most(books: Books) -> None:
    """2,100 callers are told in as few calls as Zion takes, each of them once."""
    for number in range(2100):
        books.simulator.add_user(f"u{number}@corp.test", external_id=f"u{number}")
        await books.spend(f"u{number}@corp.test")
    await books.told(books.outbox())
    sizes = [len(items) for items in batches(books)]
    assert max(sizes) <= 1000
    assert len(sizes) <= 4
    assert books.booked() == books.owed


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 503},
        {"status": 429},
        {"status": 502, "body": b"<html>bad gateway</html>"},
        {"status": 401},
        {"status": 409},
        {"drop": True},
    ],
    ids=str,
)
async def test_a_retry_is_the_same_batch_under_the_same_key(books: Books, fault: dict[str, Any]) -> None:
    """Whatever a report failed with, it is sent again as it was; what was spent meanwhile goes in another."""
    await books.spend(ANA)
    await books.spend(BO)
    outbox = books.outbox()
    books.simulator.faults.set(**fault, times=2, path_prefix=BATCH)
    assert not await outbox.flush()
    await books.spend(ANA, Cost(1, 100, 50))
    await books.told(outbox)
    first, *later = batches(books)
    assert [items for items in later if items[0] == first[0]] == [first] * 2
    same = [key for items, key in zip(batches(books), keys_of(books), strict=True) if items == first]
    assert len(same) == 3
    assert len(set(same)) == 1
    assert books.booked() == books.owed
    assert outbox.delivered.ambiguous == 0


@pytest.mark.parametrize("style", ["no_limit_name", "empty", "garbage", "old_shape"])
async def test_what_zion_has_booked_is_not_told_again_whatever_the_answer(books: Books, style: Any) -> None:
    """A 200 with results that we do not understand, or none, is not answered with a second report."""
    books.simulator.results_style = style
    await books.spend(ANA)
    await books.spend(BO)
    outbox = books.outbox()
    await books.told(outbox)
    assert len(books.reports()) == 1
    assert books.booked() == books.owed
    assert outbox.delivered.odd == (style == "garbage")


async def test_a_no_with_status_200_is_a_no(books: Books) -> None:
    """Zion's own `success: false` is a refusal although HTTP says 200: told again, not forgotten."""
    books.simulator.faults.set(
        body=b'{"success":false,"error":{"code":"X","message":"no"}}', times=1, path_prefix=BATCH
    )
    await books.spend(ANA)
    await books.told(books.outbox())
    assert books.booked() == books.owed


@pytest.mark.parametrize("value", ["2", "date"])
async def test_retry_after_is_obeyed(books: Books, value: str) -> None:
    """As seconds or as a date: no call before that moment, whatever else waits."""
    # The first call comes to Zion after this moment, however long that takes.
    earliest = time.time() + 2
    if value == "date":
        earliest = float(int(time.time()) + 3)
        value = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(earliest))
    books.simulator.faults.set(status=429, retry_after=value, times=1, path_prefix=BATCH)
    await books.spend(ANA)
    outbox = books.outbox()
    await outbox.flush()
    await books.spend(BO)
    await books.told(outbox)
    _, second, *_ = books.reports()
    assert second.at >= earliest - 0.1
    assert books.booked() == books.owed


async def test_a_retry_after_that_is_no_ascii_is_none(books: Books) -> None:
    """A gateway's odd header is no exception to what a refusal means."""
    books.simulator.faults.set(status=503, retry_after="\xff", times=1, path_prefix=BATCH)
    await books.spend(ANA)
    outbox = books.outbox()
    await outbox.flush()
    await books.told(outbox)
    assert books.booked() == books.owed


async def test_failures_are_spaced_out(books: Books) -> None:
    """While Zion fails the pauses grow."""
    books.simulator.faults.set(status=503, path_prefix=BATCH)
    await books.spend(ANA)
    outbox = books.outbox()

    async def tried(times: int) -> bool:
        await outbox.flush()
        return len(books.reports()) >= times

    await until(lambda: tried(4))
    gaps = [b.at - a.at for a, b in zip(books.reports(), books.reports()[1:], strict=False)]
    assert gaps[0] >= 0.025
    assert gaps[2] >= 0.1
    books.simulator.faults.clear()
    await books.told(outbox)
    assert books.booked() == books.owed


@pytest.mark.parametrize("status", [404, 405])
async def test_without_the_batch_call_items_go_one_by_one(books: Books, status: int) -> None:
    """Where Zion has no batch call each item goes alone, under a key of its own, and the batch call is left alone."""
    books.simulator.faults.set(status=status, path_prefix=BATCH)
    for email in (ANA, BO, CY):
        await books.spend(email)
    outbox = books.outbox()
    await books.told(outbox)
    await books.spend(ANA)
    await books.told(outbox)
    assert [call.path for call in books.reports()] == [BATCH] + [INCREMENT] * 4
    assert len(set(keys_of(books)[1:])) == 4
    assert books.booked() == books.owed


async def test_single_reports_are_retried_alone(books: Books) -> None:
    """Without the batch call a failure repeats one item, not those before it."""
    books.simulator.batch_endpoint_missing = True
    for email in (ANA, BO, CY):
        await books.spend(email)
    outbox = books.outbox()
    books.simulator.faults.set(status=500, times=1, path_prefix=INCREMENT)
    await books.told(outbox)
    assert books.booked() == books.owed
    assert max(Counter(keys_of(books)).values()) == 2


async def test_only_the_refused_item_is_told_again(books: Books, simulator: ZionSimulator) -> None:
    """Of two items of one caller that differ in their model only the refused one is told again."""
    told: list[list[dict[str, Any]]] = []

    def answer(path: str, headers: dict[str, str], body: Any) -> tuple[int, Any] | None:
        told.append(body["increments"])
        if len(told) > 1:
            return None
        results = [{"email": item["email"], "success": item["model"] != "gpt-4o"} for item in body["increments"]]
        return 200, {"success": True, "data": {"processed": 3, "failed": 1, "results": results}}

    await books.spend(ANA)
    await books.spend(ANA, Cost(1, 40, 4), "gpt-4o")
    await books.spend(BO)
    with other_zion(scripted(answer, simulator)) as url:
        books.zion = ZionClient(url, simulator.api_key)
        await books.told(books.outbox())
    assert [(item["email"], item["model"]) for item in told[1]] == [(ANA, "gpt-4o")]
    assert len(told) == 2


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_batch_at_fault_is_halved(books: Books, simulator: ZionSimulator, status: int) -> None:
    """The item that makes Zion refuse the whole is found by halving; all others are booked once, at once."""
    for number in range(40):
        await books.user(f"h{number}@corp.test")
        await books.spend(f"h{number}@corp.test")

    def answer(path: str, headers: dict[str, str], body: Any) -> tuple[int, Any] | None:
        items = body.get("increments", [body])
        return (status, {"success": False}) if any(item["email"] == "h17@corp.test" for item in items) else None

    with other_zion(scripted(answer, simulator)) as url:
        books.zion = ZionClient(url, simulator.api_key)
        outbox = books.outbox()
        await outbox.flush()
        good = Counter({key: value for key, value in books.owed.items() if not key.startswith("h17@")})
        assert books.booked() == good
        await books.told(outbox)
    assert books.booked() == good
    assert outbox.delivered.dead == 1


@pytest.mark.parametrize("how", ["refused", "unknown", "crashes"])
async def test_poison_blocks_nobody(books: Books, simulator: ZionSimulator, how: str) -> None:
    """An item that Zion refuses, does not know, or crashes on, ends among the dead letters; the others are told."""

    def answer(path: str, headers: dict[str, str], body: Any) -> tuple[int, Any] | None:
        poisoned = any(item["email"] == CY for item in body.get("increments", [body]))
        return (500, {"success": False}) if poisoned and how == "crashes" else None

    if how == "refused":
        simulator.refused_emails.add(CY)
    if how == "unknown":
        del simulator._users[CY]
    await books.spend(CY, Cost(1, 3, 4))
    books.forgive(CY)
    with other_zion(scripted(answer, simulator)) as url:
        books.zion = ZionClient(url, simulator.api_key)
        outbox = books.outbox()

        async def buried() -> bool:
            # Others go on spending: only then can poison be told from a Zion that is down.
            await books.spend(ANA)
            await books.spend(BO)
            await outbox.flush()
            return outbox.delivered.dead == 1

        await until(buried)
        await books.told(outbox)
    assert books.booked() == books.owed
    (letter,) = [letter async for letter in DeadLetters(books.ledger).all()]
    assert letter.record is not None
    assert (letter.record.email, letter.record.spent) == (CY, (1, 3, 4))
    assert letter.reason


async def test_poison_that_keeps_coming_blocks_nobody(books: Books, simulator: ZionSimulator) -> None:
    """A caller whose every item makes Zion crash, in every batch, delays the others a little, and only at first."""

    def answer(path: str, headers: dict[str, str], body: Any) -> tuple[int, Any] | None:
        return (500, {}) if any(item["email"] == CY for item in body.get("increments", [body])) else None

    emails = [ANA, BO, *(f"p{number}@corp.test" for number in range(20))]
    for email in emails[2:]:
        await books.user(email)
    with other_zion(scripted(answer, simulator)) as url:
        books.zion = ZionClient(url, simulator.api_key)
        outbox = books.outbox()

        async def told(rounds: int, dead: int = 0) -> bool:
            for email in [CY, *emails]:
                await books.spend(email)
            await outbox.flush()
            return len(simulator.applied) >= rounds * len(emails) and outbox.delivered.dead >= dead

        await until(lambda: told(1))
        started, before = time.monotonic(), len(simulator.applied)
        await until(lambda: told(before // len(emails) + 10))
        assert time.monotonic() - started < 10
        await until(lambda: told(0, dead=1))
        books.forgive(CY)

        async def all_told() -> bool:
            await outbox.flush()
            return books.booked() == books.owed

        await until(all_told)
    assert len(outbox._scheduler.held) < 20


async def test_a_zion_that_takes_no_usage_at_all_buries_nobody(books: Books) -> None:
    """While every report fails, although Zion tells limits, all waits; nothing is given up, little is taken apart."""
    for number in range(30):
        await books.user(f"w{number}@corp.test")
        await books.spend(f"w{number}@corp.test")
    books.simulator.faults.set(status=500, path_prefix=BATCH)
    outbox = books.outbox()

    async def failed(times: int) -> bool:
        await outbox.flush()
        return outbox.delivered.failures >= times

    await until(lambda: failed(8))
    assert outbox.delivered.dead == 0
    books.simulator.faults.clear()
    await books.told(outbox)
    assert books.booked() == books.owed
    assert len(books.reports()) < 30


async def test_zion_is_not_flooded(books: Books) -> None:
    """However many calls are needed, they come at the pace that the operator allows."""
    books.simulator.batch_endpoint_missing = True
    for number in range(30):
        await books.user(f"f{number}@corp.test")
        await books.spend(f"f{number}@corp.test")
    started = time.time()
    await books.told(books.outbox(calls_per_second=20))
    calls = books.reports()
    assert len(calls) > 30
    # A call may arrive late, which is no flood: so each is held against the start, not against the one before it.
    assert all(call.at - started >= number / 20 - 0.01 for number, call in enumerate(calls))


async def test_something_else_in_the_stream_stops_nobody(books: Books) -> None:
    """An entry that is no record is passed over, with a line in the log."""
    await books.store.command("XADD", "sentinel:{3}:outbox", "*", "x", "y")
    await books.spend(ANA)
    outbox = books.outbox()
    await until(outbox.flush)
    assert books.booked() == books.owed
