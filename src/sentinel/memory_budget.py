"""What a process holds of requests that it is not done with: connections, unfinished heads, bodies. Bounded in sum.

A body is counted as it comes (a `Claim`). Where three quarters of the budget are taken, bodies of over a megabyte are
read no further until something is given back; the last quarter is for the small ones, and where that is gone, too,
newcomers are refused. No user has more than half of what the large ones may take. Each body is held as far as it was
read, so unfinished ones could wait for one another for ever: where they alone fill a budget, the oldest goes on.

Heads that stay unfinished are closed when there are too many bytes of them, and so are connections when there are too
many: the oldest unfinished head first, then whoever has rested for longest.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

MOST_BYTES = 128 * 1024 * 1024
MOST_CONNECTIONS = 60_000
"""Where nobody says."""
UNCOUNTED_BYTES = 8 * 1024
"""Heads and bodies up to this are not counted one by one; a connection costs as much by itself."""
SMALL_BYTES = 1024 * 1024
"""A body, or what comes out of one, that may have of the last quarter."""
_STEP_BYTES = 64 * 1024
_MUCH_BYTES = 8 * 1024 * 1024
"""Once so much has been given back the system is to have it again."""
_SCAN_SECONDS = 0.005
"""Between two looks at who may go on: there may be thousands."""


class Connection(Protocol):
    """A client's connection, as far as it can be held up or closed."""

    def resume_reading(self) -> None:
        """Read on."""

    def pause_reading(self) -> None:
        """Read no further."""

    def give_up_head(self) -> None:
        """Refuse a request whose head is not there yet; there are too many such bytes."""

    def give_way(self) -> None:
        """Close at once: others need the place. What is unfinished is told so."""


class _Pool:
    """A budget. held: all bytes; unfinished: of bodies that are not there yet. ahead: goes on though it is full."""

    __slots__ = ("ahead", "claims", "held", "most", "unfinished")

    def __init__(self, most: int) -> None:
        self.most = most
        self.claims = 0
        self.held = self.unfinished = 0
        self.ahead: Claim | None = None

    def add(self, claim: Claim, count: int) -> None:
        self.held += count
        if not claim.is_whole:
            self.unfinished += count

    def drop(self, claim: Claim) -> None:
        self.add(claim, -claim.bytes)
        self.leave(claim)

    def leave(self, claim: Claim) -> None:
        if self.ahead is claim:
            self.ahead = None

    def lets_pass(self, claim: Claim, need: int, *, first: bool) -> bool:
        """Whether this one goes on: there is room, or it is the first in line where only unfinished ones are held."""
        if self.held + need <= self.most or self.ahead is claim:
            return True
        if first and self.ahead is None and self.unfinished + need > self.most:
            self.ahead = claim
            return True
        return False


class Claim:
    """What is held of one request. is_whole: it grows no more. waited: it was held up for the sake of others."""

    __slots__ = (
        "_connection",
        "_go",
        "_memory",
        "bytes",
        "is_over",
        "is_whole",
        "need",
        "number",
        "pool",
        "user",
        "waited",
    )

    def __init__(self, memory: MemoryBudget, number: int) -> None:
        self.bytes = 0
        self.is_whole = self.is_over = self.waited = False
        self.number = number
        self.need = 0
        self.pool: _Pool | None = None
        self.user = ""
        self._memory = memory
        self._connection: Connection | None = None
        self._go: Callable[[], None] | None = None

    def took(self, count: int) -> None:
        """So many bytes have come, or, below zero, gone."""
        if not self.is_over:
            self._memory.add(self, count)

    def belongs_to(self, user: str) -> None:
        """Count it as this user's."""
        self._memory.give_to(self, user)

    def read_on(self, connection: Connection) -> None:
        """Have more of it read, now or when there is room."""
        self._connection = connection
        self._memory.ask(self, _STEP_BYTES, connection.resume_reading, connection.pause_reading)

    async def room(self, need: int) -> None:
        """Wait until so many bytes more may be held, which are then taken."""
        if not self._memory.lets_pass(self, need, first=False):
            granted = asyncio.get_running_loop().create_future()

            def go() -> None:
                if not granted.done():
                    granted.set_result(None)

            self._memory.ask(self, need, go, lambda: None)
            try:
                await granted
            finally:
                self._memory.forget(self)
        self.took(need)

    def pause(self) -> None:
        """Read it no further for now."""
        if self._connection is not None:
            self._memory.ask(self, _STEP_BYTES, self._connection.resume_reading, self._connection.pause_reading)

    def wait(self, need: int, go: Callable[[], None]) -> None:
        """It is held up."""
        self.need, self._go, self.waited = need, go, True

    def go(self) -> None:
        """It may go on."""
        go, self._go = self._go, None
        if go is not None:
            go()

    def keep(self, count: int) -> None:
        """It is whole, and so many bytes are kept of it."""
        self.took(count - self.bytes)
        self._memory.finish(self)

    def release(self) -> None:
        """Nothing is held of it any more."""
        self._memory.release(self)


