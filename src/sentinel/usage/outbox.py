"""Delivers the outbox to Zion: records -> batches -> Zion -> acknowledgements.

Every process delivers, each the partitions that are its own (`deliverers.py`), one batch at a time. What it works on it
could lose at any moment: all that a successor must know is in Redis (`journal.py`), and `_recall` reads it from there,
after a start, after a takeover, and after anything that went wrong.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from sentinel.cache.redis_ledger import RedisLedger
from sentinel.clock import monotonic
from sentinel.error import AccessDenied, RedisRefused, RedisUnavailable, ZionUnavailable
from sentinel.observability.logs import log_name
from sentinel.tasks import pause
from sentinel.usage.batch import (
    MOST_ITEMS,
    REFUSALS_ALLOWED,
    Batch,
    Item,
    Outcome,
    backoff_seconds,
    outcome_of,
    results_by_item,
)
from sentinel.usage.blame import Blame
from sentinel.usage.deliverers import BEAT_SECONDS, Deliverers
from sentinel.usage.doubt import Doubt
from sentinel.usage.journal import ODD, Journal, Refusals
from sentinel.usage.pace import Pace
from sentinel.usage.queue import GIVE_UP_AFTER, PROBE_AFTER, Held, Queue
from sentinel.zion.client import Reported, ZionClient
from sentinel.zion.models import (
    ItemResult,
    is_increment_receipt,
    is_receipt,
    read_increment,
    read_results,
    says_no,
)

log = structlog.get_logger()

_LOOK_SECONDS = 1.0
_RECALL_SECONDS = 60.0
"""So often, when all is quiet, we look for what we may have missed."""

_SINGLY_SECONDS = 300.0
"""So long a Zion without the batch call is not asked for it again."""

_LAST_TRIES = 4
"""When the process ends: a Zion that fails so often in a row is left to the next process."""

DOUBT_SECONDS = 2.0
"""So long Zion gets to finish what it may still be doing for a call whose answer will not come."""

_NOBODY = "sentinel-nobody"
"""A user who cannot exist."""

_PATIENCE_SECONDS = 30.0
"""So long a batch in doubt waits for a Zion that is there and does not tell what it has booked."""


@dataclass(slots=True)
class Delivered:
    """Counts for the metrics.

    taken, dead: records; ambiguous: items that stayed in doubt; failures: calls to Zion; odd: those that were answered
    with a 2xx that is no receipt.
    """

    taken: int = 0
    dead: int = 0
    ambiguous: int = 0
    failures: int = 0
    odd: int = 0


class Outbox:
    """The deliverer of one process. on_unreadable: told where something was, that cannot be read."""

    def __init__(
        self,
        ledger: RedisLedger,
        zion: ZionClient,
        *,
        flush_seconds: float,
        calls_per_second: float,
        on_unreadable: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._store = ledger.store
        self._pace = Pace(flush_seconds)
        self._journal = Journal(ledger, self._pace, on_unreadable)
        self._deliverers = Deliverers(ledger.store)
        self._zion = zion
        self._flush_seconds = flush_seconds
        self._call_seconds = 1 / calls_per_second
        self._next_call = 0.0
        self._look_at = self._recall_at = 0.0
        self._known = False
        self._connects = 0
        self._queue = Queue(lambda: secrets.token_hex(16))
        self._answers: dict[str, Refusals] = {}
        self._blame = Blame()
        self._singly_until = 0.0
        self._stopping = asyncio.Event()
        self._working = asyncio.Lock()
        self.delivered = Delivered()

    @property
    def name(self) -> str:
        """This process among the deliverers."""
        return self._deliverers.name

    # ------------------------------------------------------------------------------------------------------- running

    async def run(self) -> None:
        """Deliver until `stop`. What nobody has thought of ends this, and it is to be started again."""
        while not self._stopping.is_set():
            due = monotonic() + self._flush_seconds
            self._pace.begin()
            try:
                await self.flush()
            except RedisRefused:
                # Redis is there: what all deliveries need cannot be read.
                raise
            except RedisUnavailable:
                log.debug("the outbox waits for redis")
            await self._rest(max(due, self._queue.pause_until) - monotonic())

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
                if not await self._deliverers.beat():
                    self._known = False
            except RedisRefused:
                raise
            except RedisUnavailable:
                self._known = False
                log.debug("no sign of life while redis is away")
            await pause(BEAT_SECONDS)

    async def stop(self, seconds: float) -> None:
        """Deliver what is there, for at most so long; what remains stays in Redis for whoever comes next."""
        self._stopping.set()
        self._pace.hurry()
        deadline = monotonic() + seconds
        try:
            async with asyncio.timeout(seconds):
                while not await self._flush_safely() and self._may_still_succeed(deadline):
                    await pause(max(0.1, self._queue.pause_until - monotonic()))
        except TimeoutError:
            log.warning("usage stays in the outbox")
        try:
            await self._deliverers.leave(idle=self._known and self._queue.empty)
        except RedisUnavailable:
            log.debug("the others will notice that we are gone")

    def _may_still_succeed(self, deadline: float) -> bool:
        return self._store.failure is None and self._queue.pause_until < deadline and self._queue.failures < _LAST_TRIES

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
        self._journal.sweep(self._deliverers.owned)
        while True:
            await self._look()
            if monotonic() < self._queue.pause_until:
                return False
            held = await self._next()
            if held is None:
                return self._queue.empty
            if self._is_ours and self._known:
                await self._attempt(held)
            else:
                # Somebody may have taken over from us meanwhile.
                self._known, self._look_at = False, 0.0

    @property
    def _is_ours(self) -> bool:
        """Whether nobody else can have taken what we work on."""
        return self._deliverers.sure and self._connects == self._store.connects

    async def _look(self) -> None:
        """Settle which partitions are ours, and recall what there is if that has changed."""
        if self._connects != self._store.connects:
            # It may have come back with an older state, while we know what that has forgotten; or with none, in which
            # others have taken what was ours.
            self._known, self._connects, self._look_at = False, self._store.connects, 0.0
        elif self._store.whole:
            self._journal.age()
        if monotonic() >= self._look_at or not self._deliverers.sure:
            idle = self._known and self._queue.empty
            if await self._deliverers.look(idle=idle):
                self._known = False
            self._look_at = monotonic() + _LOOK_SECONDS
        if not self._known or (monotonic() >= self._recall_at and self._queue.empty):
            await self._recall()

    async def _rest(self, seconds: float) -> None:
        """Wait, at most until a full batch waits."""
        until = monotonic() + seconds
        while (left := until - monotonic()) > 0 and not self._stopping.is_set():
            await self._wait(min(left, _LOOK_SECONDS))
            if left > _LOOK_SECONDS and await self._is_full():
                return

    async def _is_full(self) -> bool:
        try:
            return monotonic() >= self._queue.pause_until and (await self._journal.depth())[0] >= MOST_ITEMS
        except RedisUnavailable:
            return False

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._stopping.wait()
        except TimeoutError:
            return

    # ----------------------------------------------------------------------------------------------------- recalling

    async def _recall(self) -> None:
        """Start again from what Redis knows of our partitions: batches that were sent, records that were read."""
        owned = self._deliverers.owned
        self._queue.forget()
        self._known, self._recall_at = True, monotonic() + _RECALL_SECONDS
        await self._journal.prepare(owned)
        known: set[tuple[int, str]] = set()
        for batch, noted in await self._journal.batches():
            refusals = self._answers.get(batch.key, noted)
            if batch.home in owned and refusals is not None and refusals != ODD:
                await self._take_yes(batch, refusals, None)
                continue
            known.update((item.partition, entry) for item in batch.items for entry in item.entries)
            if batch.home in owned:
                due = monotonic() + DOUBT_SECONDS
                self._queue.held.append(Held(batch, sent=True, doubt=True, odd=refusals == ODD, due=due))
        # What is left of these is of batches that Redis has forgotten.
        self._answers.clear()
        self._queue.loose = await self._journal.pending(owned, known)
        if not self._queue.empty:
            log.info("deliveries are taken up again", batches=len(self._queue.held), items=len(self._queue.loose))

    async def _next(self) -> Held | None:
        """What to send next."""
        if self._queue.wants_more(monotonic()):
            self._queue.add(await self._journal.take(self._deliverers.owned), monotonic())
        singly = monotonic() < self._singly_until
        return self._queue.next(monotonic(), 1 if singly else MOST_ITEMS)

    # ---------------------------------------------------------------------------------------------------- delivering

    async def _attempt(self, held: Held) -> None:
        """Send a batch once and take the answer; or find out what became of it when there was none."""
        if held.doubt:
            await self._settle_doubt(held)
            return
        batch = held.batch
        if not held.sent:
            # Nobody has this batch, so its numbers are those before it, and may be renewed before each attempt.
            await self._journal.note_sent(batch)
        singly = len(batch.items) == 1 and monotonic() < self._singly_until
        await self._turn()
        if not self._is_ours:
            return
        answer = await (
            self._zion.report_one(batch.items[0].increment(), batch.key)
            if singly
            else self._zion.report([item.increment() for item in batch.items], batch.key)
        )
        outcome = Outcome.LATER if answer.not_sent else _outcome(batch, answer, singly=singly)
        if outcome is Outcome.TAKEN:
            await self._taken(held, read_increment(answer.body) if singly else read_results(answer.body))
        elif outcome is Outcome.MISSING and not singly:
            self._singly_until = monotonic() + _SINGLY_SECONDS
            await self._cut(held, 1)
        elif outcome in (Outcome.REFUSED, Outcome.MISSING):
            await self._refused(held, f"status {answer.status}")
        else:
            if outcome is Outcome.DOUBT and answer.taken:
                self.delivered.odd += 1
                held.odd = True
                log.error("zion answers usage with no receipt", status=answer.status, bytes=len(answer.body))
                self._answers[batch.key] = ODD
                await self._journal.note_answer(batch, ODD)
                del self._answers[batch.key]
            self._failed(held, answer, doubt=outcome is Outcome.DOUBT)

    async def _turn(self) -> None:
        """Wait for the next call that Zion can be expected to take; all processes share its patience."""
        now = monotonic()
        start = max(now, self._next_call)
        self._next_call = start + self._call_seconds * self._deliverers.count
        if start > now:
            await pause(start - now)

    async def _taken(self, held: Held, results: list[ItemResult] | None) -> None:
        batch = held.batch
        each = results_by_item(batch.items, results)
        refusals = {
            place: (result.error or "refused")[:200]
            for place, result in enumerate(each)
            if result is not None and not result.success
        }
        # From here on we know, whatever happens to Redis; and so does our successor, once it is written down.
        await self._note(batch, refusals)
        await self._take_yes(batch, refusals, each)
        self._queue.taken(held)
        if len(refusals) < len(batch.items):
            self._blame.passed()
        for place, reason in refusals.items():
            await self._refuse(batch.items[place], reason)

    async def _note(self, batch: Batch, refusals: Refusals) -> None:
        self._answers[batch.key] = refusals
        self._journal.remember_taken(item for place, item in enumerate(batch.items) if place not in refusals)
        await self._journal.note_answer(batch, refusals)

    async def _take_yes(self, batch: Batch, refusals: Refusals, each: Sequence[ItemResult | None] | None) -> None:
        """Drop what Zion has taken. Everything in here may be done again."""
        places = [place for place in range(len(batch.items)) if place not in refusals]
        results = [each[place] if each else None for place in places]
        self.delivered.taken += await self._journal.acknowledge([batch.items[place] for place in places], results)
        await self._journal.forget(batch)
        self._answers.pop(batch.key, None)

    async def _refused(self, held: Held, reason: str) -> None:
        """A batch is refused for its content. Halves are tried, until the item at fault stands alone."""
        items = held.batch.items
        if self._blame.is_outage(monotonic()):
            log.warning("zion refuses everything", items=len(items), reason=reason)
            self._queue.failed(held, monotonic(), doubt=False, at_least=0.0, jitter=_jitter())
            return
        if len(items) > 1:
            log.warning("zion refuses a batch, its halves are sent", items=len(items), reason=reason)
            await self._cut(held, -(-len(items) // 2))
            return
        await self._replace(held, [])
        for spoilt, parts in self._queue.set_apart(items[0].user, monotonic()):
            await self._replace(spoilt, parts)
        await self._refuse(items[0], reason)

    async def _cut(self, held: Held, size: int) -> None:
        """Send a batch, of which nothing was taken, in parts of this size, each under a key of its own."""
        items = held.batch.items
        await self._replace(held, [items[start : start + size] for start in range(0, len(items), size)])

    async def _replace(self, held: Held, parts: Sequence[Sequence[Item]]) -> None:
        await self._journal.forget(held.batch)
        self._queue.replace(held, parts)

    async def _refuse(self, item: Item, reason: str) -> None:
        """An item that Zion says no to is tried again by itself, and goes to the dead letters after three times.

        Unless Zion says no to everybody.
        """
        item.refusals += 1
        item.reason = reason
        self._blame.refused(item.user, monotonic())
        if item.refusals < REFUSALS_ALLOWED or self._blame.is_outage(monotonic()):
            self._queue.hold([item], due=monotonic() + backoff_seconds(item.refusals, _jitter()))
            return
        # Not the reason: Zion's words may name the e-mail address.
        log.error("usage goes to the dead letters", user_id=log_name(item.user))
        self.delivered.dead += await self._journal.bury(item)

    def _failed(self, held: Held, answer: Reported, *, doubt: bool) -> None:
        self.delivered.failures += 1
        at_least = max(answer.retry_after_seconds or 0.0, DOUBT_SECONDS if doubt else 0.0)
        self._queue.failed(held, monotonic(), doubt=doubt, at_least=at_least, jitter=_jitter())
        items = len(held.batch.items)
        log.warning("zion does not take usage", status=answer.status, attempts=held.attempts, items=items)

    # --------------------------------------------------------------------------------------------------------- doubt

    async def _settle_doubt(self, held: Held) -> None:
        """Find out what Zion took of a batch whose answer did not come, or was no receipt."""
        doubt = Doubt(held.batch.items)
        while (user := doubt.next_user()) is not None:
            await self._turn()
            try:
                quota, _ = await self._zion.limits(user)
            except AccessDenied:
                doubt.tell(user, None)
            except ZionUnavailable as error:
                if not await self._impatient(held):
                    self._queue.wait(held, monotonic(), at_least=error.retry_after_seconds or 0.0, jitter=_jitter())
                    return
                if not held.odd:
                    break
                doubt.tell(user, None)
            else:
                doubt.tell(user, quota.used, quota.told)
        await self._resolved(held, doubt)

    async def _impatient(self, held: Held) -> bool:
        """Whether Zion is there and has not told what it has booked for too long. While it is away we can wait.

        What answers reports with pages may answer anything so: then only who speaks of limits is Zion.
        """
        held.doubt_since = held.doubt_since or monotonic()
        if monotonic() - held.doubt_since < _PATIENCE_SECONDS:
            return False
        if not held.odd:
            await self._zion.ping()
            return self._zion.reachable
        try:
            await self._zion.limits(_NOBODY)
        except AccessDenied:
            return True
        except ZionUnavailable:
            return False
        return True

    async def _resolved(self, held: Held, doubt: Doubt) -> None:
        each, batch = doubt.taken(), held.batch
        unknown = each.count(None)
        log.warning("an unanswered batch", items=len(each), taken=each.count(True), unknown=unknown, odd=held.odd)
        self.delivered.ambiguous += unknown
        if held.odd:
            # Somebody has said yes, so a second report is the likelier error.
            each, unknown = [told is not False for told in each], 0
            await self._journal.forget_answer(batch)
        taken = each.count(True)
        held.doubt, held.odd, held.sent = False, False, unknown > 0
        if taken:
            self._blame.passed()
            untaken = {place: "" for place, is_taken in enumerate(each) if not is_taken}
            await self._note(batch, untaken)
            await self._take_yes(batch, untaken, doubt.results())
            self._queue.replace(held, [[batch.items[place] for place in untaken]] if untaken else [])
        elif held.suspect and (not unknown or held.attempts >= GIVE_UP_AFTER):
            await self._refused(held, "it fails while others pass")
        elif not unknown and held.attempts >= PROBE_AFTER and len(each) > 1:
            # Is it one item that makes Zion fail, or is it Zion? Any single one will mostly tell.
            place = random.randrange(len(each))  # noqa: S311 (no secret)
            await self._replace(held, [[batch.items[place]], batch.items[:place] + batch.items[place + 1 :]])
        # Else the same items go again under the same key: a Zion that knows the key takes them once, whatever happened.

    # ------------------------------------------------------------------------------------------------------- looking

    async def depth(self) -> tuple[int, int]:
        """Records that wait, and the moment of the oldest (ms since the epoch, 0 = none). Raises RedisUnavailable."""
        return await self._journal.depth()


def _outcome(batch: Batch, answer: Reported, *, singly: bool) -> Outcome:
    emails = [item.email for item in batch.items]
    told = is_increment_receipt(answer.body) if singly else is_receipt(answer.body, emails)
    return outcome_of(answer.status, says_no=says_no(answer.body), is_receipt=told)


def _jitter() -> float:
    return random.random()  # noqa: S311 (no secret)
