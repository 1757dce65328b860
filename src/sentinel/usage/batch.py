"""How usage records become batches, and what Zion's answer to a batch means: pure decisions."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import Enum

import msgspec

from sentinel.limits.policy import Triple
from sentinel.zion.models import Increment, ItemResult

MOST_ITEMS = 1000
"""Zion refuses more (contract 1.5)."""

REFUSALS_ALLOWED = 3


class Record(msgspec.Struct, frozen=True):
    """One usage record as it lies in the outbox of a partition. at_ms: when it was spent."""

    partition: int
    entry: str
    user: str
    email: str
    model: str
    spent: Triple
    period: int
    at_ms: int

    @classmethod
    def read(cls, partition: int, entry: bytes, fields: Mapping[bytes, bytes]) -> Record:
        """The record of a stream entry. An entry's id starts with the moment of its writing by Redis' clock."""
        at_ms = int(fields[b"at"]) or int(entry.partition(b"-")[0])
        return cls(
            partition=partition,
            entry=entry.decode(),
            user=fields[b"user"].decode(),
            email=fields[b"email"].decode(),
            model=fields[b"model"].decode(),
            spent=(int(fields[b"n"]), int(fields[b"in"]), int(fields[b"out"])),
            period=int(fields[b"period"]),
            at_ms=at_ms,
        )


class Item(msgspec.Struct):
    """The records of one e-mail and model. refusals: how often Zion has said no to it."""

    records: list[Record]
    refusals: int = 0
    reason: str = ""

    def increment(self) -> Increment:
        """What Zion is told: the sums, and the earliest moment."""
        requests, inputs, outputs = total(self.records)
        first = self.records[0]
        return Increment(
            email=first.email,
            ai_requests=requests,
            ai_input_tokens=inputs,
            ai_output_tokens=outputs,
            model=first.model,
            timestamp=rfc3339(min(record.at_ms for record in self.records)),
        )


class Batch(msgspec.Struct):
    """Items that go to Zion together. key: their Idempotency-Key; both stay the same over all retries.

    owner: the process that delivers it. unsure: an attempt had no answer, so Zion may have taken it.
    """

    key: str
    owner: str
    items: list[Item]
    attempts: int = 0
    unsure: bool = False


class Share(msgspec.Struct, frozen=True):
    """What a batch had of one user in one period: the unit of an acknowledgement."""

    user: str
    period: int
    partition: int
    entries: tuple[str, ...]
    spent: Triple


class Outcome(Enum):
    """What to do after an answer to a batch."""

    TAKEN = "taken"
    RETRY = "retry"
    SPLIT = "split"
    REFUSED = "refused"
    MISSING = "missing"


def total(records: Iterable[Record]) -> Triple:
    """The sum of what these records spent."""
    requests = inputs = outputs = 0
    for record in records:
        requests += record.spent[0]
        inputs += record.spent[1]
        outputs += record.spent[2]
    return requests, inputs, outputs


def rfc3339(ms: int) -> str:
    """A moment as Zion wants it: UTC, milliseconds, `Z`."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def items_of(records: Iterable[Record]) -> list[Item]:
    """One item for each (e-mail, model), in the order of their first record."""
    items: dict[tuple[str, str], Item] = {}
    for record in records:
        items.setdefault((record.email, record.model), Item([])).records.append(record)
    return list(items.values())


def shares_of(item: Item) -> list[Share]:
    """The users and periods of an item; one e-mail may belong to several identities over time."""
    found: dict[tuple[str, int, int], list[Record]] = {}
    for record in item.records:
        found.setdefault((record.user, record.period, record.partition), []).append(record)
    return [
        Share(user, period, partition, tuple(record.entry for record in records), total(records))
        for (user, period, partition), records in found.items()
    ]


def outcome_of(status: int, items: int) -> Outcome:
    """What an HTTP status says about a batch of so many items (contract 1.5).

    A 2xx is a yes whatever the body. 400, 413 and 422 are about its content: halves are tried until the item at fault
    stands alone. 401 and 403 are about our key: an operator mends that, so the batch waits.
    """
    if 200 <= status < 300:
        return Outcome.TAKEN
    if status in (404, 405):
        return Outcome.MISSING
    if status in (400, 413, 422):
        return Outcome.SPLIT if items > 1 else Outcome.REFUSED
    return Outcome.RETRY


def results_by_item(items: list[Item], results: list[ItemResult] | None) -> list[ItemResult | None]:
    """Zion's result of each item, None where it tells nothing; such an item counts as taken.

    By position where there is one result for each item. Else by e-mail, in order: two items of one user differ only by
    their model, which results do not name.
    """
    if not results:
        return [None] * len(items)
    if len(results) == len(items) and all(
        result.email in (None, item.records[0].email) for item, result in zip(items, results, strict=True)
    ):
        return list(results)
    by_email: dict[str, deque[ItemResult]] = {}
    for result in results:
        by_email.setdefault(result.email or "", deque()).append(result)
    queues = [by_email.get(item.records[0].email) for item in items]
    return [queue.popleft() if queue else None for queue in queues]


def backoff_seconds(attempts: int, jitter: float) -> float:
    """How long to wait before the next attempt: 0.5 s doubling to 30 s, times 0.5 to 1.5. jitter: 0 to 1."""
    return float(min(30.0, 0.5 * 2 ** min(attempts, 10)) * (0.5 + jitter))