class MemoryBudget:
    """The bounds of one process. most_bytes: of bodies and finished heads; an eighth of that for unfinished heads.

    resting: connections on which nothing is asked, the longest first; each keeps itself in here.
    """

    def __init__(self, most_bytes: int = MOST_BYTES, most_connections: int = MOST_CONNECTIONS) -> None:
        self.most_bytes = most_bytes
        self._all = _Pool(most_bytes * 3 // 4)
        self._share = self._all.most // 2
        self._users: dict[str, _Pool] = {}
        self._number = 0
        self._most_lately = 0
        self._reading: set[Claim] = set()
        self._waiting: dict[int, Claim] = {}
        self._scan_is_due = False
        self._most_connections, self._connections = most_connections, 0
        self._most_head_bytes, self._head_bytes = most_bytes // 8, 0
        self._heads: OrderedDict[Connection, int] = OrderedDict()
        self.resting: OrderedDict[Connection, None] = OrderedDict()

    # ---------------------------------------------------------------------------------------------------- bodies

    @property
    def held_bytes(self) -> int:
        """Of bodies and of heads, finished and not."""
        return self._all.held + self._head_bytes

    def has_shrunk(self) -> bool:
        """Whether much was given back since this was last true; to be asked every second or so."""
        held = self.held_bytes
        self._most_lately = max(self._most_lately, held)
        if self._most_lately - held < _MUCH_BYTES:
            return False
        self._most_lately = held
        return True

    @property
    def is_full(self) -> bool:
        """Whether no body more can be taken."""
        return self._all.held >= self.most_bytes

    def claim(self) -> Claim:
        """For a request that has just come."""
        self._number += 1
        return Claim(self, self._number)

    def add(self, claim: Claim, count: int) -> None:
        """More, or less, is held of this one."""
        claim.bytes += count
        self._all.add(claim, count)
        if claim.pool is not None:
            claim.pool.add(claim, count)
        if self._reading:
            self._reading.discard(claim)
            if count > 0 and any(pool.held > pool.most for pool in self._pools(claim)):
                for other in list(self._reading):
                    if not self.lets_pass(other, _STEP_BYTES, first=False):
                        other.pause()
        if count < 0:
            self._scan_soon()

    def give_to(self, claim: Claim, user: str) -> None:
        """It is this user's."""
        pool = self._users.get(user)
        if pool is None:
            pool = self._users[user] = _Pool(self._share)
        claim.pool, claim.user = pool, user
        pool.claims += 1
        pool.add(claim, claim.bytes)

    def lets_pass(self, claim: Claim, need: int, *, first: bool) -> bool:
        """Whether so much more may be held of it. first: nobody is before it in line."""
        if self._all.ahead is claim:
            return True
        if claim.pool is not None and not claim.pool.lets_pass(claim, need, first=first):
            return False
        is_small = claim.bytes + need <= SMALL_BYTES and self._all.held + need <= self.most_bytes
        return is_small or self._all.lets_pass(claim, need, first=first)

    def ask(self, claim: Claim, need: int, go: Callable[[], None], stop: Callable[[], None]) -> None:
        """Let it go on, now or later. stop: called where it has to wait."""
        if claim.number not in self._waiting and self.lets_pass(claim, need, first=False):
            self._reading.add(claim)
            go()
            return
        stop()
        self._reading.discard(claim)
        claim.wait(need, go)
        self._waiting[claim.number] = claim
        self._scan_soon()

    def finish(self, claim: Claim) -> None:
        """It is whole."""
        if not claim.is_whole:
            for pool in self._pools(claim):
                pool.unfinished -= claim.bytes
                pool.leave(claim)
            claim.is_whole = True
            self._scan_soon()

    def forget(self, claim: Claim) -> None:
        """It waits no more."""
        self._waiting.pop(claim.number, None)
        self._reading.discard(claim)

    def release(self, claim: Claim) -> None:
        """Give back all of it."""
        was_waiting = claim.number in self._waiting
        self.forget(claim)
        for pool in self._pools(claim):
            pool.drop(claim)
        if claim.pool is not None:
            claim.pool.claims -= 1
            if not claim.pool.claims:
                del self._users[claim.user]
        claim.bytes, claim.pool, claim.is_over = 0, None, True
        if was_waiting:
            # What still comes of it is thrown away.
            claim.go()
        self._scan_soon()

    def _pools(self, claim: Claim) -> list[_Pool]:
        return [self._all] if claim.pool is None else [self._all, claim.pool]

    def _scan_soon(self) -> None:
        if self._waiting and not self._scan_is_due:
            self._scan_is_due = True
            asyncio.get_running_loop().call_later(_SCAN_SECONDS, self._scan)

    def _scan(self) -> None:
        """Let those go on for whom there is room now: those of users within their share first, and then the oldest."""
        self._scan_is_due = False
        promised = 0
        for claim in sorted(self._waiting.values(), key=_by_turn):
            if promised and self._all.ahead is not claim and self._all.held + promised + claim.need > self._all.most:
                continue
            if self.lets_pass(claim, claim.need, first=True):
                promised += claim.need
                del self._waiting[claim.number]
                self._reading.add(claim)
                claim.go()
        if promised:
            self._scan_soon()

    # ------------------------------------------------------------------------------------- connections and heads

    def opened(self, connection: Connection) -> None:
        """There is one connection more. If these are too many one gives way, which may be this one."""
        self._connections += 1
        self.resting[connection] = None
        if self._connections > self._most_connections:
            next(iter(self._heads or self.resting)).give_way()

    def closed(self, connection: Connection) -> None:
        """There is one less."""
        self._connections -= 1
        self.head_ended(connection)
        self.resting.pop(connection, None)

    def head_grew(self, connection: Connection, size: int) -> None:
        """So many bytes have come of a head that is not there yet."""
        self._head_bytes += size - self._heads.get(connection, 0)
        self._heads[connection] = size
        while self._head_bytes > self._most_head_bytes:
            next(iter(self._heads)).give_up_head()

    def head_ended(self, connection: Connection) -> None:
        """It is there, or will not come."""
        self._head_bytes -= self._heads.pop(connection, 0)


def _by_turn(claim: Claim) -> tuple[bool, int]:
    return claim.pool is not None and claim.pool.held > claim.pool.most, claim.number
