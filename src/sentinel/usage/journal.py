"""What Redis remembers of deliveries: the outboxes, the batches that are on their way, and the dead letters.

A record is new, then pending (somebody has read it), then gone. All deliverers read under one consumer name, since only
one reads a partition at a time; what is pending and in no batch was read by a process that died before it sent it.
A batch is written down right before it is sent, and Zion's answer right after it came: so whoever takes over knows
whether it was sent, and whether it was answered.

What cannot be read is set aside by itself, counted and told of; one partition whose keys are of a wrong type stops no
other.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeVar

import msgspec
import structlog

from sentinel.cache import keys
from sentinel.cache.redis import Script
from sentinel.cache.redis_ledger import Letter, RedisLedger, Taken
from sentinel.cache.subscription import known_email
from sentinel.clock import monotonic
from sentinel.error import RedisRefused
from sentinel.limits.policy import Ask
from sentinel.observability.logs import log_name
from sentinel.tasks import pause
from sentinel.usage.batch import MOST_ITEMS, Batch, Item, Items, Record
from sentinel.usage.lately import Lately
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

_TELL_SECONDS = 60.0
"""A partition that cannot be read is told of so often."""

_LETTERS = 256
"""Dead letters that are held in memory."""

_ANSWER = b":answer"

Refusals = dict[int, str]
"""Zion's answer to a batch, as it is written down: the places of the items that it refused, with its reasons."""
ODD: Refusals = {-1: "no receipt"}
"""A 2xx that is no receipt. Who does not know this takes it for a yes."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter: usage that Zion has refused for good. record: None where it cannot be read."""

    partition: int
    entry: str
    record: Record | None
    reason: str


@dataclass(frozen=True, slots=True)
class _Page:
    """Records that were read at once. after: the entry behind which it goes on, None at the end."""

    records: list[Record]
    after: str | None


