"""Keeps the leases of open requests alive, and notes what their streams have delivered.

One ticker for all requests of a process. A stream gets a checkpoint when it starts, and then whenever it has delivered
about CHECKPOINT_TOKENS more, at most once a second: should this process be killed, the caller is billed what the last
one says. A lease is renewed when a third of it has passed, and when Redis has come back, which may have lost its last
moments and with them what was reserved then (`appendfsync everysec` and a power cut, a failover).

A process that was stopped for longer than a lease may find that others have what its requests held: these look at
`HeldLease.ends` before they deliver anything, and take their place up again, or learn that it is taken.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from sentinel.clock import monotonic
from sentinel.error import PlaceTaken, RedisUnavailable, ServiceUnavailable
from sentinel.limits.policy import PLACE_TAKEN, Reservation, Verdict
from sentinel.middleware.rate_limiter import Ledger, Limits, look
from sentinel.steps import in_portions
from sentinel.tasks import pause

log = structlog.get_logger()

CHECKPOINT_SECONDS = 1.0
CHECKPOINT_TOKENS = 50
"""A checkpoint costs as much as relaying four chunks; so it adds less than a tenth."""
_AT_ONCE = 64
_LOOK_SECONDS = 0.05
"""Whether Redis has come back: until leases are renewed others may get what they hold."""

PATIENCE_SECONDS = 5.0
_AGAIN_SECONDS = 0.1


class HeldLease(msgspec.Struct, eq=False):
    """An open reservation. output: tokens reserved for output.

    delivered: tells the output delivered so far, exactly; roughly: about how much that is, without counting. renewed:
    when it was last (monotonic seconds); ends: from then on the ledger may have given it to others, 0.0 if it has.
    changed: told whenever any of this may have changed.
    """

    reservation: Reservation
    started_ms: int
    output: int
    delivered: Callable[[], int] | None = None
    roughly: Callable[[], int] | None = None
    changed: Callable[[], None] | None = None
    noted: int = -1
    renewed: float = 0.0
    ends: float = 0.0

    def delivered_so_far(self) -> int:
        """Output tokens; -1 before anything was generated, and for a whole answer."""
        return -1 if self.delivered is None else self.delivered()


class LeaseKeeper:
    """All open reservations of this process. limits: where limits come from when the ledger has forgotten them.

    patience_seconds: how long an extension is tried while Redis or Zion is away.
    """

    def __init__(
        self, ledger: Ledger, limits: Limits, lease_seconds: float, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._ledger = ledger
        self._limits = limits
        self._lease_seconds = lease_seconds
        self._patience_seconds = patience_seconds
        self._renew_seconds = lease_seconds / 3
        self._open: set[HeldLease] = set()

    def __len__(self) -> int:
        """How many requests are in flight."""
        return len(self._open)

    def hold(self, reservation: Reservation, verdict: Verdict, asked: float) -> HeldLease:
        """Keep this reservation from now on. asked: no later than it was asked for; we may have been stopped since."""
        held = HeldLease(
            reservation, verdict.now_ms, verdict.granted_output, renewed=asked, ends=asked + self._lease_seconds
        )
        self._open.add(held)
        return held

    def release(self, held: HeldLease) -> None:
        """Let it go; its request is about to be settled."""
        self._open.discard(held)
        # A method of what knows this reservation: both go at once so, and not when the garbage collector looks.
        held.delivered = held.roughly = held.changed = None

    async def extend(self, held: HeldLease, more: int, delivered: int) -> int:
        """Reserve more output for it; returns what was added: 0 when nothing is left.

        Less than 0 if its lease had ended, and others have what it held. A stream that has tokens left must not end
        because Redis or Zion stumbles: tries for `patience_seconds`, then raises ServiceUnavailable. Raises PlaceTaken.
        """
        until = monotonic() + self._patience_seconds
        while True:
            before = held.output
            try:
                if not await self._extend(held, more, delivered):
                    await self._ask_limits(held)
                    await self._extend(held, more, delivered)
            except ServiceUnavailable:
                if monotonic() > until:
                    raise
            else:
                return held.output - before
            await pause(_AGAIN_SECONDS)

    async def take_up(self, held: HeldLease) -> None:
        """Before the first of an answer whose lease has ended is delivered. Raises PlaceTaken if others have its place.

        While the ledger is away nobody else is admitted by it.
        """
        with contextlib.suppress(RedisUnavailable):
            await self._extend(held, 0, held.delivered_so_far())

    async def _extend(self, held: HeldLease, more: int, delivered: int) -> bool:
        """Whether limits are known: nothing is added while they are not. Raises PlaceTaken."""
        started = monotonic()
        holds = await self._ledger.extend(held.reservation, held.output, more, delivered, held.started_ms)
        if held.changed is not None:
            held.changed()
        if holds == PLACE_TAKEN:
            held.ends = 0.0
            raise PlaceTaken
        held.noted, held.renewed, held.ends = delivered, started, started + self._lease_seconds
        if holds is not None:
            # Not what was added: two extensions may be on their way at the same time.
            held.output = holds
        return holds is not None

    async def _ask_limits(self, held: HeldLease) -> None:
        """Have the ledger know the limits of this user, beside all that the user's requests hold here."""
        others = [
            other for other in self._open if other.reservation.user == held.reservation.user and other is not held
        ]
        for other in others:
            with contextlib.suppress(PlaceTaken):
                await self._extend(other, 0, other.delivered_so_far())
        await look(held.reservation.user, self._ledger, self._limits)

    async def run(self) -> None:
        """Tick for ever."""
        while True:
            await pause(min(CHECKPOINT_SECONDS, self._renew_seconds))
            await self._each(self._note, self._due)

    async def run_for_losses(self, connects: Callable[[], int]) -> None:
        """Renew all leases whenever Redis was connected to anew, for ever. connects: changes then."""
        seen = connects()
        while True:
            await pause(_LOOK_SECONDS)
            if seen != (seen := connects()):
                await self._each(self._renew, lambda _: True)

    async def _each(self, work: Callable[[HeldLease], Awaitable[None]], due: Callable[[HeldLease], bool]) -> None:
        for helds in in_portions(list(self._open), _AT_ONCE):
            await asyncio.gather(*map(work, filter(due, helds)))
            await pause(0)

    def _due(self, held: HeldLease) -> bool:
        if monotonic() - held.renewed >= self._renew_seconds:
            return True
        if held.delivered is None or held.roughly is None or held.noted < 0:
            return held.delivered is not None
        return held.roughly() >= held.noted + CHECKPOINT_TOKENS

    async def _note(self, held: HeldLease) -> None:
        delivered = held.delivered_so_far()
        moved = delivered >= held.noted + CHECKPOINT_TOKENS or held.noted < 0 <= delivered
        if moved or monotonic() - held.renewed >= self._renew_seconds:
            await self._renew(held)

    async def _renew(self, held: HeldLease) -> None:
        if held in self._open:
            # While the ledger is away the next tick tries again; whose place is taken learns that with its answer.
            with contextlib.suppress(RedisUnavailable, PlaceTaken):
                await self._extend(held, 0, held.delivered_so_far())
