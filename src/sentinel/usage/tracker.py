"""Settles an exchange: durably, once, whatever is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from sentinel.clock import now_ms
from sentinel.error import RedisUnavailable
from sentinel.limits.policy import Ask, Triple
from sentinel.tasks import Tasks, pause
from sentinel.usage.spool import Settlement, Spool

log = structlog.get_logger()

_REPLAY_SECONDS = 1.0


class SettlingLedger(Protocol):
    """The part of a ledger that settles."""

    async def settle(self, ask: Ask, spent: Triple, started_ms: int, at_ms: int = 0) -> bool:
        """Replace the reservation by what was spent, durably; False if that was done before."""


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

    @property
    def spooled(self) -> int:
        """Settlements that wait for Redis."""
        return self._spool.depth

    async def settle(self, ask: Ask, spent: Triple, started_ms: int) -> None:
        """Durable when it returns. If the caller is cancelled meanwhile, it goes on by itself."""
        try:
            await self._ledger.settle(ask, spent, started_ms)
        except RedisUnavailable:
            await self._spool_it(Settlement.of(ask, spent, started_ms))
        except asyncio.CancelledError:
            self._tasks.start(self.settle(ask, spent, started_ms), "settle")
            raise

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
                user_id=settlement.user,
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

    async def run(self, available: Callable[[], bool]) -> None:
        """Replay whenever the ledger is there and something waits, for ever."""
        while True:
            if available() and self._spool.waiting_files():
                try:
                    await self.replay()
                except OSError as error:
                    log.warning("the spool cannot be replayed", reason=str(error))
            await pause(_REPLAY_SECONDS)
