"""The memory budget of a process: what it holds of connections, unfinished heads and bodies, bounded in sum.

Words:
- claim: what is held of one request, in bytes. It grows while the body comes, and is *whole* once it grows no more.
- pool: a bounded sum of claims. There is one of all claims, and one for each user who has a claim.
- exempt: the one claim of a pool that may go on although the pool is full.

Rules for bodies:
1. A body is counted as it comes, if it has more than `UNCOUNTED_BYTES`.
2. All claims together may have three quarters of the budget, and each user half of that. A body that would exceed one
   of the two is not read any further until something is given back (back-pressure).
3. The last quarter is for claims of up to `SMALL_BYTES`, if no more is declared, so that small requests pass where
   large ones wait, also where an exempt one holds more than three quarters leave. Where small ones have used it up, new
   requests are refused (`is_full`).
4. Who waits goes on in this order: claims of users within their share, then the others; the oldest first.
5. Nobody waits for ever. A body is held as far as it was read, so unfinished ones could wait for one another: where
   they alone fill a pool, the first in line becomes exempt until it is whole or released.

Rules for connections and heads:
6. Heads that are not whole may have an eighth of the budget. Beyond it the oldest of them is refused.
7. Beyond the most connections one is closed: that of the oldest unfinished head, else that which has rested longest.
8. With connections to providers there may be some more in all. Beyond it one of a client that is not being served gives
   way (rule 7); where all are, no further one to a provider is made.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

MOST_BYTES = 128 * 1024 * 1024
MOST_CONNECTIONS = 60_000
"""The defaults: a serving process has MAX_BUFFERED_BYTES, and as many connections as its open files allow."""
UNCOUNTED_BYTES = 8 * 1024
"""A head or body up to this is not counted: a connection costs as much by itself."""
SMALL_BYTES = 1024 * 1024
"""A body up to this, or what is decoded from one, may use the last quarter."""
_STEP_BYTES = 64 * 1024
"""What one read of a socket brings, about: so much is asked for before reading on."""
_MUCH_BYTES = 8 * 1024 * 1024
"""Once so much has been released, it is worth returning memory to the system."""
_RESUME_SECONDS = 0.005
"""Between two looks at who may go on: thousands may be waiting."""


class Connection(Protocol):
    """What the budget asks of a client's connection (server/connection.py)."""

    def resume_reading(self) -> None:
        """Read on."""

    def pause_reading(self) -> None:
        """Read no further."""

    def give_up_head(self) -> None:
        """Refuse a request whose head is not there yet; there are too many such bytes."""

    def give_way(self) -> None:
        """Close at once: others need the place. What is unfinished is told so."""


class _Pool:
    """A bounded sum of claims. All are bytes: most may be held, so many are, of these so many of claims not yet whole.

    claims: how many claims there are, of a user's pool. exempt: the claim that goes on although the pool is full.
    """

    __slots__ = ("claims", "exempt", "held", "most", "unfinished")

    def __init__(self, most: int) -> None:
        self.most = most
        self.claims = 0
        self.held = self.unfinished = 0
        self.exempt: Claim | None = None

    def add(self, claim: Claim, count: int) -> None:
        self.held += count
        if not claim.is_whole:
            self.unfinished += count

    def remove(self, claim: Claim) -> None:
        self.add(claim, -claim.bytes)
        self.end_exemption(claim)

    def end_exemption(self, claim: Claim) -> None:
        if self.exempt is claim:
            self.exempt = None

    def lets_pass(self, claim: Claim, need: int, *, first: bool) -> bool:
        """Whether so many bytes more may be held of the claim: there is room, or it is exempt or becomes so (rule 5).

        first: no other claim is before it in line.
        """
        if self.held + need <= self.most or self.exempt is claim:
            return True
        if first and self.exempt is None and self.unfinished + need > self.most:
            self.exempt = claim
            return True
        return False


