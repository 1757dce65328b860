"""A budget for all: whoever comes, in whatever order, it is kept, shared out, given back, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import random

import pytest

from sentinel.memory_budget import SMALL_BYTES, Claim, MemoryBudget
from tests.support.waiting import PATIENCE_SECONDS, until

MB = 1024 * 1024
MOST = 16 * MB
BODY = 6 * MB
STEP = 64 * 1024


class _Connection:
    """A client that sends its body as fast as it is read; stalls: but for the last byte."""

    def __init__(self, memory: MemoryBudget, user: str, size: int = BODY, *, stalls: bool = False) -> None:
        self.memory, self.claim, self.left = memory, memory.claim(size), size
        self.size, self.stalls = size, stalls
        self.came = asyncio.Event()
        self.reading: asyncio.Handle | None = None
        self.evicted = self.given_up = False
        self.claim.belongs_to(user)

    def resume_reading(self) -> None:
        self.reading = asyncio.get_running_loop().call_soon(self._read)

    def pause_reading(self) -> None:
        if self.reading is not None:
            self.reading.cancel()

    def give_up_head(self) -> None:
        self.given_up = True
        self.memory.head_ended(self)

    def give_way(self) -> None:
        self.evicted = True
        self.memory.closed(self)

    def _read(self) -> None:
        count = min(STEP, self.left - self.stalls)
        self.left -= count
        if count > 0:
            self.claim.took(count)
            self.came.set()

    async def receive(self) -> None:
        """Read all of it."""
        while self.left:
            self.came.clear()
            self.claim.read_on(self)
            await self.came.wait()
        self.claim.keep(self.size)


@pytest.fixture
async def memory() -> MemoryBudget:
    return MemoryBudget(MOST, (3, 5))


async def _served(connection: _Connection, seconds: float = 0.0) -> None:
    await connection.receive()
    await asyncio.sleep(seconds)
    connection.claim.release()


@pytest.mark.parametrize("users", [1, 24])
async def test_all_are_served_and_the_budget_is_kept(memory: MemoryBudget, users: int) -> None:
    """Twenty-four bodies of a third of the budget each, which begin together, of one user or of many."""
    peak = 0

    async def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, memory.held_bytes)
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(*(_served(_Connection(memory, f"u{n % users}")) for n in range(24)))
    watching.cancel()
    share = MOST if users > 1 else MOST * 3 // 8
    assert share / 2 < peak <= share + BODY + STEP
    assert memory.held_bytes == 0


async def test_who_stalls_holds_a_share_and_no_more(memory: MemoryBudget) -> None:
    """One user's bodies that never end leave the others theirs."""
    stalled = [asyncio.create_task(_Connection(memory, "mallory", stalls=True).receive()) for _ in range(24)]
    await asyncio.sleep(0.1)
    assert memory.held_bytes <= MOST * 3 // 8 + BODY + STEP
    async with asyncio.timeout(PATIENCE_SECONDS):
        await _served(_Connection(memory, "ana", 2 * MB))
    for task in stalled:
        task.cancel()


