"""Places for the questions of strangers: bounded, shared out among addresses, given on, and never lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from sentinel.cache.bulkhead import Bulkhead
from sentinel.error import ZionUnavailable


class Visitors:
    """Tasks that each hold a place until they are told to go."""

    def __init__(self, bulkhead: Bulkhead) -> None:
        self.bulkhead = bulkhead
        self.inside: list[str] = []
        self.refused: list[str] = []
        self.tasks: list[tuple[str, asyncio.Task[None], asyncio.Event]] = []

    async def come(self, address: str, count: int = 1) -> None:
        for _ in range(count):
            go = asyncio.Event()
            self.tasks.append((address, asyncio.create_task(self._visit(address, go)), go))
        await asyncio.sleep(0)

    async def _visit(self, address: str, go: asyncio.Event) -> None:
        try:
            await self.bulkhead.enter(address)
        except ZionUnavailable:
            self.refused.append(address)
            return
        try:
            self.inside.append(address)
            await go.wait()
            self.inside.remove(address)
        finally:
            self.bulkhead.leave(address)

    async def each(self, do: Callable[[asyncio.Task[None], asyncio.Event], object]) -> None:
        for _, task, go in self.tasks:
            do(task, go)
            for _ in range(3):
                await asyncio.sleep(0)
        await asyncio.gather(*(task for _, task, _ in self.tasks), return_exceptions=True)


@pytest.fixture
def visitors() -> Visitors:
    return Visitors(Bulkhead(8, 12))


async def test_one_address_never_has_all(visitors: Visitors) -> None:
    """A quarter of the places is for others, and so is a quarter of the queue; what is too much is refused."""
    await visitors.come("10.0.0.1", 100)
    assert (len(visitors.inside), len(visitors.refused)) == (6, 100 - 6 - 9)
    assert not visitors.bulkhead.has_place("10.0.0.1")
    assert visitors.bulkhead.has_place("10.0.0.2")
    await visitors.come("10.0.0.2", 2)
    assert visitors.inside.count("10.0.0.2") == 2
    await visitors.each(lambda _, go: go.set())
    assert len(visitors.refused) == 85


async def test_the_next_place_is_for_who_has_the_fewest(visitors: Visitors) -> None:
    """However many others came before."""
    await visitors.come("10.0.0.1", 15)
    await visitors.come("10.0.0.2", 2)
    await visitors.come("10.0.0.3", 1)
    assert "10.0.0.3" not in visitors.inside
    visitors.tasks[0][2].set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert "10.0.0.3" in visitors.inside


@pytest.mark.parametrize("end", ["leaves", "cancelled"])
async def test_no_place_is_lost(visitors: Visitors, end: str) -> None:
    """Whether those inside and those who wait go by themselves or are cancelled, in whatever order."""
    for address in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "::1"):
        await visitors.come(address, 9)
    await visitors.each(lambda task, go: go.set() if end == "leaves" else task.cancel())
    fresh = Visitors(visitors.bulkhead)
    for address in ("10.0.0.8", "10.0.0.9"):
        await fresh.come(address, 4)
    assert len(fresh.inside) == 8
    await fresh.each(lambda _, go: go.set())


async def test_a_place_given_to_who_is_cancelled_goes_on(visitors: Visitors) -> None:
    """Between the gift and the thanks."""
    await visitors.come("10.0.0.1", 8)
    visitors.tasks[0][2].set()
    await asyncio.sleep(0)
    visitors.tasks[6][1].cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(visitors.inside) == 6
    await visitors.each(lambda _, go: go.set())


async def test_whoever_has_just_left_gets_no_place(visitors: Visitors) -> None:
    """The first in the queue is cancelled in the moment in which a place becomes free: it goes to the second."""
    await visitors.come("10.0.0.1", 8)
    visitors.tasks[6][1].cancel()
    visitors.tasks[0][2].set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(visitors.inside) == 6
    assert not visitors.refused
    await visitors.each(lambda _, go: go.set())


async def test_all_of_a_network_are_one(visitors: Visitors) -> None:
    """In IPv6 everybody has 64 bits; an IPv4 address in IPv6's clothes stays what it is."""
    for host in range(20):
        await visitors.come(f"2001:db8::{host:x}")
    assert len(visitors.inside) == 6
    assert visitors.bulkhead.has_place("2001:db8:0:1::1")
    await visitors.come("::ffff:10.0.0.1", 2)
    assert visitors.inside.count("::ffff:10.0.0.1") == 2
    await visitors.each(lambda _, go: go.set())


@pytest.mark.parametrize("address", [None, "", "unix:"])
async def test_who_has_no_address_is_somebody_too(visitors: Visitors, address: str) -> None:
    """A socket of the file system has none."""
    await visitors.come(address, 20)
    assert len(visitors.inside) == 6
    await visitors.each(lambda _, go: go.set())
