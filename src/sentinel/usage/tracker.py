"""Settles an exchange: durably, once, whatever is away."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Protocol

import structlog

from sentinel.clock import monotonic, now_ms
from sentinel.error import RedisUnavailable
from sentinel.limits.policy import Ask, Triple
from sentinel.logs import log_name
from sentinel.tasks import Tasks, pause
from sentinel.usage.spool import Settlement, Spool

log = structlog.get_logger()

_LOOK_SECONDS = 0.25
_REPLAY_EVERY = 4
_AT_ONCE = 64

REMEMBER_SECONDS = 2.5
_MOST_REMEMBERED = 50_000
"""What was settled lately is settled again when Redis comes back: with `appendfsync everysec` it may have lost that."""


class SettlingLedger(Protocol):
    """The part of a ledger that settles."""

    async def settle(self, ask: Ask, spent: Triple, started_ms: int, at_ms: int = 0) -> bool:
        """Replace the reservation by what was spent, durably; False if that was done before."""


class Connected(Protocol):
    """What is to be known of the connection to Redis."""

    @property
    def available(self) -> bool:
        """Whether it stands."""

    @property
    def connects(self) -> int:
        """How often it was made."""


class BatchingUsageTracker:
    """Settles in the ledger; while that is away, in the spool, from where it is replayed.

    on_lost is called when neither takes a settlement: the one case in which usage is lost, on a machine whose disk is
    full while Redis is away. It has been logged with all its numbers then.
    """

    def __init__(self, ledger: SettlingLedger, spool: Spool, tasks: Tasks, on_lost: Callable[[], None]) -> None:
        self._ledger = ledger
        self._spool = spool
        self._tasks = tasks
        self._on_lost = on_lost
        self._recent: deque[tuple[float, Ask, Triple, int]] = deque(maxlen=_MOST_REMEMBERED)

    @property
    def spooled(self) -> int:
        """Settlements that wait for Redis."""
        return self._spool.depth

    async def settle(self, ask: Ask, spent: Triple, started_ms: int) -> None:
        """Durable when it returns. If the caller is cancelled meanwhile, it goes on by itself."""
        try:
            await self._ledger.settle(ask, spent, started_ms)
            self._remember(ask, spent, started_ms)
        except RedisUnavailable:
            await self._spool_it(Settlement.of(ask, spent, started_ms))
        except asyncio.CancelledError:
            self._tasks.start(self.settle(ask, spent, started_ms), "settle")
            raise

    def _remember(self, ask: Ask, spent: Triple, started_ms: int) -> None:
        recent, now = self._recent, monotonic()
        while recent and recent[0][0] < now - REMEMBER_SECONDS:
            recent.popleft()
        recent.append((now, ask, spent, started_ms))

    async def settle_again(self) -> None:
        """Settle once more what was settled lately; what Redis still knows of, it takes for what it is."""
        again = list(self._recent)
        for start in range(0, len(again), _AT_ONCE):
            some = again[start : start + _AT_ONCE]
            done = await asyncio.gather(*(self._ledger.settle(ask, spent, ms) for _, ask, spent, ms in some))
            if any(done):
                log.warning("redis had lost settlements", count=sum(done))

    def give_back(self, ask: Ask) -> None:
        """Free what may have been reserved for a request that was given up before anybody knew; goes on by itself."""
        self._tasks.start(self.settle(ask, (0, 0, 0), now_ms()), "give back")

    async def _spool_it(self, settlement: Settlement) -> None:
        if settlement.spent == (0, 0, 0):
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

        async def settle(line: Settlement) -> bool:
            return await self._ledger.settle(line.ask(), line.spent, line.started_ms, line.at_ms)

        taken = await self._spool.replay(settle)
        if taken:
            log.info("spooled usage is replayed", settlements=taken)
        return taken

    async def run(self, store: Connected) -> None:
        """For ever: replay whenever the ledger is there and something waits; settle again when it has come back."""
        connects = store.connects
        for turn in count():
            try:
                if store.available and store.connects != connects:
                    await self.settle_again()
                    connects = store.connects
                if turn % _REPLAY_EVERY == 0 and store.available and self._spool.waiting_files():
                    await self.replay()
            except RedisUnavailable:
                log.debug("redis is away again")
            except OSError as error:
                log.warning("the spool cannot be replayed", reason=str(error))
            await pause(_LOOK_SECONDS)
