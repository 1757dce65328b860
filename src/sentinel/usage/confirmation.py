"""Finds out what became of a batch whose answer did not come, or was no receipt, by asking what is booked."""

from __future__ import annotations

import random
from collections.abc import Callable

import structlog

from sentinel.clock import monotonic
from sentinel.error import AccessDenied, ZionUnavailable
from sentinel.governance.port import Governance
from sentinel.steps import in_steps
from sentinel.tasks import pause
from sentinel.usage.batch_store import BatchStore
from sentinel.usage.fault_isolation import FaultIsolation, jitter
from sentinel.usage.pacer import CallPacer
from sentinel.usage.receipts import Receipts
from sentinel.usage.scheduler import GIVE_UP_AFTER, PROBE_AFTER, HeldBatch, Scheduler
from sentinel.usage.unconfirmed import UnconfirmedItems

log = structlog.get_logger()

_NOBODY = "sentinel-nobody"
"""A user who cannot exist."""


class Confirmation:
    """Of one process. patience_seconds: how long a batch waits for a governance that is there and does not tell.

    is_ours: whether nobody else can have taken over what we work on.
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
        patience_seconds: float,
    ) -> None:
        self._governance = governance
        self._calls = calls
        self._scheduler = scheduler
        self._batches = batches
        self._receipts = receipts
        self._isolation = isolation
        self._is_ours = is_ours
        self._patience_seconds = patience_seconds

    async def confirm(self, held: HeldBatch) -> None:
        """Find out what was booked of this batch, and drop that. Raises RedisUnavailable."""
        found = await in_steps(UnconfirmedItems.of(held.batch.items))
        while (user := found.next_user()) is not None:
            await self._calls.wait()
            try:
                quota = await self._governance.limits(user)
            except AccessDenied:
                found.tell(user, None)
            except ZionUnavailable as error:
                if not await self._is_patience_over(held):
                    at_least = error.retry_after_seconds or 0.0
                    self._scheduler.back_off(held, monotonic(), at_least=at_least, jitter=jitter())
                    return
                if not held.claimed:
                    break
                found.tell(user, None)
            else:
                found.tell(user, quota.used, quota.told)
        if self._is_ours():
            await self._resolve(held, found)

    async def _is_patience_over(self, held: HeldBatch) -> bool:
        """Whether the governance is there and has not told what is booked for too long. While it is away we can wait.

        What answers reports with pages may answer anything so: then only who speaks of limits is the governance.
        """
        held.unconfirmed_since = held.unconfirmed_since or monotonic()
        if monotonic() - held.unconfirmed_since < self._patience_seconds:
            return False
        if not held.claimed:
            return await self._governance.ping()
        try:
            await self._governance.limits(_NOBODY)
        except AccessDenied:
            return True
        except ZionUnavailable:
            return False
        return True

    async def _resolve(self, held: HeldBatch, found: UnconfirmedItems) -> None:
        each, batch = found.taken(), held.batch
        await pause(0)
        unknown, claimed = each.count(None), held.claimed
        log.warning("an unanswered batch", items=len(each), taken=each.count(True), unknown=unknown, odd=claimed)
        self._receipts.delivered.ambiguous += unknown
        if claimed:
            # Somebody has said yes, so a second report is the likelier error.
            each, unknown = [told is not False for told in each], 0
            await self._batches.forget_answer(batch)
        taken = each.count(True)
        held.unconfirmed, held.claimed, held.sent = False, False, unknown > 0
        if taken:
            self._isolation.passed()
            untaken = {place: "" for place, is_taken in enumerate(each) if not is_taken}
            await self._receipts.record(batch, untaken)
            await self._receipts.apply(batch, untaken, found.answers())
            self._scheduler.replace(held, [[batch.items[place] for place in untaken]] if untaken else [])
        elif held.suspect and (not unknown or held.attempts >= GIVE_UP_AFTER):
            await self._isolation.refused(held, "it fails while others pass")
        elif not unknown and held.attempts >= PROBE_AFTER and len(each) > 1:
            # Is it one item that makes the governance fail, or is it the governance? Any single one will mostly tell.
            place = random.randrange(len(each))  # noqa: S311 (no secret)
            alone, rest = [batch.items[place]], batch.items[:place] + batch.items[place + 1 :]
            await self._isolation.replace(held, [alone, rest])
        # Else the same items go again under the same key: whoever knows the key books them once, whatever happened.
