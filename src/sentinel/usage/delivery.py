"""Sends one batch once, and does what the answer asks for."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from sentinel.clock import monotonic
from sentinel.governance.port import Governance, Outcome, Report
from sentinel.usage.batch_store import BatchStore
from sentinel.usage.fault_isolation import FaultIsolation, jitter
from sentinel.usage.pacer import CallPacer
from sentinel.usage.receipts import Receipts
from sentinel.usage.scheduler import HeldBatch, Scheduler

log = structlog.get_logger()


class Delivery:
    """Of one process.

    unconfirmed_seconds: how long a batch without an answer rests before anybody asks what became of it. is_ours:
    whether nobody else can have taken over what we work on.
    """

    def __init__(
        self,
        governance: Governance,
        calls: CallPacer,
        scheduler: Scheduler,
        batches: BatchStore,
        receipts: Receipts,
        isolation: FaultIsolation,
        is_ours: Callable[[], bool],
        *,
        unconfirmed_seconds: float,
    ) -> None:
        self._governance = governance
        self._calls = calls
        self._scheduler = scheduler
        self._batches = batches
        self._receipts = receipts
        self._isolation = isolation
        self._unconfirmed_seconds = unconfirmed_seconds
        self._is_ours = is_ours

    async def send(self, held: HeldBatch) -> None:
        """Send this batch, and take the answer. Raises PartitionsTaken, RedisUnavailable."""
        batch = held.batch
        if not held.sent:
            # Nobody has this batch, so its numbers are those before it, and may be renewed before each attempt.
            await self._batches.note_sent(batch)
        await self._calls.wait()
        if not self._is_ours():
            return
        report = await self._governance.report(batch.items, batch.key)
        match report.outcome:
            case Outcome.TAKEN:
                await self._taken(held, report)
            case Outcome.SPLIT:
                await self._isolation.split(held, self._governance.most_items)
            case Outcome.REFUSED:
                await self._isolation.refused(held, report.reason)
            case Outcome.LATER:
                self._failed(held, report, at_least=0.0)
            case Outcome.UNKNOWN:
                if report.claimed:
                    self._receipts.delivered.odd += 1
                    held.claimed = True
                    await self._receipts.record_claim(batch)
                self._failed(held, report, at_least=self._unconfirmed_seconds)

    async def _taken(self, held: HeldBatch, report: Report) -> None:
        batch = held.batch
        refusals = {
            place: (answer.reason or "refused")[:200]
            for place, answer in enumerate(report.answers)
            if answer is not None and not answer.accepted
        }
        await self._receipts.record(batch, refusals)
        await self._receipts.apply(batch, refusals, report.answers)
        self._scheduler.taken(held)
        if len(refusals) < len(batch.items):
            self._isolation.passed()
        for place, reason in refusals.items():
            await self._isolation.item_refused(batch.items[place], reason)

    def _failed(self, held: HeldBatch, report: Report, *, at_least: float) -> None:
        self._receipts.delivered.failures += 1
        at_least = max(report.retry_after_seconds or 0.0, at_least)
        unconfirmed = report.outcome is Outcome.UNKNOWN
        self._scheduler.failed(held, monotonic(), unconfirmed=unconfirmed, at_least=at_least, jitter=jitter())
        items = len(held.batch.items)
        log.warning("zion does not take usage", reason=report.reason, attempts=held.attempts, items=items)