class Journal:
    """The outboxes, batches and dead letters of all partitions. Every method may raise RedisUnavailable.

    pace: waits between the steps of what would hold up requests. on_unreadable: told where something was, that cannot
    be read.
    """

    def __init__(
        self,
        ledger: RedisLedger,
        pace: Pace | None = None,
        on_unreadable: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._ledger = ledger
        self._pace = pace or Pace(0)
        self._on_unreadable = on_unreadable
        self._told_at: dict[int, float] = {}
        self._store = ledger.store
        folder = resources.files(__package__)
        self._prepare, self._set_aside = (
            Script.of(folder.joinpath(f"{name}.lua").read_text()) for name in ("prepare", "set_aside")
        )
        self._sweep: list[int] = []
        self._on_its_way: dict[tuple[int, str], int] = {}
        self._taken: Lately[int] = Lately()
        self._done: Lately[str] = Lately()

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
            page = await self._read(partition, ">", _EACH)
            found.add(page.records)
            if page.after is not None:
                self._sweep.append(partition)
            if page.records:
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
                found.add(record for record in page.records if (record.partition, record.entry) not in known)
                await pause(0)
            after = {p: page.after for p, page in zip(after, pages, strict=True) if page.after is not None}
        return found.items

    async def _read(self, partition: int, after: str, count: int) -> _Page:
        outbox = keys.outbox(partition)
        words = ("GROUP", keys.GROUP, _CONSUMER, "COUNT", count, "STREAMS", outbox, after)
        try:
            entries = _entries(await self._store.command("XREADGROUP", *words, key=outbox))
        except RedisRefused:
            self._tell("outbox", partition)
            return _Page([], None)
        records = []
        for entry, fields in entries:
            record = read_record(partition, entry, fields)
            if record is None:
                await self._put_aside(partition, entry.decode())
            else:
                records.append(record)
        return _Page(await self._new(records), entries[-1][0].decode() if len(entries) == count else None)

    async def _new(self, records: list[Record]) -> list[Record]:
        """These, without what Zion has: Redis may have lost its last moments."""
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

    async def _put_aside(self, partition: int, entry: str) -> None:
        self._on_unreadable("outbox")
        stream, aside = keys.outbox(partition), keys.unreadable(partition)
        try:
            await self._store.script(self._set_aside, (stream, aside), keys.GROUP, entry)
        except RedisRefused:
            # It stays among what was read and is not done with.
            log.warning("an unreadable record cannot be set aside", partition=partition, entry=entry)

    def _tell(self, where: str, partition: int) -> None:
        """A whole partition cannot be read: an operator has to look."""
        now = monotonic()
        if now - self._told_at.get(partition, -_TELL_SECONDS) >= _TELL_SECONDS:
            self._told_at[partition] = now
            self._on_unreadable(where)
            log.error("a partition cannot be read", where=where, partition=partition)

    async def _drop(self, records: Sequence[Record]) -> None:
        """Zion has these already: this Redis has lost its last moments."""
        log.warning("redis has forgotten what zion has taken", records=len(records))
        items = Items()
        items.add(records)
        await self.acknowledge(items.items, [None] * len(items.items))

    async def depth(self) -> tuple[int, int]:
        """Records that wait, and the moment of the oldest (ms since the epoch, 0 = none)."""
        lengths = await asyncio.gather(*(self._length(keys.outbox(p)) for p in range(keys.PARTITIONS)))
        firsts = await asyncio.gather(
            *(
                self._store.command("XRANGE", keys.outbox(p), "-", "+", "COUNT", 1)
                for p, length in enumerate(lengths)
                if length
            )
        )
        return sum(lengths), min((int(first[0][0].partition(b"-")[0]) for first in firsts if first), default=0)

    async def _length(self, stream: bytes) -> int:
        try:
            return int(await self._store.command("XLEN", stream))
        except RedisRefused:
            return 0

    # ------------------------------------------------------------------------------------------------------- batches

    async def note_sent(self, batch: Batch) -> None:
        """Write down that this batch is sent from now on, with what Zion's numbers are before that."""
        await self._in_steps(self._look_up, _portions(batch.items, _ITEMS_LOOKED_UP, lambda item: item.partition))
        await self._store.command("HSET", keys.batches(), batch.key, msgspec.json.encode(batch))

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
        await self._store.command("HSET", keys.batches(), batch.key.encode() + _ANSWER, msgspec.json.encode(refusals))

    async def forget_answer(self, batch: Batch) -> None:
        """This batch is sent once more; what was said to it counts no longer."""
        await self._store.command("HDEL", keys.batches(), batch.key.encode() + _ANSWER)

    async def forget(self, batch: Batch) -> None:
        """Nothing more is to be known of this batch. Should Redis forget that, it will hear it again."""
        self._done.update((batch.key,))
        await self._store.command("HDEL", keys.batches(), batch.key, batch.key.encode() + _ANSWER)

    async def batches(self) -> list[tuple[Batch, Refusals | None]]:
        """All batches that were sent, of all processes, with Zion's answer where it came.

        Not those that we were done with. What Zion has taken of them `_read` knows from `remember_taken`; to ask Zion
        would tell nothing, for it has booked later ones since.
        """
        fields = _pairs(await self._store.command("HGETALL", keys.batches()))
        found = []
        for key, value in fields.items():
            if key.endswith(_ANSWER):
                continue
            batch = _read_batch(key, value)
            if batch is None:
                await self._put_batch_aside(key, value)
            elif batch.key in self._done:
                await self.forget(batch)
            else:
                found.append((batch, _refusals(fields.get(key + _ANSWER))))
        return found

    async def _put_batch_aside(self, key: bytes, value: bytes) -> None:
        """Its records are read once more: whether Zion has taken them, nobody knows then."""
        self._on_unreadable("batches")
        log.error("a batch cannot be read", key=key.decode(errors="replace")[:64])
        await self._store.command("HSET", keys.unreadable_batches(), key, value)
        await self._store.command("HDEL", keys.batches(), key, key + _ANSWER)

    async def acknowledge(self, items: Sequence[Item], results: Sequence[ItemResult | None]) -> int:
        """Drop the records of items that Zion has taken; returns how many were still there."""
        self.remember_taken(items)
        told = list(zip(items, results, strict=True))
        return sum(
            await self._in_steps(self._acknowledge, _portions(told, _ITEMS_DROPPED, lambda one: one[0].partition))
        )

    async def _acknowledge(self, told: Sequence[tuple[Item, ItemResult | None]]) -> int:
        taken = [piece for item, result in told for piece in _pieces(item, result)]
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
            # Zion has it, and nobody can write that into the account. It must not be told again.
            self._on_unreadable("accounts")
            log.warning("an account cannot be read", user_id=log_name(piece.user))
            outbox = keys.account_keys(piece.user).outbox
            count = int(await self._store.command("XACK", outbox, keys.GROUP, *piece.entries))
            await self._store.command("XDEL", outbox, *piece.entries)
            return count

    def age(self) -> None:
        """Forget what was remembered for long enough. To be called while Redis is there, and only then."""
        self._taken.age()
        self._done.age()

    # -------------------------------------------------------------------------------------------------- dead letters

    async def bury(self, item: Item) -> int:
        """Move the records of a refused item to the dead letters, as one; returns how many there were."""
        for entry in item.entries:
            self._on_its_way.pop((item.partition, entry), None)
        letter = Letter(Ask("", item.user, item.email, item.model, 0, 0), item.at_ms, item.reason)
        try:
            return await self._ledger.acknowledge([Taken(item.user, item.entries, item.spent, item.period)], letter)
        except RedisRefused:
            self._on_unreadable("accounts")
            log.warning("an account cannot be read", user_id=log_name(item.user))
            for entry in item.entries:
                await self._put_aside(item.partition, entry)
            return len(item.entries)

    async def letters(self) -> AsyncIterator[DeadLetter]:
        """The dead letters of now, partition by partition; few of them are in memory at a time."""
        for p in range(keys.PARTITIONS):
            stream = keys.dead_letters(p)
            try:
                last = rows(await self._store.command("XREVRANGE", stream, "+", "-", "COUNT", 1))
            except RedisRefused:
                self._tell("dead_letters", p)
                continue
            after = "-"
            while last and (page := await self._letters(p, after, last[0][0])):
                for letter in page:
                    yield letter
                after = f"({page[-1].entry}"

    async def _letters(self, partition: int, after: str, last: bytes) -> list[DeadLetter]:
        stream = keys.dead_letters(partition)
        page = rows(await self._store.command("XRANGE", stream, after, last, "COUNT", _LETTERS))
        return [
            DeadLetter(
                partition,
                entry.decode(),
                read_record(partition, entry, fields),
                fields.get(b"reason", b"").decode(errors="replace"),
            )
            for entry, fields in page
        ]

    async def letter_count(self) -> int:
        """How many there are."""
        return sum([await self._length(keys.dead_letters(p)) for p in range(keys.PARTITIONS)])

    async def requeue(self, letter: DeadLetter) -> str | None:
        """Put a dead letter back into its outbox; returns its entry there, None if somebody did that before.

        Under the e-mail address that the user has now, as far as that is known: Zion may have refused an old one.
        """
        record = letter.record
        if record is None:
            return None
        email = await known_email(self._store, record.user) or record.email
        return await self._ledger.requeue(Ask(record.id, record.user, email, record.model, 0, 0), letter.entry)

    async def discard(self, letter: DeadLetter) -> bool:
        """Delete a dead letter, which is not to be billed; False if somebody did that before."""
        if letter.record is None:
            # Nobody knows whose it is: it counts against nobody.
            return bool(await self._store.command("XDEL", keys.dead_letters(letter.partition), letter.entry))
        return await self._ledger.discard(letter.record.user, letter.entry)

    async def is_waiting(self, partition: int, entry: str) -> bool:
        """Whether this record is still in its outbox."""
        return bool(await self._store.command("XRANGE", keys.outbox(partition), entry, entry))


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
        record = Record.read(partition, entry, fields)
    except (KeyError, ValueError, ArithmeticError, RecursionError, struct.error) as error:
        # Not the error's words: they may be what stands there.
        log.warning("no usage record", partition=partition, entry=entry.decode(), reason=type(error).__name__)
        return None
    if keys.partition_of(record.user) != partition:
        # Dropped by its user's keys it would never go.
        log.error("a usage record of another partition", partition=partition, entry=entry.decode())
        return None
    return record


def _read_batch(key: bytes, value: bytes) -> Batch | None:
    try:
        batch = msgspec.json.decode(value, type=Batch)
    except (ValueError, RecursionError):
        return None
    sound = all(item.has_moment and item.partition == keys.partition_of(item.user) for item in batch.items)
    return batch if sound and batch.key.encode() == key else None


def _refusals(value: bytes | None) -> Refusals | None:
    """An answer that cannot be read tells nothing: then Zion is asked."""
    try:
        return None if value is None else msgspec.json.decode(value, type=Refusals)
    except (ValueError, RecursionError):
        return None


def _pairs(answer: Any) -> dict[bytes, bytes]:
    """A map, which comes as a flat list from a single Redis and as a dict from redis-py."""
    if isinstance(answer, dict):
        return answer
    values = iter(answer or ())
    return dict(zip(values, values, strict=True))


def rows(answer: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """The entries of an XRANGE answer."""
    return [(entry, _pairs(fields)) for entry, fields in answer or ()]


def _entries(answer: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """The entries of the one stream of an XREADGROUP answer."""
    return rows(answer[0][1]) if answer else []
