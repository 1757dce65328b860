"""The loop that delivers the outbox: records -> batches -> the governance -> acknowledgements.

Every process delivers, each the partitions that are its own (`partition_ownership.py`), one batch at a time. What it
works on it could lose at any moment: all that a successor must know is in Redis, and `recovery.py` reads it from there.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

import structlog

from sentinel.cache.redis_ledger import RedisLedger
from sentinel.clock import monotonic
from sentinel.error import RedisRefused, RedisUnavailable
from sentinel.governance.port import Governance
from sentinel.steps import in_steps, let_go
from sentinel.tasks import pause
from sentinel.usage.batch import MOST_ITEMS
from sentinel.usage.batch_store import BatchStore, PartitionsTaken
from sentinel.usage.confirmation import Confirmation
from sentinel.usage.dead_letters import DeadLetters
from sentinel.usage.delivery import Delivery
from sentinel.usage.fault_isolation import FaultIsolation
from sentinel.usage.outage import OutageDetector
from sentinel.usage.pacer import CallPacer, Pacer
from sentinel.usage.partition_ownership import HEARTBEAT_SECONDS, PartitionOwnership
from sentinel.usage.quarantine import Quarantine
from sentinel.usage.receipts import Delivered, Receipts
from sentinel.usage.record_store import RecordStore
from sentinel.usage.recovery import Recovery
from sentinel.usage.scheduler import HeldBatch, Scheduler
from sentinel.usage.timings import Timings

log = structlog.get_logger()

_LAST_TRIES = 4
"""When the process ends: a governance that fails so often in a row is left to the next process."""


class Outbox:
    """The deliverer of one process. on_unreadable: told where something was, that cannot be read.

    name: among the deliverers; as a rule made from this process.
    """

    def __init__(
        self,
        ledger: RedisLedger,
        governance: Governance,
        *,
        flush_seconds: float,
        calls_per_second: float,
        on_unreadable: Callable[[str], None] = lambda _: None,
        timings: Timings | None = None,
        name: str | None = None,
    ) -> None:
        # Longer than a function should be: a list, of parts made from those above them.
        timings = timings or Timings()
        self._timings = timings
        self._store = ledger.store
        self._governance = governance
        self._flush_seconds = flush_seconds
        self._look_at = self._recall_at = 0.0
        self._known = False
        self._connects = 0
        self._stopping = asyncio.Event()
        self._working = asyncio.Lock()
        self.delivered = Delivered()

        self._pacer = Pacer(flush_seconds)
        self._ownership = PartitionOwnership(ledger.store, timings.lease_seconds, name)
        quarantine = Quarantine(ledger.store, on_unreadable)
        self._records = RecordStore(ledger, self._pacer, quarantine, timings.remember_seconds)
        self._batches = BatchStore(ledger, self._ownership.name, self._pacer, quarantine, timings.remember_seconds)
        self._scheduler = Scheduler(lambda: secrets.token_hex(16), timings.backoff_scale)
        calls = CallPacer(calls_per_second, lambda: self._ownership.count)
        receipts = Receipts(self._records, self._batches, self.delivered)
        isolation = FaultIsolation(
            self._scheduler,
            self._records,
            self._batches,
            DeadLetters(ledger, on_unreadable),
            OutageDetector(timings.outage_seconds),
            self.delivered,
        )
        shared = governance, calls, self._scheduler, self._batches, receipts, isolation, lambda: self._is_ours
        self._delivery = Delivery(*shared, unconfirmed_seconds=timings.unconfirmed_seconds)
        self._confirmation = Confirmation(*shared, patience_seconds=timings.patience_seconds)
        self._recovery = Recovery(
            self._scheduler,
            self._records,
            self._batches,
            receipts,
            unconfirmed_seconds=timings.unconfirmed_seconds,
        )

    @property
    def name(self) -> str:
        """This process among the deliverers."""
        return self._ownership.name

    async def run(self) -> None:
        """Deliver until `stop`. What nobody has thought of ends this, and it is to be started again."""
        while not self._stopping.is_set():
            due = monotonic() + self._flush_seconds
            self._pacer.begin()
            try:
                await self.flush()
            except RedisRefused:
                # Redis is there: what all deliveries need cannot be read.
                raise
            except RedisUnavailable:
                log.debug("the outbox waits for redis")
            await self._rest(max(due, self._scheduler.pause_until) - monotonic())

    async def _flush_safely(self) -> bool:
        try:
            return await self.flush()
        except RedisUnavailable:
            log.debug("the outbox waits for redis")
        except Exception:
            # The end of the process must not depend on it.
            log.exception("the outbox failed")
        return False

    async def beat(self) -> None:
        """Say every few seconds that this process lives, for ever."""
        while True:
            try:
                if not await self._ownership.heartbeat():
                    self._known = False
            except RedisRefused:
                raise
            except RedisUnavailable:
                self._known = False
                log.debug("no sign of life while redis is away")
            await pause(HEARTBEAT_SECONDS)

    async def stop(self, seconds: float) -> None:
        """Deliver what is there, for at most so long; what remains stays in Redis for whoever comes next.

        Where all processes stop together, one may settle in partitions of another that has just looked there for the
        last time. So whoever is the last to leave looks once more at what waits then.
        """
        self._stopping.set()
        self._pacer.hurry()
        deadline = monotonic() + seconds
        try:
            while True:
                delivered = await self._deliver_the_last(deadline)
                others = await self._ownership.release(idle=self._known and self._scheduler.empty)
                if not delivered or others or not (await self.depth())[0]:
                    return
        except RedisUnavailable:
            log.debug("the others will notice that we are gone")

    async def _deliver_the_last(self, deadline: float) -> bool:
        """Deliver until nothing of ours is left, or the governance seems to be away; whether nothing is left."""
        try:
            async with asyncio.timeout(deadline - monotonic()):
                while not await self._flush_safely():
                    if not self._may_still_succeed(deadline):
                        return False
                    await pause(max(0.1, self._scheduler.pause_until - monotonic()))
        except TimeoutError:
            log.warning("usage stays in the outbox")
            return False
        return True

    def _may_still_succeed(self, deadline: float) -> bool:
        answers = self._scheduler.pause_until < deadline and self._scheduler.failures < _LAST_TRIES
        return answers and self._store.failure is None

    async def flush(self) -> bool:
        """Deliver all that may be sent now; whether nothing of ours is left. Raises RedisUnavailable."""
        async with self._working:
            try:
                return await self._flush()
            except BaseException:
                self._known = False
                raise

    async def _flush(self) -> bool:
        await self._look()
        # One sweep for each flush: what comes meanwhile is summed up with what comes after it.
        self._records.sweep(self._ownership.owned)
        while True:
            await self._look()
            if monotonic() < self._scheduler.pause_until:
                return False
            held = await self._next()
            if held is None:
                return self._scheduler.empty
            try:
                if self._is_ours:
                    await self._work(held)
                    if held not in self._scheduler.held:
                        await in_steps(let_go(held.batch.items))
                    continue
            except PartitionsTaken:
                log.info("others deliver meanwhile what was about to be sent")
            # Somebody may have taken over from us.
            self._known, self._look_at = False, 0.0

    @property
    def _is_ours(self) -> bool:
        """Whether nobody else can have taken what we work on.

        A heartbeat may have said anew that we live, after others had taken us for dead: what is ours has changed then.
        """
        return self._known and self._ownership.certain and self._connects == self._store.connects

    async def _look(self) -> None:
        """Settle which partitions are ours, and recall what there is if that has changed."""
        if self._connects != self._store.connects:
            # It may have come back with an older state, while we know what that has forgotten; or with none, in which
            # others have taken what was ours.
            self._known, self._connects, self._look_at = False, self._store.connects, 0.0
        elif self._store.whole:
            self._records.age()
            self._batches.age()
        if monotonic() >= self._look_at or not self._ownership.certain:
            idle = self._known and self._scheduler.empty
            if await self._ownership.claim(idle=idle):
                self._known = False
            self._look_at = monotonic() + self._timings.poll_seconds
        if not self._known or (monotonic() >= self._recall_at and self._scheduler.empty):
            await self._recall()

    async def _rest(self, seconds: float) -> None:
        """Wait, at most until a full batch waits."""
        until = monotonic() + seconds
        while (left := until - monotonic()) > 0 and not self._stopping.is_set():
            await self._wait(min(left, self._timings.poll_seconds))
            if left > self._timings.poll_seconds and await self._is_full():
                return

    async def _is_full(self) -> bool:
        try:
            return monotonic() >= self._scheduler.pause_until and (await self._records.depth())[0] >= MOST_ITEMS
        except RedisUnavailable:
            return False

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def _recall(self) -> None:
        self._known, self._recall_at = True, monotonic() + self._timings.recall_seconds
        await self._recovery.recall(self._ownership.owned)

    async def _next(self) -> HeldBatch | None:
        """What to work on next."""
        if self._scheduler.wants_more(monotonic()):
            self._scheduler.add(await self._records.take(self._ownership.owned), monotonic())
            await pause(0)
        return self._scheduler.next(monotonic(), min(MOST_ITEMS, self._governance.most_items))

    async def _work(self, held: HeldBatch) -> None:
        """Send a batch; or find out what became of it when there was no answer."""
        if held.unconfirmed:
            await self._confirmation.confirm(held)
        else:
            await self._delivery.send(held)

    async def depth(self) -> tuple[int, int]:
        """Records that wait, and the moment of the oldest (ms since the epoch, 0 = none). Raises RedisUnavailable."""
        return await self._records.depth()
