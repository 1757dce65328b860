"""Batches whose answer did not come: Zion's own numbers tell whether it took them.

About: `usage/confirmation.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from sentinel.dev.server import Server
from sentinel.dev.zion import BATCH, LIMITS, ZionSimulator
from sentinel.limits.policy import Cost
from sentinel.usage.outbox import Outbox
from sentinel.zion.client import ZionClient
from tests.support.metering import QUICK, Books, open_books, other_zion, scripted
from tests.support.waiting import until

ANA, BO, CY, DI, ED = (f"{name}@corp.test" for name in ("ana", "bo", "cy", "di", "ed"))
EMAILS = (ANA, BO, CY, DI, ED)


@pytest.fixture
async def books(store_url: str, zion_url: str, simulator: ZionSimulator) -> AsyncIterator[Books]:
    timings = replace(QUICK, patience_seconds=0.3)
    async with open_books(store_url, zion_url, simulator, timings, timedelta(seconds=0.3)) as books:
        for email in EMAILS:
            await books.user(email, used={"ai_requests": 3, "ai_input_tokens": 500})
            await books.spend(email, Cost(1, 12, 7))
        yield books


def keys_of(books: Books) -> list[str]:
    return [call.headers["idempotency-key"] for call in books.reports()]


def bodies(books: Books) -> list[Any]:
    return [call.body for call in books.reports()]


def spend_elsewhere(books: Books, email: str, **amounts: int) -> None:
    """Somebody else spends from the same subscription."""
    for metric, amount in amounts.items():
        books.simulator.user(email).used[metric] += amount


def break_next(books: Books, **fault: Any) -> None:
    books.simulator.faults.set(times=1, path_prefix=BATCH, **fault)


@pytest.mark.parametrize("fault", [{"apply_then_drop": True}, {"apply_then_delay_seconds": 5.0}], ids=str)
async def test_what_was_taken_is_not_sent_again(books: Books, fault: dict[str, Any]) -> None:
    """Zion booked all and did not say so: nothing is sent a second time, and nobody is in doubt."""
    break_next(books, **fault)
    outbox = books.outbox()
    await books.told(outbox)
    assert books.booked() == books.owed
    assert len(books.reports()) == 1
    assert (outbox.delivered.taken, outbox.delivered.ambiguous) == (5, 0)


@pytest.mark.parametrize("fault", [{"drop": True}, {"delay_seconds": 5.0}, {"status": 500}, {"status": 504}], ids=str)
async def test_what_was_not_taken_is_sent_again(books: Books, fault: dict[str, Any]) -> None:
    """Zion booked nothing: the same items go again under the same key."""
    break_next(books, **fault)
    outbox = books.outbox()
    await books.told(outbox)
    assert books.booked() == books.owed
    assert len(set(keys_of(books))) == 1
    assert bodies(books)[0] == bodies(books)[1]
    assert outbox.delivered.ambiguous == 0


@pytest.mark.parametrize("taken", range(6))
@pytest.mark.parametrize("ending", ["drop", "status"])
async def test_half_a_batch(books: Books, simulator: ZionSimulator, taken: int, ending: str) -> None:
    """Zion stopped in the middle of a batch: the rest is sent, the beginning is not."""
    asked = iter([True])

    def answer(path: str, headers: dict[str, str], body: Any) -> tuple[int, Any] | None:
        if not next(asked, False):
            return None
        for item in body["increments"][:taken]:
            spend_elsewhere(books, item["email"], ai_requests=1, ai_input_tokens=12, ai_output_tokens=7)
        return (500, {}) if ending == "status" else (0, b"")

    with other_zion(_dropping(scripted(answer, simulator))) as url:
        books.zion = ZionClient(url, simulator.api_key)
        outbox = books.outbox()
        await books.told(outbox)
    for email in EMAILS:
        assert simulator.used(email) == {"ai_requests": 4, "ai_input_tokens": 512, "ai_output_tokens": 7}
    assert outbox.delivered.ambiguous == 0


@pytest.mark.parametrize("silence", ["no results", "no answer"])
async def test_what_zion_took_without_a_word_is_in_its_next_word(books: Books, silence: str) -> None:
    """Usage of which Zion did not tell its new value is not counted beside a later value that has it."""
    emails = [await books.user(f"s{number}@corp.test") for number in range(40)]
    outbox = books.outbox()

    async def tell(some: list[str]) -> None:
        for email in some:
            await books.spend(email, Cost(1, 20, 3))
        await books.told(outbox)
        assert books.booked() == books.owed

    if silence == "no results":
        books.simulator.results_style = "empty"
    else:
        break_next(books, apply_then_drop=True)
    await tell(emails)
    books.simulator.results_style = "full"
    await tell(emails)
    for some in (emails[5:17], emails[20:21], emails):
        break_next(books, apply_then_drop=True)
        await tell(some)
    assert outbox.delivered.ambiguous == 0


async def test_a_stranger_who_spends_little_hides_nothing(books: Books) -> None:
    """Too little growth for our item says that it was not booked, whoever made it grow."""
    for email in EMAILS:
        spend_elsewhere(books, email, ai_requests=4)
    break_next(books, drop=True)
    outbox = books.outbox()
    await books.told(outbox)
    assert books.booked() == books.owed
    assert outbox.delivered.ambiguous == 0


@pytest.mark.parametrize("taken", [True, False])
async def test_neighbours_tell_for_those_who_cannot(books: Books, taken: bool) -> None:
    """Users whose numbers tell nothing are decided by those before and behind them in the batch."""
    for email in (ANA, CY, ED):
        spend_elsewhere(books, email, ai_requests=40, ai_input_tokens=400, ai_output_tokens=400)
    break_next(books, **({"apply_then_drop": True} if taken else {"drop": True}))
    outbox = books.outbox()
    order = await _order(books, outbox)
    await books.told(outbox)
    owed = books.owed
    if taken:
        # The last of the batch could not tell, and nobody behind it.
        last = [email for email in order if email in (BO, DI)][-1]
        unknown = order[order.index(last) + 1 :]
    else:
        unknown = order[: order.index(next(email for email in order if email in (BO, DI)))]
    assert outbox.delivered.ambiguous == len(unknown)
    booked = books.booked()
    for email in EMAILS:
        twice = taken and email in unknown
        assert booked[f"{email} ai_requests"] == owed[f"{email} ai_requests"] * (2 if twice else 1)


async def test_what_stays_in_doubt_is_sent_again_and_counted(books: Books) -> None:
    """When nobody's numbers tell, the same items go again under the same key, which a Zion may know."""
    for email in EMAILS:
        spend_elsewhere(books, email, ai_requests=40, ai_input_tokens=400, ai_output_tokens=400)
    books.simulator.dedupe = True
    break_next(books, apply_then_drop=True)
    outbox = books.outbox()
    await books.told(outbox)
    assert books.booked() == books.owed
    assert len(set(keys_of(books))) == 1
    assert bodies(books)[0] == bodies(books)[1]
    assert outbox.delivered.ambiguous == 5


