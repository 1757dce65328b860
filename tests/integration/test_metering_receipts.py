"""A 2xx is a receipt only if it says so: anything else is looked into, and nothing is billed twice or forgotten.

About: `usage/batch_store.py`, `usage/receipts.py`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from sentinel.cache import keys
from sentinel.dev.zion import BATCH, INCREMENT, ZionSimulator
from sentinel.zion.client import ZionClient
from tests.support.metering import Books, open_books, other_zion, scripted
from tests.support.waiting import until

ANA, BO = "ana@corp.test", "bo@corp.test"


def envelope(**data: Any) -> bytes:
    return json.dumps({"success": True, "data": data}).encode()


ODD = {
    "page": b"<html><body>We will be back soon</body></html>",
    "nothing": b"",
    "null": b"null",
    "list": b"[]",
    "text": b"ok",
    "other JSON": b'{"status":"ok"}',
    "no envelope": b'{"data":{"processed":2,"failed":0,"results":[]}}',
    "all failed": envelope(processed=0, failed=2, results=[]),
    "one failed": envelope(processed=1, failed=1),
    "too few": envelope(processed=1, failed=0, results=[]),
    "too many": envelope(processed=7),
    "counts of text": envelope(processed="two", failed=0),
    "results of a wrong type": envelope(processed=2, failed=0, results=7),
    "results of wrong types": envelope(processed=2, failed=0, results=["a", "b"]),
    "somebody else's": envelope(processed=2, failed=0, results=[{"email": "x@y.z", "success": True}] * 2),
    "cut": b'{"success":true,"data":{"processed":2',
    "no UTF-8": b'{"success":true,"data":{"\xff":2}}',
    "nested": b"[" * 100_000,
}

RECEIPTS = {
    "no results": envelope(processed=2, failed=0, results=[]),
    "no counts": envelope(),
    "nothing but success": b'{"success":true}',
    "processed with the failed": envelope(processed=2, failed=0),
    "null results": envelope(processed=2, failed=0, results=None),
    "results without counts": envelope(results=[{"email": ANA, "success": True}, {"email": BO, "success": True}]),
    "e-mail in another case": envelope(processed=2, results=[{"email": e.upper(), "success": True} for e in (ANA, BO)]),
    "by external id": envelope(processed=2, results=[{"externalId": "ana", "success": True}] * 2),
}


@pytest.fixture
async def books(store_url: str, zion_url: str, simulator: ZionSimulator) -> AsyncIterator[Books]:
    async with open_books(store_url, zion_url, simulator) as books:
        for email in (ANA, BO):
            await books.user(email)
            await books.spend(email)
        yield books


@pytest.mark.parametrize("name", ODD)
async def test_an_odd_yes_to_what_was_not_booked(books: Books, name: str) -> None:
    """Something between us and Zion said 200: the usage is told again, once, and the odd receipt is counted."""
    books.simulator.faults.set(status=200, body=ODD[name], times=1, path_prefix=BATCH)
    outbox = books.outbox()
    await books.told(outbox)
    assert books.booked() == books.owed
    assert len(books.reports()) == 2
    assert (outbox.delivered.odd, outbox.delivered.ambiguous, outbox.delivered.dead) == (1, 0, 0)


@pytest.mark.parametrize("name", ODD)
async def test_an_odd_yes_to_what_was_booked(books: Books, simulator: ZionSimulator, name: str) -> None:
    """Zion has booked it and answers oddly: `used` shows that, and nothing is told again."""

    def answer(path: str, headers: dict[str, str], body: Any) -> tuple[int, Any]:
        _book(books, body)
        return 200, ODD[name]

    with other_zion(scripted(answer, simulator)) as url:
        books.zion = ZionClient(url, simulator.api_key)
        outbox = books.outbox()
        await books.told(outbox)
    assert _used(books) == _counts_owed(books)
    assert (outbox.delivered.odd, outbox.delivered.ambiguous) == (1, 0)


@pytest.mark.parametrize("name", RECEIPTS)
async def test_a_receipt_is_a_receipt(books: Books, simulator: ZionSimulator, name: str) -> None:
    """Every shape that the contract knows is taken at its word, without a question."""
    asked = len(simulator.calls)

    def answer(path: str, headers: dict[str, str], body: Any) -> tuple[int, Any]:
        _book(books, body)
        return 200, RECEIPTS[name]

    with other_zion(scripted(answer, simulator)) as url:
        books.zion = ZionClient(url, simulator.api_key)
        outbox = books.outbox()
        await books.told(outbox)
    assert _used(books) == _counts_owed(books)
    assert outbox.delivered.odd == 0
    assert len(simulator.calls) == asked


async def test_an_odd_yes_that_nobody_can_look_into_counts_as_taken(books: Books) -> None:
    """Others spend from the same subscriptions meanwhile: after a 2xx a second report is the likelier error."""
    for email in (ANA, BO):
        for metric in ("ai_requests", "ai_input_tokens", "ai_output_tokens"):
            books.simulator.user(email).used[metric] += 1000
    books.simulator.faults.set(status=200, body=b"ok", times=1, path_prefix=BATCH)
    outbox = books.outbox()
    await books.told(outbox)
    assert len(books.reports()) == 1
    assert (outbox.delivered.odd, outbox.delivered.ambiguous) == (1, 2)


async def test_a_successor_knows_of_an_odd_yes(books: Books) -> None:
    """Whoever takes over looks into it in the same way."""
    for email in (ANA, BO):
        books.simulator.user(email).used["ai_requests"] += 1000
        books.simulator.user(email).used["ai_input_tokens"] += 1000
        books.simulator.user(email).used["ai_output_tokens"] += 1000
    books.simulator.faults.set(status=200, body=b"ok", times=1, path_prefix=BATCH)
    victim = books.outbox("victim")
    await victim.flush()
    await victim._ownership.release(idle=True)
    successor = books.outbox("successor")
    await books.told(successor)
    assert len(books.reports()) == 1
    assert successor.delivered.ambiguous == 2


async def test_a_page_for_everything_is_waited_out(books: Books) -> None:
    """While something answers 200 with a page to every call nothing counts as taken, however long that lasts."""
    books.timings = replace(books.timings, patience_seconds=0.05)
    books.simulator.faults.set(status=200, body=ODD["page"])
    outbox = books.outbox()

    async def asked(times: int) -> bool:
        await outbox.flush()
        return len(books.simulator.calls) >= times

    # The report, and two rounds of questions after the patience is over.
    await until(lambda: asked(6))
    assert await books.waiting() == 2
    books.simulator.faults.clear()
    await books.told(outbox)
    assert books.booked() == books.owed
    assert outbox.delivered.ambiguous == 0


@pytest.mark.parametrize("body", [b"", b"ok", b'{"status":"ok"}', b'{"success":true,"data":7}'])
async def test_single_reports_have_receipts_too(books: Books, body: bytes) -> None:
    """Without the batch call the same holds for each item."""
    books.simulator.batch_endpoint_missing = True
    books.simulator.faults.set(status=200, body=body, times=1, path_prefix=INCREMENT)
    outbox = books.outbox()
    await books.told(outbox)
    assert books.booked() == books.owed
    assert outbox.delivered.odd == 1
    assert await books.store.command("HLEN", keys.batches()) == 0


def _book(books: Books, body: Any) -> None:
    """As Zion does."""
    for item in body["increments"]:
        used = books.simulator.user(item["email"]).used
        used["ai_requests"] += item.get("aiRequests", 0)
        used["ai_input_tokens"] += item.get("aiInputTokens", 0)
        used["ai_output_tokens"] += item.get("aiOutputTokens", 0)


def _counts_owed(books: Books) -> dict[str, int]:
    """What is owed of that which `used` shows: Zion says to nobody what was spent in money."""
    return {name: amount for name, amount in books.owed.items() if not name.endswith(" cost_micro_usd")}


def _used(books: Books) -> dict[str, int]:
    return {
        f"{email} {metric}": amount for email in (ANA, BO) for metric, amount in books.simulator.used(email).items()
    }
