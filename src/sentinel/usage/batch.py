"""How usage records become items, and items batches. Decisions only."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, TypeVar

import msgspec

from sentinel.limits.policy import EXACT, FREE, ByDimension, Cost
from sentinel.steps import Steps, in_portions

T = TypeVar("T")

MOST_ITEMS = 1000
"""Of one batch. A governance may take fewer at a time (`most_items`)."""

REFUSALS_ALLOWED = 3
"""With the third an item becomes a dead letter."""

MOST_ENTRIES = 4096
"""Records of one item: the scripts hand them to Redis as the arguments of one command, and Lua has room for 8,000."""

_FOREVER = 2**63
_END_OF_TIME_MS = 253_402_300_800_000
"""The year 10000, which no timestamp can name."""

Entry = Annotated[str, msgspec.Meta(pattern=r"^\d{1,20}-\d{1,20}$")]
Entries = Annotated[list[Entry], msgspec.Meta(min_length=1, max_length=MOST_ENTRIES)]
"""Held against what Redis gives out: one number that no command takes would stop all others."""


# As bill() in ledger.lua writes them.
_who = msgspec.json.Decoder(tuple[str, str, str, str]).decode
_SUM, _DOUBLE = struct.Struct("<5d"), struct.Struct("<d")
_NO_COST = _DOUBLE.pack(0)


class Record(msgspec.Struct, frozen=True, gc=False):
    """One usage record as it lies in the outbox of a partition. id: of its request. at_ms: when it was spent.

    cost_micro_usd: 0 = not known, or nothing; what an older version has written has none.
    """

    partition: int
    entry: str
    id: str
    user: str
    email: str
    model: str
    spent: Cost
    period: int
    at_ms: int
    cost_micro_usd: int = 0

    @classmethod
    def read(cls, partition: int, entry: bytes, fields: Mapping[bytes, bytes]) -> Record:
        """The record of a stream entry, whose id starts with the moment of its writing by Redis' clock.

        Raises KeyError, ValueError or struct.error for what is no record of ours, and for amounts that nobody spends.
        """
        id_, user, email, model = _who(fields[b"who"])
        requests, inputs, outputs, period, at = _SUM.unpack(fields[b"sum"])
        (cost,) = _DOUBLE.unpack(fields.get(b"micro_usd", _NO_COST))
        if not (
            0 <= cost <= EXACT
            and 0 <= requests <= EXACT
            and 0 <= inputs <= EXACT
            and 0 <= outputs <= EXACT
            and -1 <= period <= EXACT
        ):
            raise ValueError("an amount that nobody spends")
        at = at or int(entry.partition(b"-")[0])
        if not 0 <= at < _END_OF_TIME_MS:
            raise ValueError("a moment that no calendar has")
        spent, at_ms = Cost(int(requests), int(inputs), int(outputs)), int(at)
        return cls(partition, entry.decode(), id_, user, email, model, spent, int(period), at_ms, int(cost))


class Item(msgspec.Struct, omit_defaults=True):
    """What one user spent on one model in one quota period: an item of a batch. entries: the records that it sums up.

    before: what the governance had booked for this user when the item was about to be sent, None = not known.
    refusals: how often it was refused.
    """

    partition: int
    user: str
    email: str
    model: str
    period: Annotated[int, msgspec.Meta(ge=-1, le=EXACT)]
    entries: Entries = msgspec.field(default_factory=list)
    spent: Cost = FREE
    at_ms: int = _FOREVER
    before: ByDimension | None = None
    refusals: int = 0
    reason: str = ""
    cost_micro_usd: Annotated[int, msgspec.Meta(ge=0)] = 0

    def add(self, record: Record) -> None:
        """Sum up one record more; the moment of an item is its earliest record's."""
        self.entries.append(record.entry)
        self.spent = self.spent.plus(record.spent)
        self.cost_micro_usd += record.cost_micro_usd
        self.at_ms = min(self.at_ms, record.at_ms)

    @property
    def key(self) -> tuple[str, str, str, int]:
        """Whose, under which e-mail, on which model, in which period."""
        return self.user, self.email, self.model, self.period

    @property
    def has_moment(self) -> bool:
        """Whether its moment can be told."""
        return 0 <= self.at_ms < _END_OF_TIME_MS

    def merge(self, other: Item) -> bool:
        """Sum up another item of the same key, too; False if that would be too many records."""
        if len(self.entries) + len(other.entries) > MOST_ENTRIES:
            return False
        self.entries += other.entries
        self.spent = self.spent.plus(other.spent)
        self.cost_micro_usd += other.cost_micro_usd
        self.at_ms = min(self.at_ms, other.at_ms)
        return True


class Batch(msgspec.Struct):
    """Items that are reported together. key: of the report; both stay the same over all retries."""

    key: str
    items: Annotated[list[Item], msgspec.Meta(min_length=1, max_length=MOST_ITEMS)]

    @property
    def home(self) -> int:
        """The partition whose deliverer is in charge of this batch."""
        return self.items[0].partition


class Items:
    """Records in, items out: one for each user, e-mail, model and period, in the order of their first record."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.records = 0
        self._open: dict[tuple[str, str, str, int], Item] = {}

    def add(self, records: Iterable[Record]) -> None:
        """Sum up these records, too."""
        for record in records:
            self.records += 1
            key = (record.user, record.email, record.model, record.period)
            item = self._open.get(key)
            if item is None or len(item.entries) >= MOST_ENTRIES:
                item = Item(record.partition, record.user, record.email, record.model, record.period)
                self._open[key] = item
                self.items.append(item)
            item.add(record)


def calls_for(things: Sequence[T], most: int, partition_of: Callable[[T], int]) -> Steps[list[list[T]]]:
    """What may go in one call to Redis each: things of one partition, at most so many."""
    full: list[list[T]] = []
    open_: dict[int, list[T]] = {}
    for portion in in_portions(things):
        for thing in portion:
            partition = partition_of(thing)
            call = open_.setdefault(partition, [])
            call.append(thing)
            if len(call) == most:
                full.append(open_.pop(partition))
        yield
    return [*full, *open_.values()]