@pytest.mark.parametrize("status", [404, 500])
async def test_a_zion_that_does_not_tell_limits_is_not_waited_for(books: Books, status: int) -> None:
    """Without numbers all stays in doubt, and is sent again after a while."""
    outbox = books.outbox()
    break_next(books, drop=True)
    await outbox.flush()
    books.simulator.faults.set(status=status, path_prefix=LIMITS)
    await books.told(outbox)
    assert books.booked() == books.owed
    assert outbox.delivered.ambiguous == 5


async def test_a_zion_that_is_away_is_waited_for(books: Books, zion_url: str) -> None:
    """While nothing answers at all, a batch in doubt stays where it is, however long that takes."""
    server = Server(books.simulator.app, "127.0.0.1", 0).start()
    books.zion = ZionClient(server.url, books.simulator.api_key)
    outbox = books.outbox()
    break_next(books, apply_then_drop=True)
    await outbox.flush()
    server.stop()

    async def tried_long() -> bool:
        await outbox.flush()
        return (
            bool(outbox._scheduler.held)
            and outbox._scheduler.held[0].unconfirmed_since < outbox._scheduler.pause_until - 1.5
        )

    await until(tried_long)
    server.start()
    await books.told(outbox)
    server.stop()
    assert books.booked() == books.owed
    assert outbox.delivered.ambiguous == 0


async def test_an_ended_period_leaves_doubt(books: Books) -> None:
    """A `used` that went down tells nothing: the items are sent again and counted."""
    break_next(books, drop=True)
    outbox = books.outbox()
    await outbox.flush()
    for email in EMAILS:
        books.simulator.user(email).used["ai_input_tokens"] = 0
    await books.told(outbox)
    assert outbox.delivered.ambiguous == 5


async def test_each_caller_spends_on_while_one_batch_is_in_doubt(books: Books) -> None:
    """What comes while a batch is in doubt is sent after it, so that the numbers stay clear."""
    break_next(books, apply_then_drop=True)
    outbox = books.outbox()
    await outbox.flush()
    for email in EMAILS:
        await books.spend(email, Cost(1, 12, 7))
    await books.told(outbox)
    assert books.booked() == books.owed
    assert outbox.delivered.ambiguous == 0


async def test_single_reports_may_be_in_doubt_too(books: Books) -> None:
    """The same holds where Zion has no batch call."""
    books.simulator.batch_endpoint_missing = True
    outbox = books.outbox()
    books.simulator.faults.set(apply_then_drop=True, times=2, path_prefix="/api/v1/usage/external/increment")
    await books.told(outbox)
    assert books.booked() == books.owed
    assert outbox.delivered.ambiguous == 0


async def _order(books: Books, outbox: Outbox) -> list[str]:
    """The callers in the order in which the next batch will have them."""
    await outbox._look()
    outbox._records.sweep(outbox._ownership.owned)
    held = await outbox._next()
    assert held is not None
    return [item.email for item in held.batch.items]


def _dropping(app: Any) -> Any:
    """The app, except that an answer with status 0 cuts the connection."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        async def cutting(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] == 0:
                await scope["extensions"]["sentinel.connection"].cut()
            else:
                with contextlib.suppress(RuntimeError):
                    await send(message)

        await app(scope, receive, cutting)

    return wrapped
