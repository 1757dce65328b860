"""What was said to a batch: written down, then acted upon, so that a successor can act upon it as well.

From `record` on this process knows the answer, whatever happens to Redis; `apply` may be done again at any step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sentinel.governance.port import ItemAnswer
from sentinel.steps import in_steps
from sentinel.usage.batch import Batch
from sentinel.usage.batch_store import NO_RECEIPT, BatchStore, Refusals
from sentinel.usage.record_store import RecordStore


@dataclass(slots=True)
class Delivered:
    """Counts for the metrics.

    taken, dead: records; ambiguous: items of which it was not found out whether they are booked; failures: reports;
    odd: those that somebody said yes to, without a receipt.
    """

    taken: int = 0
    dead: int = 0
    ambiguous: int = 0
    failures: int = 0
    odd: int = 0


class Receipts:
    """The answers of one process, and what came of them. But for `known` and `clear` all may raise RedisUnavailable."""

    def __init__(self, records: RecordStore, batches: BatchStore, delivered: Delivered) -> None:
        self._records = records
        self._batches = batches
        self.delivered = delivered
        self._answers: dict[str, Refusals] = {}

    def known(self, batch: Batch, noted: Refusals | None) -> Refusals | None:
        """What was said to this batch, as far as it is known here, or else noted in Redis."""
        return self._answers.get(batch.key, noted)

    async def record(self, batch: Batch, refusals: Refusals) -> None:
        """Write down that a batch is booked but for what was refused."""
        self._answers[batch.key] = refusals
        booked = (item for place, item in enumerate(batch.items) if place not in refusals)
        await in_steps(self._records.remember_booked(booked))
        await self._batches.note_answer(batch, refusals)

    async def record_claim(self, batch: Batch) -> None:
        """Write down that somebody said yes to a batch, without a receipt."""
        self._answers[batch.key] = NO_RECEIPT
        await self._batches.note_answer(batch, NO_RECEIPT)
        del self._answers[batch.key]

    async def apply(self, batch: Batch, refusals: Refusals, answers: Sequence[ItemAnswer | None] | None) -> None:
        """Drop what is booked, with what was said about it."""
        places = [place for place in range(len(batch.items)) if place not in refusals]
        told = [answers[place] if answers else None for place in places]
        self.delivered.taken += await self._records.acknowledge([batch.items[place] for place in places], told)
        await self._batches.forget(batch)
        self._answers.pop(batch.key, None)

    def clear(self) -> None:
        """What is left is of batches that Redis has forgotten."""
        self._answers.clear()
