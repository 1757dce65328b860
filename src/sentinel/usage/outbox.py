"""Delivers the outbox to Zion: streams -> batches -> Zion -> acknowledgements.

Every process delivers, as one consumer of the group. What it has taken is remembered twice before Zion hears of it: in
the pending lists of the streams, and as a batch under `sentinel:batches`, so that whoever takes over after a death
sends the same items under the same key. A process is dead when its heartbeat has ended.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from sentinel.cache import keys
from sentinel.cache.ledger import RedisLedger
from sentinel.clock import monotonic
from sentinel.error import RedisUnavailable
from sentinel.limits.policy import Triple
from sentinel.tasks import pause
from sentinel.usage.batch import (
    MOST_ITEMS,
    REFUSALS_ALLOWED,
    Batch,
    Item,
    Outcome,
    Record,
    backoff_seconds,
    items_of,
    outcome_of,
    results_by_item,
    shares_of,
)
from sentinel.zion.client import Reported, ZionClient
from sentinel.zion.models import ItemResult, read_increment, read_results

log = structlog.get_logger()

HEARTBEAT_SECONDS = 3
DEAD_AFTER_SECONDS = 10
_RECOVER_SECONDS = 5.0
_TAKE = 2000
"""Records taken from a partition at once: about 0.5 MB, and a millisecond or two to read."""

_ASK_AGAIN_SECONDS = 300.0
_UNKNOWN: Triple = (-1, -1, -1)
_UNTOLD: Triple = (-2, -2, -2)

_AWAY = (RedisError, RedisUnavailable, OSError, TimeoutError)


@dataclass(slots=True)
class Delivered:
    """Counts for the metrics: records by what became of them, and calls to Zion by their status."""

    taken: int = 0
    dead: int = 0
    unsure: int = 0
    failures: int = 0


class Outbox:
    """The deliverer of one process."""

    def __init__(self, ledger: RedisLedger, zion: ZionClient, *, flush_seconds: float, calls_per_second: float) -> None:
        self._store = ledger.store
        self._ledger = ledger
        self._zion = zion
        self._flush_seconds = flush_seconds
        self._call_seconds = 1 / calls_per_second
        self._next_call = 0.0
        self._mine: list[Batch] = []
        self._claimed: list[Record] = []
        self._recover_at = 0.0
        self._singly_until = 0.0
        self._grouped = False
        self._stopping = asyncio.Event()
        self.name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self.delivered = Delivered()

    # ------------------------------------------------------------------------------------------------------- running

    async def run(self) -> None:
        """Deliver until `stop`."""
        while not self._stopping.is_set():
            try:
                await self.flush()
            except _AWAY as error:
                self._grouped = False
                log.warning("the outbox waits for redis", reason=type(error).__name__)
            await self._wait(self._flush_seconds)

    async def beat(self) -> None:
        """Say every few seconds that this process lives, for ever."""
        while True:
            try:
                await self._store.command("SET", self._heartbeat(self.name), 1, "EX", DEAD_AFTER_SECONDS)
            except RedisUnavailable:
                log.debug("no heartbeat while redis is away")
            await pause(HEARTBEAT_SECONDS)

    async def stop(self, seconds: float) -> None:
        """Deliver what is there, for at most so long; what remains stays in Redis for whoever comes next."""
        self._stopping.set()
        try:
            async with asyncio.timeout(seconds):
                while await self.flush(final=True):
                    pass
        except _AWAY as error:
            log.warning("usage stays in the outbox", reason=type(error).__name__)
        try:
            await self._store.command("DEL", self._heartbeat(self.name))
        except RedisUnavailable:
            log.debug("the heartbeat ends by itself")

    async def flush(self, *, final: bool = False) -> int:
        """Deliver once: batches that wait, then new records; returns how many records Zion took.

        final: do not wait for a batch whose turn has not come.
        """
        if not self._grouped:
            await self._create_groups()
        if monotonic() >= self._recover_at:
            self._recover_at = monotonic() + _RECOVER_SECONDS
            await self._recover()
        before = self.delivered.taken
        waiting = list(self._mine)
        while True:
            for batch in waiting:
                if not await self._deliver(batch, final=final):
                    return self.delivered.taken - before
            # Items that Zion refused are in batches of their own now; they wait for the next flush, new records do not.
            records = await self._take()
            if not records:
                return self.delivered.taken - before
            waiting = await self._make(items_of(records))

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._stopping.wait()
        except TimeoutError:
            return

    # -------------------------------------------------------------------------------------------------------- taking

    async def _each(self, partitions: Iterable[int], call: Callable[[Any, int], Any]) -> list[Any]:
        """One Redis call for each partition: in one pipeline, or node by node in a cluster."""
        client = self._store.client
        if isinstance(client, Redis):
            async with client.pipeline(transaction=False) as pipeline:
                for p in partitions:
                    call(pipeline, p)
                return await pipeline.execute(raise_on_error=False)
        calls: list[Awaitable[Any]] = [call(client, p) for p in partitions]
        return list(await asyncio.gather(*calls, return_exceptions=True))

    async def _create_groups(self) -> None:
        answers = await self._each(
            range(keys.PARTITIONS), lambda c, p: c.xgroup_create(keys.outbox(p), keys.GROUP, "0", mkstream=True)
        )
        for answer in answers:
            if isinstance(answer, Exception) and not str(answer).startswith("BUSYGROUP"):
                raise answer
        self._grouped = True

    async def _take(self) -> list[Record]:
        records, self._claimed = self._claimed, []
        answers = await self._each(
            range(keys.PARTITIONS),
            lambda c, p: c.xreadgroup(keys.GROUP, self.name, {keys.outbox(p): ">"}, count=_TAKE),
        )
        for p, answer in enumerate(answers):
            if isinstance(answer, Exception):
                # The stream is gone, with its group: Redis has restarted empty.
                self._grouped = self._grouped and not str(answer).startswith("NOGROUP")
                if not isinstance(answer, ResponseError):
                    raise answer
                continue
            for _, entries in _streams(answer):
                records += [Record.read(p, entry, fields) for entry, fields in entries if fields]
        return records

    async def _make(self, items: Sequence[Item]) -> list[Batch]:
        """Batches of these items, remembered in Redis before anything else happens to them."""
        batches = [
            Batch(key=secrets.token_hex(16), owner=self.name, items=list(items[start : start + MOST_ITEMS]))
            for start in range(0, len(items), MOST_ITEMS)
        ]
        for batch in batches:
            await self._remember(batch)
            self._mine.append(batch)
        return batches

    async def _remember(self, batch: Batch) -> None:
        await self._store.command("HSET", keys.BATCHES, batch.key, msgspec.json.encode(batch))

    async def _forget(self, batch: Batch) -> None:
        if batch in self._mine:
            self._mine.remove(batch)
        await self._store.command("HDEL", keys.BATCHES, batch.key)

    # ---------------------------------------------------------------------------------------------------- delivering

    async def _deliver(self, batch: Batch, *, final: bool) -> bool:
        """Send a batch until Zion has said yes or no to each of its items; False if it has to wait."""
        while batch in self._mine:
            answer = await self._send(batch)
            outcome = outcome_of(answer.status, len(batch.items))
            if outcome is Outcome.MISSING:
                self._singly_until = monotonic() + _ASK_AGAIN_SECONDS
                if not await self._deliver_singly(batch, final=final):
                    return False
            elif outcome is Outcome.TAKEN:
                await self._taken(batch, read_results(answer.body))
            elif outcome is Outcome.SPLIT:
                await self._split(batch)
            elif outcome is Outcome.REFUSED:
                await self._refused(batch.items, f"status {answer.status}")
                await self._forget(batch)
            elif not await self._again(batch, answer, final=final):
                return False
        return True

    async def _send(self, batch: Batch) -> Reported:
        if monotonic() < self._singly_until:
            return Reported(404)
        await self._turn()
        return await self._zion.report([item.increment() for item in batch.items], batch.key)

    async def _turn(self) -> None:
        """Wait for the next call that Zion can be expected to take."""
        now = monotonic()
        start = max(now, self._next_call)
        self._next_call = start + self._call_seconds
        if start > now:
            await pause(start - now)

    async def _again(self, batch: Batch, answer: Reported, *, final: bool) -> bool:
        """Prepare the next attempt; False where it has to wait for another flush."""
        batch.attempts += 1
        self.delivered.failures += 1
        if answer.status == 0 and not answer.not_sent and not batch.unsure:
            batch.unsure = True
            self.delivered.unsure += 1
            await self._remember(batch)
        log.warning("zion does not take usage", status=answer.status, attempts=batch.attempts, items=len(batch.items))
        if final or self._stopping.is_set():
            return False
        seconds = backoff_seconds(batch.attempts, random.random())  # noqa: S311 (no secret)
        await self._wait(max(seconds, answer.retry_after_seconds or 0))
        return not self._stopping.is_set()

    async def _deliver_singly(self, batch: Batch, *, final: bool) -> bool:
        """Without batches at Zion: one call for each item, under keys that stay the same over retries."""
        while batch.items and batch in self._mine:
            item = batch.items[0]
            await self._turn()
            answer = await self._zion.report_one(item.increment(), f"{batch.key}-{item.records[0].entry}")
            outcome = outcome_of(answer.status, 1)
            if outcome is Outcome.TAKEN:
                await self._acknowledge(item, read_increment(answer.body))
            elif outcome in (Outcome.REFUSED, Outcome.MISSING):
                await self._refused([item], f"status {answer.status}")
            elif not await self._again(batch, answer, final=final):
                return False
            else:
                continue
            batch.items.pop(0)
            await self._remember(batch)
        await self._forget(batch)
        return True

    async def _split(self, batch: Batch) -> None:
        """Zion refuses the content of a batch: send its halves instead."""
        half = len(batch.items) // 2
        await self._make(batch.items[:half])
        await self._make(batch.items[half:])
        await self._forget(batch)
        log.warning("zion refuses a batch, its halves are sent", items=len(batch.items))

    async def _taken(self, batch: Batch, results: list[ItemResult] | None) -> None:
        refused: list[Item] = []
        for item, result in zip(batch.items, results_by_item(batch.items, results), strict=True):
            if result is None or result.success:
                await self._acknowledge(item, result)
            else:
                item.reason = (result.error or "refused")[:200]
                refused.append(item)
        if refused:
            await self._refused(refused, "")
        await self._forget(batch)

    async def _acknowledge(self, item: Item, result: ItemResult | None) -> None:
        new, limit = (result.new_values(), result.limits()) if result else (_UNKNOWN, _UNTOLD)
        for share in shares_of(item):
            for start in range(0, len(share.entries), 1000):
                entries = [entry.encode() for entry in share.entries[start : start + 1000]]
                part = share.spent if start == 0 else (0, 0, 0)
                await self._ledger.acknowledge(share.user, entries, part, share.period, new, limit)
        self.delivered.taken += len(item.records)

    async def _refused(self, items: Sequence[Item], reason: str) -> None:
        """Items that Zion says no to: a batch of their own, so that they block nobody; after three times the morgue."""
        again: list[Item] = []
        for item in items:
            item.refusals += 1
            item.reason = item.reason or reason
            if item.refusals < REFUSALS_ALLOWED:
                again.append(item)
            else:
                await self._bury(item)
        if again:
            await self._make(again)

    async def _bury(self, item: Item) -> None:
        log.error("usage goes to the dead letters", user_id=item.records[0].user, reason=item.reason)
        await self._store.command(
            "XADD", keys.DEAD_LETTERS, "*", "item", msgspec.json.encode(item), "reason", item.reason or "refused"
        )
        self.delivered.dead += len(item.records)
        await self._acknowledge(item, None)
        self.delivered.taken -= len(item.records)

    # ---------------------------------------------------------------------------------------------------- recovering

    @staticmethod
    def _heartbeat(name: str) -> str:
        return f"sentinel:consumer:{name}"

    async def _recover(self) -> None:
        """Take over what dead processes have left: first their batches, then records that are in no batch."""
        lock = await self._store.command("SET", "sentinel:recovery", self.name, "NX", "EX", 30)
        if lock is None:
            return
        try:
            consumers = await self._consumers()
            batches = await self._batches()
            names = {name for _, name, _ in consumers} | {batch.owner for batch in batches}
            dead = {name for name in names - {self.name} if not await self._alive(name)}
            for batch in batches:
                if batch.owner in dead:
                    batch.owner = self.name
                    await self._remember(batch)
                    self._mine.append(batch)
            batched = {(r.partition, r.entry) for batch in batches for item in batch.items for r in item.records}
            for partition, name, pending in consumers:
                if name in dead:
                    await self._claim(partition, name, pending, batched)
        finally:
            await self._store.command("DEL", "sentinel:recovery")

    async def _alive(self, name: str) -> bool:
        return bool(await self._store.command("EXISTS", self._heartbeat(name)))

    async def _consumers(self) -> list[tuple[int, str, int]]:
        """(partition, name, pending records) of every consumer."""
        answers = await self._each(range(keys.PARTITIONS), lambda c, p: c.xinfo_consumers(keys.outbox(p), keys.GROUP))
        return [
            (p, _text(consumer["name"]), int(consumer["pending"]))
            for p, answer in enumerate(answers)
            if not isinstance(answer, Exception)
            for consumer in answer
        ]

    async def _batches(self) -> list[Batch]:
        stored = await self._store.client.hgetall(keys.BATCHES)
        return [msgspec.json.decode(value, type=Batch) for value in stored.values()]

    async def _claim(self, partition: int, name: str, pending: int, batched: set[tuple[int, str]]) -> None:
        client: Any = self._store.client
        stream = keys.outbox(partition)
        if pending:
            found = await client.xpending_range(stream, keys.GROUP, "-", "+", pending, consumername=name)
            ids = [entry["message_id"] for entry in found]
            for start in range(0, len(ids), _TAKE):
                entries = await client.xclaim(stream, keys.GROUP, self.name, 0, ids[start : start + _TAKE])
                self._claimed += [
                    Record.read(partition, entry, fields)
                    for entry, fields in entries
                    if fields and (partition, _text(entry)) not in batched
                ]
            log.info("records of a dead process are taken over", process=name, records=len(ids))
        await client.xgroup_delconsumer(stream, keys.GROUP, name)

    # ------------------------------------------------------------------------------------------------------- looking

    async def depth(self) -> tuple[int, int]:
        """Records that wait, and the moment of the oldest (ms since the epoch, 0 = none). Raises RedisUnavailable."""
        try:
            lengths = await self._each(range(keys.PARTITIONS), lambda c, p: c.xlen(keys.outbox(p)))
            filled = [p for p, length in enumerate(lengths) if isinstance(length, int) and length]
            firsts = await self._each(filled, lambda c, p: c.xrange(keys.outbox(p), count=1)) if filled else []
        except _AWAY as error:
            raise RedisUnavailable("The store is away.") from error
        ages = [int(_text(first[0][0]).partition("-")[0]) for first in firsts if isinstance(first, list) and first]
        return sum(length for length in lengths if isinstance(length, int)), min(ages, default=0)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _streams(answer: Any) -> Iterable[tuple[Any, list[tuple[bytes, dict[bytes, bytes]]]]]:
    """The streams of an XREADGROUP answer: a list in RESP2, a map of lists of lists in RESP3."""
    if isinstance(answer, dict):
        return [(name, lists[0]) for name, lists in answer.items() if lists]
    return answer or []