class Claim:
    """What is held of one request: `bytes`.

    declared_bytes: so large it will be, as far as its client told. is_whole: it grows no more. is_over: it was
    released. waited: it had to wait at least once. need: the bytes that it waits for. number: claims are numbered as
    they come. pool: the user's, once the user is known.
    """

    __slots__ = (
        "_connection",
        "_go",
        "_memory",
        "bytes",
        "declared_bytes",
        "is_over",
        "is_whole",
        "need",
        "number",
        "pool",
        "user",
        "waited",
    )

    def __init__(self, memory: MemoryBudget, number: int, declared_bytes: int = 0) -> None:
        self.bytes = 0
        self.declared_bytes = declared_bytes
        self.is_whole = self.is_over = self.waited = False
        self.number = number
        self.need = 0
        self.pool: _Pool | None = None
        self.user = ""
        self._memory = memory
        self._connection: Connection | None = None
        self._go: Callable[[], None] | None = None

    def is_small(self, more: int = 0) -> bool:
        """Whether it may use the last quarter (rule 3), also with so many bytes more."""
        return self.declared_bytes <= SMALL_BYTES and self.bytes + more <= SMALL_BYTES

    @property
    def small_part(self) -> int:
        """What it counts as a small one."""
        return self.bytes if self.is_small() else 0

    def took(self, count: int) -> None:
        """So many bytes have come; or, if negative, are held no longer."""
        if not self.is_over:
            self._memory.add(self, count)

    def belongs_to(self, user: str) -> None:
        """Count it in this user's pool, too."""
        self._memory.give_to(self, user)

    def read_on(self, connection: Connection) -> None:
        """Read more of the body, at once or when there is room."""
        self._connection = connection
        self._memory.ask(self, _STEP_BYTES, connection.resume_reading, connection.pause_reading)

    async def room(self, need: int) -> None:
        """Wait until so many bytes more may be held, and take them."""
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
        """Stop reading the body until there is room."""
        if self._connection is not None:
            self._memory.ask(self, _STEP_BYTES, self._connection.resume_reading, self._connection.pause_reading)

    def wait(self, need: int, go: Callable[[], None]) -> None:
        """Remember what to call when there is room."""
        self.need, self._go, self.waited = need, go, True

    def go(self) -> None:
        """There is room: call what was to be called."""
        go, self._go = self._go, None
        if go is not None:
            go()

    def keep(self, count: int) -> None:
        """The body is whole, and so many bytes are held from now on, in all."""
        self.took(count - self.bytes)
        self._memory.finish(self)

    def release(self) -> None:
        """Nothing is held of the request any more. May be called again."""
        self._memory.release(self)


