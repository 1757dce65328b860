"""How usage records become batches, and what Zion's answer to a batch means: pure decisions."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Annotated

import msgspec

from sentinel.clock import rfc3339
from sentinel.limits.policy import Triple
from sentinel.zion.models import EXACT, Increment, ItemResult

MOST_ITEMS = 1000
"""Zion refuses more (contract 1.5)."""

REFUSALS_ALLOWED = 3

MOST_ENTRIES = 4096
"""Records of one item: the scripts hand them to Redis as the arguments of one command, and Lua has room for 8,000."""

_FOREVER = 2**63
_END_OF_TIME_MS = 253_402_300_800_000
"""The year 10000, which no timestamp can name."""

Amount = Annotated[int, msgspec.Meta(ge=0, le=EXACT)]
Entry = Annotated[str, msgspec.Meta(pattern=r"^\d{1,20}-\d{1,20}$")]
Entries = Annotated[list[Entry], msgspec.Meta(min_length=1, max_length=MOST_ENTRIES)]
"""Held against what Redis gives out: one number that no command takes would stop all others."""


# As bill() in ledger.lua writes them.
_who = msgspec.json.Decoder(tuple[str, str, str, str]).decode
_SUM = struct.Struct("<5d")


class Record(msgspec.Struct, frozen=True, gc=False):
    """One usage record as it lies in the outbox of a partition. id: of its request. at_ms: when it was spent."""

    partition: int
    entry: str
    id: str
    user: str
    email: str
    model: str
    spent: Triple
    period: int
    at_ms: int

    @classmethod
    def read(cls, partition: int, entry: bytes, fields: Mapping[bytes, bytes]) -> Record:
        """The record of a stream entry, whose id starts with the moment of its writing by Redis' clock.

        Raises KeyError, ValueError or struct.error for what is no record of ours, and for amounts that nobody spends.
        """
        id_, user, email, model = _who(fields[b"who"])
        requests, inputs, outputs, period, at = _SUM.unpack(fields[b"sum"])
        if not (0 <= requests <= EXACT and 0 <= inputs <= EXACT and 0 <= outputs <= EXACT and -1 <= period <= EXACT):
            raise ValueError("an amount that nobody spends")
        at = at or int(entry.partition(b"-")[0])
        if not 0 <= at < _END_OF_TIME_MS:
            raise ValueError("a moment that no calendar has")
        spent, at_ms = (int(requests), int(inputs), int(outputs)), int(at)
        return cls(partition, entry.decode(), id_, user, email, model, spent, int(period), at_ms)


class Item(msgspec.Struct, omit_defaults=True):
    """What one user spent on one model in one quota period: an item of a batch. entries: the records that it sums up.

    before: Zion's `used` for this user when the item was about to be sent, None = not known.
    refusals: how often Zion has said no to it.
    """

    partition: int
    user: str
    email: str
    model: str
    period: Annotated[int, msgspec.Meta(ge=-1, le=EXACT)]
    entries: Entries = msgspec.field(default_factory=list)
    spent: tuple[Amount, Amount, Amount] = (0, 0, 0)
    at_ms: int = _FOREVER
    before: Triple | None = None
    refusals: int = 0
    reason: str = ""

    def add(self, record: Record) -> None:
        """Sum up one record more; the moment of an item is its earliest record's."""
        self.entries.append(record.entry)
        self.spent = plus(self.spent, record.spent)
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
        self.spent = plus(self.spent, other.spent)
        self.at_ms = min(self.at_ms, other.at_ms)
        return True

    def increment(self) -> Increment:
        """What Zion is told."""
        requests, inputs, outputs = self.spent
        return Increment(
            email=self.email,
            ai_requests=requests,
            ai_input_tokens=inputs,
            ai_output_tokens=outputs,
            model=self.model,
            timestamp=rfc3339(self.at_ms),
        )


class Batch(msgspec.Struct):
    """Items that go to Zion together. key: their Idempotency-Key; both stay the same over all retries."""

    key: str
    items: Annotated[list[Item], msgspec.Meta(min_length=1, max_length=MOST_ITEMS)]

    @property
    def home(self) -> int:
        """The partition whose deliverer is in charge of this batch."""
        return self.items[0].partition


class Outcome(Enum):
    """What to do after an answer to a batch.

    TAKEN: all of it, except items that `results` say no to. REFUSED: its content is at fault. MISSING: there is no such
    call. LATER: nothing was taken, the same batch may be sent again. DOUBT: some or all of it may have been taken.
    """

    TAKEN = "taken"
    REFUSED = "refused"
    MISSING = "missing"
    LATER = "later"
    DOUBT = "doubt"


def plus(a: Triple, b: Triple) -> Triple:
    """The sum of two triples."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


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


_STATUSES = {
    **dict.fromkeys((400, 413, 422), Outcome.REFUSED),
    **dict.fromkeys((404, 405), Outcome.MISSING),
    # Our key is wrong (an operator mends that), or Zion is busy and says so before it starts.
    **dict.fromkeys((401, 403, 408, 425, 429, 503), Outcome.LATER),
}


def outcome_of(status: int, *, says_no: bool, is_receipt: bool) -> Outcome:
    """What an HTTP status says about a batch (contract 1.5). 0 = no answer, although it may have been sent.

    A 2xx is a yes if its body is Zion's receipt for what was sent, a no if that is Zion's own `success: false`
    (says_no); anything else tells nothing for certain. Zion applies items one by one, so after a 5xx a part may have
    been taken.
    """
    if 200 <= status < 300:
        return Outcome.REFUSED if says_no else Outcome.TAKEN if is_receipt else Outcome.DOUBT
    if status == 0 or status >= 500:
        return _STATUSES.get(status, Outcome.DOUBT)
    return _STATUSES.get(status, Outcome.LATER)


def results_by_item(items: list[Item], results: list[ItemResult] | None) -> list[ItemResult | None]:
    """Zion's result of each item, None where it tells nothing; such an item counts as taken.

    By position where there is one result for each item. Else by e-mail, in order: two items of one user differ only by
    their model, which results do not name.
    """
    if not results:
        return [None] * len(items)
    if len(results) == len(items) and all(
        result.email is None or result.email.casefold() == item.email.casefold()
        for item, result in zip(items, results, strict=True)
    ):
        return list(results)
    by_email: dict[str, deque[ItemResult]] = {}
    for result in results:
        by_email.setdefault((result.email or "").casefold(), deque()).append(result)
    queues = [by_email.get(item.email.casefold()) for item in items]
    return [queue.popleft() if queue else None for queue in queues]


def backoff_seconds(attempts: int, jitter: float) -> float:
    """How long to wait after so many failures in a row: 0.5 s doubling to 10 s, times 0.5 to 1.5. jitter: 0 to 1.

    10 s: a Zion that was away for long gets what waits for it 15 s after its return at the latest.
    """
    return float(min(10.0, 0.25 * 2 ** min(attempts, 10)) * (0.5 + jitter))
