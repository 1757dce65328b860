"""What Redis remembers of deliveries: the outboxes, the batches that are on their way, and the dead letters.

A record is new, then pending (somebody has read it), then gone. All deliverers read under one consumer name, since only
one reads a partition at a time; what is pending and in no batch was read by a process that died before it sent it.
A batch is written down right before it is sent, and Zion's answer right after it came: so whoever takes over knows
whether it was sent, and whether it was answered.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Generic, TypeVar

import msgspec
import structlog

from sentinel.cache import keys
from sentinel.cache.ledger import Letter, RedisLedger, Taken
from sentinel.cache.redis import Script
from sentinel.clock import monotonic
from sentinel.limits.policy import Ask
from sentinel.tasks import pause
from sentinel.usage.batch import MOST_ITEMS, Batch, Item, Items, Record
from sentinel.usage.pace import Pace
from sentinel.zion.models import ItemResult

log = structlog.get_logger()

R = TypeVar("R")
T = TypeVar("T")

_CONSUMER = b"deliverer"
MOST_RECORDS = 4096
"""Taken at once: an item may then sum up many records, and what is held in memory stays below 2 MB."""

_FEW_ITEMS = 200
"""Taken at once while there is time: what is then done for a batch as a whole takes a millisecond or two."""

_EACH = 256
"""So many records of a partition in one turn, which are decoded in 2 ms. Up to 16,000 records a second what a user has
spent since the last delivery is one item so, and is booked once."""

_ITEMS_DROPPED, _RECORDS_DROPPED = 8, 500
"""By one script at most: a fifth of a millisecond, or half of one, in which Redis does nothing else."""
_ITEMS_LOOKED_UP = 16
"""In one call."""

_REMEMBER_SECONDS = 5.0
"""So long we know what Zion has taken, should Redis forget it: with `appendfsync everysec` that is a second or two."""

_MOST_REMEMBERED = 100_000
"""Twice as many are known at most, 21 MB. At 30,000 a second, more than a process delivers, those are 3 s at least."""

_ANSWER = b":answer"

Refusals = dict[int, str]
"""Zion's answer to a batch, as it is written down: the places of the items that it refused, with its reasons."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter: usage that Zion has refused for good."""

    partition: int
    entry: str
    record: Record
    reason: str


