"""The records in Redis: read from the outboxes of our partitions, dropped when they are booked.

A record is new, then pending (somebody has read it), then gone. All processes read under one consumer name, since only
one reads a partition at a time; what is pending and in no batch was read by a process that died before it sent it.

A Redis that comes back may have lost its last moments, and give out again what was booked: the window of recent ids
(`recent_ids.py`) knows it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import compress

import structlog

from sentinel.cache import keys
from sentinel.cache.redis import Script
from sentinel.cache.redis_ledger import RedisLedger, Taken
from sentinel.error import RedisRefused
from sentinel.governance.port import ItemAnswer
from sentinel.limits.policy import FREE
from sentinel.observability.logs import log_name
from sentinel.steps import Steps, in_portions, in_steps
from sentinel.usage.batch import MOST_ITEMS, Item, Items, Record, calls_for
from sentinel.usage.pacer import Pacer
from sentinel.usage.quarantine import Quarantine
from sentinel.usage.recent_ids import REMEMBER_SECONDS, RecentIds
from sentinel.usage.streams import answers_of, first_stream, lengths, read_record

log = structlog.get_logger()

_CONSUMER = b"deliverer"
MOST_RECORDS = 4096
"""Taken at once: an item may then sum up many records, and what is held in memory stays below 2 MB."""

_PAGE = 64
"""So many records are read at once: they are decoded in 0.2 ms."""

_TURN = 4 * _PAGE
"""So many of a partition before it is another's turn. Up to 16,000 records a second what a user has spent since the
last delivery is one item so, and is booked once."""

_ITEMS_DROPPED, _RECORDS_DROPPED = 8, 500
"""By one script at most: a fifth of a millisecond, or half of one, in which Redis does nothing else."""


@dataclass(frozen=True, slots=True)
class _Page:
    """Records that were read at once. after: the entry behind which it goes on, None at the end."""

    records: Sequence[Record]
    after: str | None


_EMPTY = _Page((), None)


class RecordStore:
    """The outboxes of all partitions. Every method may raise RedisUnavailable.

    pacer: waits between the steps of what would hold up requests. remember_seconds: of the window of recent ids.
    """

    def __init__(
        self,
        ledger: RedisLedger,
        pacer: Pacer,
        quarantine: Quarantine,
        remember_seconds: float = REMEMBER_SECONDS,
    ) -> None:
        self._ledger = ledger
        self._store = ledger.store
        self._pacer = pacer
        self._quarantine = quarantine
        self._prepare = Script.of(resources.files(__package__).joinpath("prepare.lua").read_text())
        self._sweep: list[int] = []
        self._on_its_way: dict[tuple[int, str], int] = {}
        self._booked: RecentIds[int] = RecentIds(remember_seconds)

    async def prepare(self, partitions: Iterable[int]) -> None:
        """Make the consumer groups of these partitions."""
        await answers_of(
            lambda p: self._store.script(self._prepare, (keys.outbox(p),), keys.GROUP.encode()), list(partitions)
        )

    def sweep(self, partitions: Iterable[int]) -> None:
        """From now on `take` reads these partitions, from the first to the last."""
        self._sweep = sorted(partitions)

    async def take(self, owned: Collection[int]) -> list[Item]:
        """The next items of the sweep, none when it has come to its end.

        At most MOST_ITEMS, of about MOST_RECORDS records. A partition is read to its end, so that what one user spent
        meanwhile becomes one item, but in turn with others. owned: the others are somebody else's now.
        """
        self._sweep = [p for p in self._sweep if p in owned]
        found = Items()
        # One turn more fits into the call.
        while self._sweep and found.records < MOST_RECORDS and len(found.items) <= MOST_ITEMS - _TURN:
            partition = self._sweep.pop(0)
            more, before = True, found.records
            while more and found.records - before < _TURN:
                page = await self._read(partition, ">", _PAGE)
                found.add(page.records)
                more = page.after is not None
            if more:
                self._sweep.append(partition)
            if found.records > before:
                await self._pacer.step()
        return found.items

    async def pending(self, partitions: Iterable[int], known: set[tuple[int, str]]) -> list[Item]:
        """Records that were read before and are not among the known (partition, entry), as items."""
        self._on_its_way.clear()
        found = Items()
        for partition in sorted(partitions):
            after: str | None = "0"
            while after is not None:
                page = await self._read(partition, after, _PAGE)
                found.add(record for record in page.records if (record.partition, record.entry) not in known)
                after = page.after
        return found.items

    async def _read(self, partition: int, after: str, count: int) -> _Page:
        outbox = keys.outbox(partition)
        words = ("GROUP", keys.GROUP, _CONSUMER, "COUNT", count, "STREAMS", outbox, after)
        try:
            entries = first_stream(await self._store.command("XREADGROUP", *words, key=outbox))
        except RedisRefused:
            self._quarantine.tell("outbox", partition)
            return _EMPTY
        if not entries:
            return _EMPTY
        records = []
        for entry, fields in entries:
            record = read_record(partition, entry, fields)
            if record is None:
                await self._quarantine.add_record(partition, entry.decode())
            else:
                records.append(record)
        return _Page(await self._new(records), entries[-1][0].decode() if len(entries) == count else None)

    async def _new(self, records: list[Record]) -> list[Record]:
        """These, without what is booked: Redis may have lost its last moments."""
        # The record of a request may come back under another name, when it was settled again.
        whats = [hash((record.id, record.spent)) for record in records]
        for record, what in zip(records, whats, strict=True):
            self._on_its_way[record.partition, record.entry] = what
        if not self._booked.has_any(whats):
            return records
        known = [bool(record.id) and what in self._booked for record, what in zip(records, whats, strict=True)]
        if any(known):
            await self._drop(list(compress(records, known)))
        return [record for record, again in zip(records, known, strict=True) if not again]

    async def _drop(self, records: Sequence[Record]) -> None:
        """These are booked already: this Redis has lost its last moments."""
        log.warning("redis has forgotten what was booked", records=len(records))
        items = Items()
        items.add(records)
        await self.acknowledge(items.items, [None] * len(items.items))

    async def depth(self) -> tuple[int, int]:
        """Records that wait, and the moment of the oldest (ms since the epoch, 0 = none)."""
        outboxes = [keys.outbox(partition) for partition in range(keys.PARTITIONS)]
        counts = await lengths(self._store, outboxes)
        firsts = await answers_of(
            lambda outbox: self._store.command("XRANGE", outbox, "-", "+", "COUNT", 1),
            list(compress(outboxes, counts)),
        )
        return sum(counts), min((int(first[0][0].partition(b"-")[0]) for first in firsts if first), default=0)

    def remember_booked(self, items: Iterable[Item]) -> Steps[None]:
        """These are booked: whatever becomes of Redis, they are not given out again."""
        take, since = self._on_its_way.pop, 0
        for item in items:
            for entries in in_portions(item.entries, _PAGE):
                whats = [take((item.partition, entry), None) for entry in entries]
                self._booked.add(what for what in whats if what)
                since += len(whats)
                if since >= _PAGE:
                    since = 0
                    yield

    def let_go(self, item: Item) -> None:
        """This item is not on its way any longer, and was not booked."""
        for entry in item.entries:
            self._on_its_way.pop((item.partition, entry), None)

    async def acknowledge(self, items: Sequence[Item], answers: Sequence[ItemAnswer | None]) -> int:
        """Drop the records of items that are booked; returns how many were still there."""
        await in_steps(self.remember_booked(items))
        told = list(zip(items, answers, strict=True))
        calls = await in_steps(calls_for(told, _ITEMS_DROPPED, lambda one: one[0].partition))
        return sum(await self._pacer.run(self._acknowledge, calls))

    async def _acknowledge(self, told: Sequence[tuple[Item, ItemAnswer | None]]) -> int:
        taken = [piece for item, answer in told for piece in _pieces(item, answer)]
        if len(taken) > 1 and sum(len(piece.entries) for piece in taken) <= _RECORDS_DROPPED:
            try:
                return await self._ledger.acknowledge(taken)
            except RedisRefused:
                log.warning("an account among these cannot be read", items=len(told))
        return sum([await self._acknowledge_one(piece) for piece in taken])

    async def _acknowledge_one(self, piece: Taken) -> int:
        try:
            return await self._ledger.acknowledge([piece])
        except RedisRefused:
            # It is booked, and nobody can write that into the account. It must not be told again.
            self._quarantine.on_unreadable("accounts")
            log.warning("an account cannot be read", user_id=log_name(piece.user))
            outbox = keys.account_keys(piece.user).outbox
            count = int(await self._store.command("XACK", outbox, keys.GROUP, *piece.entries))
            await self._store.command("XDEL", outbox, *piece.entries)
            return count

    def age(self) -> None:
        """Forget what was remembered for long enough. To be called while Redis is there, and only then."""
        self._booked.age()


def _pieces(item: Item, answer: ItemAnswer | None) -> Iterator[Taken]:
    """An item, in pieces where it sums up too many records; the first of them has the sum."""
    told = (answer.used, answer.limits) if answer else ()
    for first in range(0, len(item.entries), _RECORDS_DROPPED):
        spent = FREE if first else item.spent
        yield Taken(item.user, item.entries[first : first + _RECORDS_DROPPED], spent, item.period, *told)
