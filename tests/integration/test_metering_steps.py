"""However much is delivered at once, no turn of the event loop takes long: a request would have to wait for its end.

About: `steps.py`, and who does things in steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

import pytest

from sentinel.dev.zion import BATCH, ZionSimulator
from sentinel.usage import partition_ownership
from sentinel.usage.batch import MOST_ITEMS
from sentinel.usage.reconciliation import Reconciler
from tests.support.metering import QUICK, Books, open_books
from tests.support.turns import TimedSelector
from tests.support.waiting import until

MOST_SECONDS = 0.0009
"""Three times the 0.3 ms of DESIGN section 15: this machine does other things meanwhile. It was 4 ms."""
ROUNDS = 4
NOBODY = 99_999_999
"""A process id that no process has."""

USERS = [f"user{number}@corp.test" for number in range(MOST_ITEMS)]
RECORDS = 4000
Work = Callable[[], Awaitable[object]]


async def spend(books: Books, users: Iterable[str]) -> None:
    await asyncio.gather(*map(books.spend, users))


async def many_items(books: Books) -> Work:
    """Zion answers a thousand results."""
    await spend(books, USERS)
    outbox = books.outbox()
    return lambda: until(outbox.flush)


async def many_records(books: Books) -> Work:
    """Of few users."""
    for _ in range(RECORDS // 100):
        await spend(books, USERS[:100])
    outbox = books.outbox()
    return lambda: until(outbox.flush)


async def no_answer(books: Books) -> Work:
    """What became of a batch is found out."""
    await spend(books, USERS)
    books.simulator.faults.set(times=1, path_prefix=BATCH, drop=True)
    outbox = books.outbox()
    return lambda: until(outbox.flush)


async def dead_predecessor(books: Books) -> Work:
    """It has left a batch that was sent, and records that were read."""
    await spend(books, USERS)
    books.simulator.faults.set(times=1, path_prefix=BATCH, drop=True)
    await books.outbox(process=f"{partition_ownership.place()}|{NOBODY}|1").flush()
    outbox = books.outbox()
    return lambda: until(outbox.flush)


async def doubtful_accounts(books: Books) -> Work:
    """They are held against all records that wait."""
    for _ in range(RECORDS // 100):
        await spend(books, USERS[:100])
    books.ledger.doubtful.update(user.partition("@")[0] for user in USERS[:100])
    return Reconciler(books.ledger).reconcile


async def depth(books: Books) -> Work:
    """How much waits, for the metrics."""
    await spend(books, USERS)
    return books.outbox().depth


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(
    "scenario",
    [many_items, many_records, no_answer, dead_predecessor, doubtful_accounts, depth],
    ids=lambda one: one.__name__,
)
def test_no_turn_is_long(
    scenario: Callable[[Books], Awaitable[Work]], store_url: str, zion_url: str, simulator: ZionSimulator
) -> None:
    """Whatever there is to do."""
    selector = TimedSelector()

    async def best() -> float:
        found = []
        timings = replace(QUICK, unconfirmed_seconds=0.01, poll_seconds=0.05)
        async with open_books(store_url, zion_url, simulator, timings) as books:
            await asyncio.gather(*map(books.user, USERS))
            for _ in range(ROUNDS):
                work = await scenario(books)
                # What is left of the preparations is not measured.
                await asyncio.sleep(0)
                selector.begin()
                await work()
                found.append(selector.longest)
                await books.told(books.outbox())
            assert books.booked() == books.owed
        return min(found)

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        assert runner.run(best()) < MOST_SECONDS