class Journal:
    """The outboxes, batches and dead letters of all partitions. Every method may raise RedisUnavailable.

    pace: waits between the steps of what would hold up requests.
    """

    def __init__(self, ledger: RedisLedger, pace: Pace | None = None) -> None:
        self._ledger = ledger
        self._pace = pace or Pace(0)
        self._store = ledger.store
        folder = resources.files(__package__)
        self._prepare, self._requeue = (
            Script.of(folder.joinpath(f"{name}.lua").read_text()) for name in ("prepare", "requeue")
        )
        self._sweep: list[int] = []
        self._on_its_way: dict[tuple[int, str], int] = {}
        self._taken: _Lately[int] = _Lately()
        self._done: _Lately[str] = _Lately()

    # ------------------------------------------------------------------------------------------------------- records

    async def prepare(self, partitions: Iterable[int]) -> None:
        """Make the consumer groups of these partitions."""
        await asyncio.gather(
            *(self._store.script(self._prepare, (keys.outbox(p),), keys.GROUP.encode()) for p in partitions)
        )

    def sweep(self, partitions: Iterable[int]) -> None:
        """From now on `take` reads these partitions, from the first to the last."""
        self._sweep = sorted(partitions)

    async def take(self, owned: Collection[int]) -> list[Item]:
        """The next items of the sweep, none when it has come to its end.

        About MOST_ITEMS, of MOST_RECORDS records; fewer while there is time, for what is done for a batch as a whole
        holds up requests. A partition is read to its end, so that what one user spent meanwhile becomes one item, but
        in turn with others. owned: the others are somebody else's now.
        """
        self._sweep = [p for p in self._sweep if p in owned]
        found = Items()
        # So that one page more fits into the call.
        most = MOST_ITEMS - _EACH if self._pace.is_over else _FEW_ITEMS
        while self._sweep and found.records < MOST_RECORDS and len(found.items) < most:
            partition = self._sweep.pop(0)
            read = await self._read(partition, ">", _EACH)
            found.add(read)
            if len(read) == _EACH:
                self._sweep.append(partition)
            if read:
                await self._pace.step()
        return found.items

    async def pending(self, partitions: Iterable[int], known: set[tuple[int, str]]) -> list[Item]:
        """Records that were read before and are not among the known (partition, entry), as items."""
        self._on_its_way.clear()
        found = Items()
        after = dict.fromkeys(sorted(partitions), "0")
        while after:
            pages = await asyncio.gather(*(self._read(p, entry, _EACH) for p, entry in after.items()))
            for page in pages:
                found.add(record for record in page if (record.partition, record.entry) not in known)
                await pause(0)
            after = {page[-1].partition: page[-1].entry for page in pages if page}
        return found.items

    async def _read(self, partition: int, after: str, count: int) -> list[Record]:
        outbox = keys.outbox(partition)
        words = ("GROUP", keys.GROUP, _CONSUMER, "COUNT", count, "STREAMS", outbox, after)
        answer = await self._store.command("XREADGROUP", *words, key=outbox)
        found = [read_record(partition, entry, fields) for entry, fields in _entries(answer)]
        records = [record for record in found if record is not None]
        again = []
        for record in records:
            # The record of a request may come back under another name, when it was settled again.
            what = hash((record.id, record.spent))
            self._on_its_way[record.partition, record.entry] = what
            if record.id and what in self._taken:
                again.append(record)
        if again:
            await self._drop(again)
            records = [record for record in records if record not in again]
        return records

    async def _drop(self, records: Sequence[Record]) -> None:
        """Zion has these already: this Redis has lost its last moments."""
        log.warning("redis has forgotten what zion has taken", records=len(records))
        items = Items()
        items.add(records)
        await self.acknowledge(items.items, [None] * len(items.items))

    async def depth(self) -> tuple[int, int]:
        """Records that wait, and the moment of the oldest (ms since the epoch, 0 = none)."""
        lengths = await asyncio.gather(*(self._store.command("XLEN", keys.outbox(p)) for p in range(keys.PARTITIONS)))
        firsts = await asyncio.gather(
            *(
                self._store.command("XRANGE", keys.outbox(p), "-", "+", "COUNT", 1)
                for p, length in enumerate(lengths)
                if length
            )
        )
        return sum(lengths), min((int(first[0][0].partition(b"-")[0]) for first in firsts if first), default=0)

    # ------------------------------------------------------------------------------------------------------- batches

    async def note_sent(self, batch: Batch) -> None:
        """Write down that this batch is sent from now on, with what Zion's numbers are before that."""
        await self._in_steps(self._look_up, _portions(batch.items, _ITEMS_LOOKED_UP, lambda item: item.partition))
        await self._store.command("HSET", keys.BATCHES, batch.key, msgspec.json.encode(batch))

    async def _look_up(self, items: Sequence[Item]) -> None:
        before = await self._ledger.known_used([item.user for item in items])
        for item, used in zip(items, before, strict=True):
            item.before = used

    async def _in_steps(self, work: Callable[[T], Awaitable[R]], portions: Sequence[T]) -> list[R]:
        """The results of this work on all portions, one after the other, at our pace."""
        done: list[R] = []
        for portion in portions:
            done.append(await work(portion))
            await self._pace.step()
        return done

    def remember_taken(self, items: Iterable[Item]) -> None:
        """Zion has taken these: whatever becomes of Redis, they are not given out again."""
        for item in items:
            whats = (self._on_its_way.pop((item.partition, entry), None) for entry in item.entries)
            self._taken.update(what for what in whats if what)

    async def note_answer(self, batch: Batch, refusals: Refusals) -> None:
        """Write down what Zion said to a batch."""
        await self._store.command("HSET", keys.BATCHES, batch.key.encode() + _ANSWER, msgspec.json.encode(refusals))

    async def forget(self, batch: Batch) -> None:
        """Nothing more is to be known of this batch. Should Redis forget that, it will hear it again."""
        self._done.update((batch.key,))
        await self._store.command("HDEL", keys.BATCHES, batch.key, batch.key.encode() + _ANSWER)

    async def batches(self) -> list[tuple[Batch, Refusals | None]]:
        """All batches that were sent, of all processes, with Zion's answer where it came.

        Not those that we were done with. What Zion has taken of them `_read` knows from `remember_taken`; to ask Zion
        would tell nothing, for it has booked later ones since.
        """
        fields = _pairs(await self._store.command("HGETALL", keys.BATCHES))
        found = []
        for key, value in fields.items():
            if key.endswith(_ANSWER):
                continue
            try:
                batch = msgspec.json.decode(value, type=Batch)
                refusals = _refusals(fields.get(key + _ANSWER))
            except msgspec.DecodeError:
                log.warning("no batch of this version", key=key.decode(errors="replace"))
                continue
            if batch.key in self._done:
                await self.forget(batch)
            else:
                found.append((batch, refusals))
        return found

    async def acknowledge(self, items: Sequence[Item], results: Sequence[ItemResult | None]) -> int:
        """Drop the records of items that Zion has taken; returns how many were still there."""
        self.remember_taken(items)
        told = list(zip(items, results, strict=True))
        return sum(
            await self._in_steps(self._acknowledge, _portions(told, _ITEMS_DROPPED, lambda one: one[0].partition))
        )

    async def _acknowledge(self, told: Sequence[tuple[Item, ItemResult | None]]) -> int:
        taken = [piece for item, result in told for piece in _pieces(item, result)]
        if sum(len(piece.entries) for piece in taken) <= _RECORDS_DROPPED:
            return await self._ledger.acknowledge(taken)
        return sum([await self._ledger.acknowledge([piece]) for piece in taken])

    # -------------------------------------------------------------------------------------------------- dead letters

    async def bury(self, item: Item) -> int:
        """Move the records of a refused item to the dead letters, as one; returns how many there were."""
        for entry in item.entries:
            self._on_its_way.pop((item.partition, entry), None)
        letter = Letter(Ask("", item.user, item.email, item.model, 0, 0), item.at_ms, item.reason)
        return await self._ledger.acknowledge([Taken(item.user, item.entries, item.spent, item.period)], letter)

    async def letters(self) -> list[DeadLetter]:
        """All dead letters, partition by partition."""
        found = []
        for p in range(keys.PARTITIONS):
            for entry, fields in _rows(await self._store.command("XRANGE", keys.dead_letters(p), "-", "+")):
                record = read_record(p, entry, fields)
                if record is not None:
                    found.append(DeadLetter(p, entry.decode(), record, fields.get(b"reason", b"").decode()))
        return found

    async def requeue(self, letter: DeadLetter) -> str | None:
        """Put a dead letter back into its outbox; returns its entry there, None if somebody did that before."""
        stream, outbox = keys.dead_letters(letter.partition), keys.outbox(letter.partition)
        entry: bytes | None = await self._store.script(self._requeue, (stream, outbox), letter.entry.encode())
        return None if entry is None else entry.decode()

    async def is_waiting(self, partition: int, entry: str) -> bool:
        """Whether this record is still in its outbox."""
        return bool(await self._store.command("XRANGE", keys.outbox(partition), entry, entry))


