"""Settles an exchange: durably, once, whatever is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Protocol

import structlog

from sentinel.cache import keys
from sentinel.clock import monotonic, now_ms
from sentinel.error import NotSent, RedisRefused, RedisUnavailable
from sentinel.limits.policy import FREE, REMEMBER_SETTLED_MS, Cost, Reservation
from sentinel.observability.logs import log_name
from sentinel.steps import in_portions
from sentinel.tasks import Tasks, pause
from sentinel.usage.recent_settlements import Noted, RecentSettlements, Settled
from sentinel.usage.spool import Settlement, Spool, Unsure

log = structlog.get_logger()

_LOOK_SECONDS = 0.25
_REPLAY_EVERY = 4
_INCARNATIONS_EVERY = 240
_AT_ONCE = 64

_SURE_MS = REMEMBER_SETTLED_MS - 60_000
"""So long after a try Redis knows for certain whether it has carried it out."""


class SettlingLedger(Protocol):
    """The part of a ledger that settles."""

    async def settle(
        self,
        reservation: Reservation,
        spent: Cost,
        started_ms: int,
        at_ms: int = 0,
        *,
        unsure: bool = False,
        cost_micro_usd: int = 0,
    ) -> bool | None:
        """Replace the reservation by what was spent, durably; False if that was done before, None if nobody knows."""


class Connected(Protocol):
    """What is to be known of the connections to Redis."""

    @property
    def available(self) -> bool:
        """Whether any stands."""

    @property
    def whole(self) -> bool:
        """Whether all stand."""

    @property
    def connects(self) -> int:
        """How often one was made."""


class BatchingUsageTracker:
    """Settles in the ledger; while that is away, in the spool, from where it is replayed.

    on_lost is called when neither takes a settlement: the one case in which usage is lost, on a machine whose disk is
    full while Redis is away. It has been logged with all its numbers then. on_unsure is called for each settlement that
    is not repeated, for nobody knows whether Redis carried it out. clock, wall_ms: in seconds, and the one on the wall.
    look_seconds: between two looks at the connections to Redis.
    """

    def __init__(
        self,
        ledger: SettlingLedger,
        spool: Spool,
        tasks: Tasks,
        on_lost: Callable[[], None],
        on_unsure: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = monotonic,
        wall_ms: Callable[[], int] = now_ms,
        look_seconds: float = _LOOK_SECONDS,
    ) -> None:
        self._clock, self._wall_ms, self._look_seconds = clock, wall_ms, look_seconds
        self._ledger = ledger
        self._spool = spool
        self._tasks = tasks
        self._on_lost = on_lost
        self._on_unsure = on_unsure
        self._recent = RecentSettlements[Settled]()
        self._notes = RecentSettlements[Noted]()
        self._incarnations: Sequence[bytes] | None = None
        self._connects = -1

    @property
    def spooled(self) -> int:
        """Settlements that wait for Redis."""
        return self._spool.depth

    async def settle(
        self, reservation: Reservation, spent: Cost, started_ms: int, tried_ms: int = 0, *, cost_micro_usd: int = 0
    ) -> None:
        """Durable when it returns. If the caller is cancelled meanwhile, it goes on by itself.

        tried_ms: when it was tried before and perhaps carried out, 0 = never. cost_micro_usd: 0 where it is not known.
        """
        try:
            await self._ledger.settle(reservation, spent, started_ms, cost_micro_usd=cost_micro_usd)
            self._recent.add(Settled(self._clock(), self._wall_ms(), reservation, spent, started_ms, cost_micro_usd))
        except (NotSent, RedisRefused):
            await self._spool_it(
                Settlement.of(reservation, spent, started_ms, self._wall_ms(), tried_ms, "", cost_micro_usd)
            )
        except RedisUnavailable:
            now, incarnation = self._wall_ms(), self._incarnation(reservation.user)
            await self._spool_it(
                Settlement.of(reservation, spent, started_ms, now, tried_ms or now, incarnation, cost_micro_usd)
            )
        except asyncio.CancelledError:
            again = self.settle(
                reservation, spent, started_ms, tried_ms or self._wall_ms(), cost_micro_usd=cost_micro_usd
            )
            self._tasks.start(again, "settle")
            raise

    def _incarnation(self, user: str) -> str:
        """Of what Redis remembers of this user, as far as we know."""
        return self._incarnations[keys.partition_of(user)].decode() if self._incarnations else ""

    def watch(self, store: Connected) -> None:
        """See whether a connection was lost since the last look: then what was settled right before that is at risk."""
        for recent in (self._recent, self._notes):
            recent.watch((store.whole, store.connects), self._clock())

    def noted(self, id_: str, user: str, again: Callable[[], Awaitable[bool]], *, missed: bool = False) -> None:
        """Redis has taken something else of a user's, too, that must not be forgotten. id_, again: as in Noted.

        missed: it was away, and may not have taken it: it is told once it is back.
        """
        note = Noted(self._clock(), self._wall_ms(), id_, user, again)
        if missed:
            self._notes.missed(note)
        else:
            self._notes.add(note)

    async def note_again(self) -> None:
        """Note once more what is at risk. What Redis was away for so long since may have ended meanwhile."""
        at_risk, lost = self._notes.at_risk(), 0
        for some in in_portions(at_risk, _AT_ONCE):
            lost += sum(await asyncio.gather(*map(self._note_again, some)))
            self._notes.settled_again(some)
        if lost:
            log.warning("redis did not have jobs, or whose objects are", count=lost)

    async def _note_again(self, note: Noted) -> bool:
        if self._age_ms(note) >= _SURE_MS:
            log.warning("redis was away for so long that something is not noted again", user_id=log_name(note.user))
            return False
        try:
            return await note.again()
        except RedisRefused:
            # This one cannot be written, and others can.
            return False

    async def settle_again(self, incarnations: Sequence[bytes] | None = None) -> None:
        """Settle once more what is at risk; what Redis still knows of, it takes for what it is.

        incarnations: RedisLedger.incarnations. A Redis that was emptied knows nothing, not even what Zion has taken:
        nothing is settled again there.
        """
        before, self._incarnations = self._incarnations, incarnations
        if before is not None and incarnations is not None:
            self._forget({p for p, incarnation in enumerate(incarnations) if incarnation != before[p]})
        at_risk, done = self._recent.at_risk(), list[bool | None]()
        for some in in_portions(at_risk, _AT_ONCE):
            done += await asyncio.gather(*map(self._settle_again, some))
            self._recent.settled_again(some)
        if any(done):
            log.warning("redis had lost settlements", count=done.count(True))
        if None in done:
            log.warning("redis was away for so long that some settlements are not repeated", count=done.count(None))

    def _forget(self, emptied: set[int]) -> None:
        """Redis has forgotten these partitions: what was settled there before is not settled anew, now or later."""
        if emptied:
            log.error("redis was emptied: what waited in it is lost", partitions=len(emptied))
            self._recent.forget(lambda user: keys.partition_of(user) in emptied)
            self._notes.forget(lambda user: keys.partition_of(user) in emptied)

    async def _settle_again(self, settled: Settled) -> bool | None:
        age_ms = self._age_ms(settled)
        reservation, spent, started_ms, at_ms = settled.reservation, settled.spent, settled.started_ms, settled.at_ms
        cost = settled.cost_micro_usd
        try:
            done = await self._ledger.settle(
                reservation, spent, started_ms, at_ms, unsure=age_ms >= _SURE_MS, cost_micro_usd=cost
            )
        except RedisRefused:
            # This account cannot be read, and others can. The spool tries it again and again.
            now, incarnation = self._wall_ms(), self._incarnation(reservation.user)
            await self._spool_it(Settlement.of(reservation, spent, started_ms, now, at_ms, incarnation, cost))
            return False
        if done is None and any(spent):
            self._on_unsure()
        return done

    def _age_ms(self, taken: Settled | Noted) -> int:
        """A machine that sleeps stops the one clock, a clock that is set moves the other."""
        return max(self._wall_ms() - taken.at_ms, round((self._clock() - taken.at) * 1000))

    def withdraw(self, reservation: Reservation) -> None:
        """Free what may have been reserved for a request that was given up before anybody knew; goes on by itself."""
        self._tasks.start(self.settle(reservation, FREE, self._wall_ms()), "withdraw")

    async def _spool_it(self, settlement: Settlement) -> None:
        if settlement.spent == FREE:
            return
        try:
            await asyncio.shield(self._tasks.start(self._spool.append(settlement), "spool"))
        except OSError as error:
            self._on_lost()
            log.critical(
                "usage is lost: neither redis nor the disk takes it",
                request_id=settlement.id,
                user_id=log_name(settlement.user),
                model=settlement.model,
                spent=settlement.spent,
                reason=str(error),
            )

    async def replay(self) -> int:
        """Bring spooled settlements into the ledger; returns how many."""

        async def settle(line: Settlement) -> None:
            long_ago = not 0 <= self._wall_ms() - line.tried_ms < _SURE_MS
            emptied = line.incarnation != "" and line.incarnation != self._incarnation(line.user)
            unsure = line.tried_ms > 0 and (long_ago or emptied)
            done = await self._ledger.settle(
                line.reservation(),
                line.spent,
                line.started_ms,
                line.at_ms,
                unsure=unsure,
                cost_micro_usd=line.cost_micro_usd,
            )
            if done is None:
                self._on_unsure()
                raise Unsure

        taken = await self._spool.replay(settle)
        if taken:
            log.info("spooled usage is replayed", settlements=taken)
        return taken

    async def run(self, store: Connected, incarnations: Callable[[], Awaitable[Sequence[bytes]]]) -> None:
        """For ever: replay whenever the ledger is there and something waits; settle again when it has come back.

        incarnations: RedisLedger.incarnations.
        """
        for turn in count():
            self.watch(store)
            try:
                if store.whole and (
                    self._recent.are_at_risk
                    or self._notes.are_at_risk
                    or self._connects != store.connects
                    or turn % _INCARNATIONS_EVERY == 0
                ):
                    connects = store.connects
                    await self.settle_again(await incarnations())
                    await self.note_again()
                    self._connects = connects
                if turn % _REPLAY_EVERY == 0 and store.available and self._spool.waiting_files():
                    await self.replay()
            except RedisUnavailable:
                log.debug("redis is away again")
            except OSError as error:
                log.warning("the spool cannot be replayed", reason=str(error))
            await pause(self._look_seconds)