async def test_small_ones_pass_where_large_ones_wait(memory: MemoryBudget) -> None:
    """The last quarter is theirs."""
    stalled = [asyncio.create_task(_Connection(memory, f"m{n}", stalls=True).receive()) for n in range(24)]
    await until(lambda: memory.held_bytes >= MOST * 3 // 4 - STEP, "three quarters held")
    async with asyncio.timeout(PATIENCE_SECONDS):
        await _served(_Connection(memory, "ana", 100_000))
    for task in stalled:
        task.cancel()


async def test_a_body_that_may_exceed_takes_nothing_from_small_ones(memory: MemoryBudget) -> None:
    """One that is larger than the last quarter, while it comes and while its provider works."""
    large = _Connection(memory, "eve", MOST)
    await large.receive()
    assert memory.held_bytes == MOST
    small = [_Connection(memory, f"u{n}", MB // 2) for n in range(MOST // 4 * 2 // MB)]
    was_full = []
    for connection in small:
        was_full.append(memory.is_full)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await connection.receive()
    assert not any(was_full)
    last = _Connection(memory, "ana", 400_000)
    late = asyncio.create_task(last.receive())
    await until(lambda: memory.is_full, "somebody who waits")
    assert not late.done()
    for connection in small:
        connection.claim.release()
    assert not memory.is_full
    async with asyncio.timeout(PATIENCE_SECONDS):
        await late
    last.claim.release()
    large.claim.release()
    assert memory.held_bytes == 0


async def test_a_whole_body_is_waited_for(memory: MemoryBudget) -> None:
    """What others wait for is given back when a body that is whole is done with, and only then."""
    first = [_Connection(memory, user) for user in ("ana", "bob")]
    await asyncio.gather(*(connection.receive() for connection in first))
    later = asyncio.create_task(_served(_Connection(memory, "cid")))
    await asyncio.sleep(0.1)
    assert not later.done()
    assert memory.held_bytes <= MOST * 3 // 4 + SMALL_BYTES
    first[0].claim.release()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await later
    first[1].claim.release()
    assert memory.held_bytes == 0


async def test_room_for_what_comes_out_of_a_body(memory: MemoryBudget) -> None:
    """It is waited for, taken, corrected and given back; who gives up waiting has taken nothing."""
    one, other, ahead = memory.claim(), memory.claim(), memory.claim()
    for claim, user in ((one, "ana"), (other, "bob"), (ahead, "cid")):
        claim.belongs_to(user)
    await one.room(8 * MB)
    # Two that are unfinished could wait for each other; a third one waits for them.
    await ahead.room(8 * MB)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await other.room(8 * MB)
    assert other.waited
    assert (memory.held_bytes, other.bytes) == (16 * MB, 0)
    one.keep(MB)
    ahead.release()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await other.room(8 * MB)
    assert memory.held_bytes == 9 * MB
    one.release()
    other.release()
    other.release()
    assert memory.held_bytes == 0


async def test_whatever_happens_nobody_waits_for_ever() -> None:
    """Bodies of all sizes, of few users, some cancelled midway, some held for a while: all end, nothing stays."""
    chance = random.Random(7)
    for _ in range(20):
        memory = MemoryBudget(MOST)
        tasks = []
        for _ in range(chance.randrange(1, 60)):
            size = chance.choice([1000, 100_000, MB, 3 * MB, BODY, MOST, 2 * MOST])
            connection = _Connection(memory, f"u{chance.randrange(4)}", size)
            task = asyncio.create_task(_held(connection, chance.random() / 100))
            tasks.append(task)
            if chance.random() < 0.2:
                asyncio.get_running_loop().call_later(chance.random() / 50, task.cancel)
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() / 100)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*tasks, return_exceptions=True)
        assert memory.held_bytes == 0
        assert not memory._users
        assert not memory._waiting


async def _held(connection: _Connection, seconds: float) -> None:
    try:
        await connection.receive()
        await asyncio.sleep(seconds)
    finally:
        connection.claim.release()


class TestHeads:
    """Heads that are not there yet."""

    async def test_the_oldest_gives_way(self, memory: MemoryBudget) -> None:
        """Until there are few enough bytes of them."""
        connections = [_Connection(memory, "x") for _ in range(4)]
        for connection in connections:
            memory.head_grew(connection, MOST // 8 // 3)
        assert [connection.given_up for connection in connections] == [True, False, False, False]
        memory.head_grew(connections[3], MOST // 8)
        assert [connection.given_up for connection in connections] == [True, True, True, False]
        memory.head_ended(connections[3])
        assert memory.held_bytes == 0


class TestConnections:
    """More than there may be."""

    async def test_unfinished_heads_before_idle_ones_before_newcomers(self, memory: MemoryBudget) -> None:
        """Who is being served is left alone."""
        head, old, young, *more = (_Connection(memory, "x") for _ in range(8))
        for connection in (old, young, head):
            memory.opened(connection)
        memory.resting.pop(head)
        memory.head_grew(head, 10)
        memory.opened(more[0])
        assert head.evicted
        memory.opened(more[1])
        assert (old.evicted, young.evicted) == (True, False)
        for connection in (young, *more[:2]):
            memory.resting.pop(connection)
        memory.opened(more[2])
        assert more[2].evicted
        assert not young.evicted

    async def test_those_to_providers_are_connections_too(self, memory: MemoryBudget) -> None:
        """Where they have all files one that rests gives way; and where none does no further one is made."""
        resting, served, newcomer = (_Connection(memory, "x") for _ in range(3))
        memory.opened(resting)
        memory.to_providers = lambda: 3
        memory.opened(served)
        memory.resting.pop(served)
        assert memory.makes_room_for_provider()
        assert resting.evicted
        memory.to_providers = lambda: 4
        assert not memory.makes_room_for_provider()
        assert not served.evicted
        memory.opened(newcomer)
        assert newcomer.evicted
        memory.to_providers = lambda: 3
        assert memory.makes_room_for_provider()


async def test_memory_is_to_be_given_back_once(memory: MemoryBudget) -> None:
    """After much was let go, not each time that somebody asks."""
    claim: Claim = memory.claim()
    assert not memory.has_shrunk()
    claim.took(12 * MB)
    assert not memory.has_shrunk()
    claim.release()
    assert memory.has_shrunk()
    assert not memory.has_shrunk()