class _Lately(Generic[T]):
    """What happened in the last _REMEMBER_SECONDS, and longer while nothing happens."""

    def __init__(self) -> None:
        self._new: set[T] = set()
        self._old: set[T] = set()
        self._since = 0.0

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    def __contains__(self, thing: T) -> bool:
        return thing in self._new or thing in self._old

    def update(self, things: Iterable[T]) -> None:
        """They happened now."""
        if monotonic() - self._since > _REMEMBER_SECONDS or len(self._new) >= _MOST_REMEMBERED:
            self._new, self._old, self._since = set(), self._new, monotonic()
        self._new.update(things)


def _portions(things: Iterable[T], most: int, partition_of: Callable[[T], int]) -> list[list[T]]:
    """What may go in one call each: things of one partition, at most so many."""
    full: list[list[T]] = []
    open_: dict[int, list[T]] = {}
    for thing in things:
        partition = partition_of(thing)
        portion = open_.setdefault(partition, [])
        portion.append(thing)
        if len(portion) == most:
            full.append(open_.pop(partition))
    return [*full, *open_.values()]


def _pieces(item: Item, result: ItemResult | None) -> Iterator[Taken]:
    """An item, in pieces where it sums up too many records; the first of them has the sum."""
    told = (result.new_values(), result.limits()) if result else ()
    for first in range(0, len(item.entries), _RECORDS_DROPPED):
        spent = (0, 0, 0) if first else item.spent
        yield Taken(item.user, item.entries[first : first + _RECORDS_DROPPED], spent, item.period, *told)


def read_record(partition: int, entry: bytes, fields: Mapping[bytes, bytes]) -> Record | None:
    """The record; None, and a line in the log, for something that others have put there."""
    try:
        return Record.read(partition, entry, fields)
    except (KeyError, ValueError, struct.error) as error:
        log.warning("no usage record", partition=partition, entry=entry.decode(), reason=repr(error))
        return None


def _refusals(value: bytes | None) -> Refusals | None:
    return None if value is None else msgspec.json.decode(value, type=Refusals)


def _pairs(answer: Any) -> dict[bytes, bytes]:
    """A map, which comes as a flat list from a single Redis and as a dict from redis-py."""
    if isinstance(answer, dict):
        return answer
    values = iter(answer or ())
    return dict(zip(values, values, strict=True))


def _rows(answer: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    return [(entry, _pairs(fields)) for entry, fields in answer or ()]


def _entries(answer: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """The entries of the one stream of an XREADGROUP answer."""
    return _rows(answer[0][1]) if answer else []