class MemoryBudget:
    """The budget of one process. most_bytes: of bodies and whole heads; unfinished heads have an eighth of that on top.

    most_connections: of clients, and with those to providers. resting: connections without a request, the longest
    resting first; connections add and remove themselves. to_providers: how many connections to providers there are.
    """

    def __init__(
        self, most_bytes: int = MOST_BYTES, most_connections: tuple[int, int] = (MOST_CONNECTIONS, 2 * MOST_CONNECTIONS)
    ) -> None:
        self.most_bytes = most_bytes
        self._all = _Pool(most_bytes * 3 // 4)
        self._most_small_bytes, self._small_bytes = most_bytes - self._all.most, 0
        self._user_most = self._all.most // 2
        self._users: dict[str, _Pool] = {}
        self._last_number = 0
        self._peak_bytes = 0
        self._reading: set[Claim] = set()
        self._waiting: dict[int, Claim] = {}
        self._resume_is_due = False
        self._most_connections, self._most_in_all = most_connections
        self._connections = 0
        self.to_providers: Callable[[], int] = lambda: 0
        self._most_head_bytes, self._head_bytes = most_bytes // 8, 0
        self._heads: OrderedDict[Connection, int] = OrderedDict()
        self.resting: OrderedDict[Connection, None] = OrderedDict()

    # ---------------------------------------------------------------------------------------------------- bodies

    @property
    def held_bytes(self) -> int:
        """The bytes of all bodies and heads."""
        return self._all.held + self._head_bytes

    def has_shrunk(self) -> bool:
        """Whether much was released since this was last true; to be asked every second or so."""
        held = self.held_bytes
        self._peak_bytes = max(self._peak_bytes, held)
        if self._peak_bytes - held < _MUCH_BYTES:
            return False
        self._peak_bytes = held
        return True

    @property
    def is_full(self) -> bool:
        """Whether new requests must be refused: the last quarter is used up by small ones, too."""
        return not self._has_room_for_small(1)

    def claim(self, declared_bytes: int = 0) -> Claim:
        """A new claim, for a request that has just come. declared_bytes: of its body, 0 = not told."""
        self._last_number += 1
        return Claim(self, self._last_number, declared_bytes)

    def add(self, claim: Claim, count: int) -> None:
        """So many bytes more are held of the claim; less, if negative. What no longer has room is paused."""
        self._small_bytes -= claim.small_part
        claim.bytes += count
        self._small_bytes += claim.small_part
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
            self._resume_soon()

    def give_to(self, claim: Claim, user: str) -> None:
        """The claim is this user's."""
        pool = self._users.get(user)
        if pool is None:
            pool = self._users[user] = _Pool(self._user_most)
        claim.pool, claim.user = pool, user
        pool.claims += 1
        pool.add(claim, claim.bytes)

    def lets_pass(self, claim: Claim, need: int, *, first: bool) -> bool:
        """Whether so many bytes more may be held of the claim (rules 2, 3, 5). first: no other is before it in line."""
        if self._all.exempt is claim:
            return True
        if claim.pool is not None and not claim.pool.lets_pass(claim, need, first=first):
            return False
        if claim.is_small(need) and self._has_room_for_small(need):
            return True
        return self._all.lets_pass(claim, need, first=first)

    def ask(self, claim: Claim, need: int, go: Callable[[], None], stop: Callable[[], None]) -> None:
        """Call `go` once so many bytes more may be held: now, or after `stop` was called and there is room."""
        if claim.number not in self._waiting and self.lets_pass(claim, need, first=False):
            self._reading.add(claim)
            go()
            return
        stop()
        self._reading.discard(claim)
        claim.wait(need, go)
        self._waiting[claim.number] = claim
        self._resume_soon()

    def finish(self, claim: Claim) -> None:
        """The claim is whole."""
        if not claim.is_whole:
            for pool in self._pools(claim):
                pool.unfinished -= claim.bytes
                pool.end_exemption(claim)
            claim.is_whole = True
            self._resume_soon()

    def forget(self, claim: Claim) -> None:
        """The claim waits no more, and is not read."""
        self._waiting.pop(claim.number, None)
        self._reading.discard(claim)

    def release(self, claim: Claim) -> None:
        """Release all that is held of the claim."""
        was_waiting = claim.number in self._waiting
        self.forget(claim)
        for pool in self._pools(claim):
            pool.remove(claim)
        if claim.pool is not None:
            claim.pool.claims -= 1
            if not claim.pool.claims:
                del self._users[claim.user]
        self._small_bytes -= claim.small_part
        claim.bytes, claim.pool, claim.is_over = 0, None, True
        if was_waiting:
            # What still comes of it is thrown away.
            claim.go()
        self._resume_soon()

    def _has_room_for_small(self, need: int) -> bool:
        return self._all.held + need <= self.most_bytes or self._small_bytes + need <= self._most_small_bytes

    def _pools(self, claim: Claim) -> list[_Pool]:
        return [self._all] if claim.pool is None else [self._all, claim.pool]

    def _resume_soon(self) -> None:
        if self._waiting and not self._resume_is_due:
            self._resume_is_due = True
            asyncio.get_running_loop().call_later(_RESUME_SECONDS, self._resume)

    def _resume(self) -> None:
        """Let those go on for whom there is room now, in the order of rule 4."""
        self._resume_is_due = False
        promised = 0
        for claim in sorted(self._waiting.values(), key=_by_turn):
            if promised and self._all.exempt is not claim and self._all.held + promised + claim.need > self._all.most:
                continue
            if self.lets_pass(claim, claim.need, first=True):
                promised += claim.need
                del self._waiting[claim.number]
                self._reading.add(claim)
                claim.go()
        if promised:
            self._resume_soon()

    # ------------------------------------------------------------------------------------- connections and heads

    def opened(self, connection: Connection) -> None:
        """There is one connection more; beyond the most one is closed, which may be this one (rule 7)."""
        self._connections += 1
        self.resting[connection] = None
        if self._connections > self._most_connections or not self._has_file(0):
            next(iter(self._heads or self.resting)).give_way()

    def makes_room_for_provider(self) -> bool:
        """Whether there may be one more connection to a provider (rule 8)."""
        if self._has_file(1):
            return True
        idle = next(iter(self._heads or self.resting), None)
        if idle is not None:
            idle.give_way()
        return idle is not None

    def _has_file(self, more: int) -> bool:
        return self._connections + self.to_providers() + more <= self._most_in_all

    def closed(self, connection: Connection) -> None:
        """There is one connection less."""
        self._connections -= 1
        self.head_ended(connection)
        self.resting.pop(connection, None)

    def head_grew(self, connection: Connection, size: int) -> None:
        """So many bytes have come, in all, of a head that is not whole (rule 6)."""
        self._head_bytes += size - self._heads.get(connection, 0)
        self._heads[connection] = size
        while self._head_bytes > self._most_head_bytes:
            next(iter(self._heads)).give_up_head()

    def head_ended(self, connection: Connection) -> None:
        """The head is whole, or will not come."""
        self._head_bytes -= self._heads.pop(connection, 0)


def _by_turn(claim: Claim) -> tuple[bool, int]:
    return claim.pool is not None and claim.pool.held > claim.pool.most, claim.number
