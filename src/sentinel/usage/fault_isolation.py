"""Finds the item for which a batch is refused, by bisection, and keeps it from stopping others.

An item that is refused alone is tried three times, then it is a dead letter; unless all are refused (`outage.py`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import structlog

from sentinel.clock import monotonic
from sentinel.observability.logs import log_name
from sentinel.usage.batch import REFUSALS_ALLOWED, Item
from sentinel.usage.batch_store import BatchStore
from sentinel.usage.dead_letters import DeadLetters
from sentinel.usage.outage import OutageDetector
from sentinel.usage.receipts import Delivered
from sentinel.usage.record_store import RecordStore
from sentinel.usage.scheduler import HeldBatch, Scheduler

log = structlog.get_logger()


class FaultIsolation:
    """Of one process. Every method but `passed` may raise RedisUnavailable."""

    def __init__(
        self,
        scheduler: Scheduler,
        records: RecordStore,
        batches: BatchStore,
        letters: DeadLetters,
        outage: OutageDetector,
        delivered: Delivered,
    ) -> None:
        self._scheduler = scheduler
        self._records = records
        self._batches = batches
        self._letters = letters
        self._outage = outage
        self._delivered = delivered

    def passed(self) -> None:
        """Something was taken."""
        self._outage.passed()

    async def refused(self, held: HeldBatch, reason: str) -> None:
        """A batch is refused for its content. Halves are tried, until the item at fault stands alone."""
        items = held.batch.items
        if self._outage.is_outage(monotonic()):
            log.warning("zion refuses everything", items=len(items), reason=reason)
            self._scheduler.failed(held, monotonic(), unconfirmed=False, at_least=0.0, jitter=jitter())
            return
        if len(items) > 1:
            log.warning("zion refuses a batch, its halves are sent", items=len(items), reason=reason)
            await self.split(held, -(-len(items) // 2))
            return
        await self.replace(held, [])
        for spoilt, parts in self._scheduler.isolate(items[0].user, monotonic()):
            await self.replace(spoilt, parts)
        await self.item_refused(items[0], reason)

    async def split(self, held: HeldBatch, size: int) -> None:
        """Send a batch, of which nothing was taken, in parts of this size, each under a key of its own."""
        items = held.batch.items
        await self.replace(held, [items[start : start + size] for start in range(0, len(items), size)])

    async def replace(self, held: HeldBatch, parts: Sequence[Sequence[Item]]) -> None:
        """Send these parts instead of a batch of which nothing was taken."""
        await self._batches.forget(held.batch)
        self._scheduler.replace(held, parts)

    async def item_refused(self, item: Item, reason: str) -> None:
        """An item that is refused is tried again by itself, and goes to the dead letters after three times.

        Unless everybody's are refused.
        """
        item.refusals += 1
        item.reason = reason
        self._outage.refused(item.user, monotonic())
        if item.refusals < REFUSALS_ALLOWED or self._outage.is_outage(monotonic()):
            self._scheduler.hold([item], due=monotonic() + self._scheduler.backoff(item.refusals, jitter()))
            return
        # Not the reason: the governance's words may name the e-mail address.
        log.error("usage goes to the dead letters", user_id=log_name(item.user))
        self._records.let_go(item)
        self._delivered.dead += await self._letters.bury(item)


def jitter() -> float:
    """0 to 1, so that no two processes come again at the same moment."""
    return random.random()  # noqa: S311 (no secret)
