"""Starts again from what Redis knows: after a start, after a takeover, and after anything that went wrong."""

from __future__ import annotations

from collections.abc import Collection

import structlog

from sentinel.clock import monotonic
from sentinel.steps import Steps, in_portions, in_steps
from sentinel.usage.batch import Batch
from sentinel.usage.batch_store import NO_RECEIPT, BatchStore
from sentinel.usage.receipts import Receipts
from sentinel.usage.record_store import RecordStore
from sentinel.usage.scheduler import HeldBatch, Scheduler

log = structlog.get_logger()


def _entries_of(batch: Batch) -> Steps[set[tuple[int, str]]]:
    found = set[tuple[int, str]]()
    for items in in_portions(batch.items):
        found.update((item.partition, entry) for item in items for entry in item.entries)
        yield
    return found


class Recovery:
    """Of one process. unconfirmed_seconds: how long a batch rests before anybody asks what became of it."""

    def __init__(
        self,
        scheduler: Scheduler,
        records: RecordStore,
        batches: BatchStore,
        receipts: Receipts,
        *,
        unconfirmed_seconds: float,
    ) -> None:
        self._scheduler = scheduler
        self._records = records
        self._batches = batches
        self._receipts = receipts
        self._unconfirmed_seconds = unconfirmed_seconds

    async def recall(self, owned: Collection[int]) -> None:
        """Fill the scheduler anew: batches that were sent, records that were read. Raises RedisUnavailable."""
        self._scheduler.clear()
        await self._records.prepare(owned)
        known: set[tuple[int, str]] = set()
        for batch, noted in await self._batches.take_over(owned):
            refusals = self._receipts.known(batch, noted)
            if batch.home in owned and refusals is not None and refusals != NO_RECEIPT:
                await self._receipts.apply(batch, refusals, None)
                continue
            known |= await in_steps(_entries_of(batch))
            if batch.home in owned:
                due, claimed = monotonic() + self._unconfirmed_seconds, refusals == NO_RECEIPT
                self._scheduler.held.append(HeldBatch(batch, sent=True, unconfirmed=True, claimed=claimed, due=due))
        self._receipts.clear()
        self._scheduler.loose = await self._records.pending(owned, known)
        if not self._scheduler.empty:
            batches, items = len(self._scheduler.held), len(self._scheduler.loose)
            log.info("deliveries are taken up again", batches=batches, items=items)
