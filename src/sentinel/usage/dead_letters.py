"""Dead letters: usage that was refused for good. It counts as spent until an operator sends it again or deletes it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import structlog

from sentinel.cache import keys
from sentinel.cache.redis_ledger import Letter, RedisLedger, Taken
from sentinel.cache.subscription import known_email
from sentinel.error import RedisRefused
from sentinel.limits.policy import Reservation
from sentinel.observability.logs import log_name
from sentinel.usage.batch import Item, Record
from sentinel.usage.quarantine import Quarantine
from sentinel.usage.streams import length, read_record, rows

log = structlog.get_logger()

_PAGE = 256
"""Dead letters that are held in memory."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One of them. record: None where it cannot be read."""

    partition: int
    entry: str
    record: Record | None
    reason: str


class DeadLetters:
    """The dead letters of all partitions. Every method may raise RedisUnavailable.

    on_unreadable: told where something was, that cannot be read.
    """

    def __init__(self, ledger: RedisLedger, on_unreadable: Callable[[str], None] = lambda _: None) -> None:
        self._ledger = ledger
        self._store = ledger.store
        self._quarantine = Quarantine(ledger.store, on_unreadable)

    async def bury(self, item: Item) -> int:
        """Move the records of a refused item to the dead letters, as one; returns how many there were."""
        of = Reservation("", item.user, item.email, item.model, 0, 0)
        letter = Letter(of, item.at_ms, item.reason, item.cost_micro_usd)
        try:
            return await self._ledger.acknowledge([Taken(item.user, item.entries, item.spent, item.period)], letter)
        except RedisRefused:
            self._quarantine.on_unreadable("accounts")
            log.warning("an account cannot be read", user_id=log_name(item.user))
            for entry in item.entries:
                await self._quarantine.add_record(item.partition, entry)
            return len(item.entries)

    async def all(self) -> AsyncIterator[DeadLetter]:
        """The dead letters of now, partition by partition; few of them are in memory at a time."""
        for p in range(keys.PARTITIONS):
            stream = keys.dead_letters(p)
            try:
                last = rows(await self._store.command("XREVRANGE", stream, "+", "-", "COUNT", 1))
            except RedisRefused:
                self._quarantine.tell("dead_letters", p)
                continue
            after = "-"
            while last and (page := await self._page(p, after, last[0][0])):
                for letter in page:
                    yield letter
                after = f"({page[-1].entry}"

    async def _page(self, partition: int, after: str, last: bytes) -> list[DeadLetter]:
        stream = keys.dead_letters(partition)
        page = rows(await self._store.command("XRANGE", stream, after, last, "COUNT", _PAGE))
        return [
            DeadLetter(
                partition,
                entry.decode(),
                read_record(partition, entry, fields),
                fields.get(b"reason", b"").decode(errors="replace"),
            )
            for entry, fields in page
        ]

    async def count(self) -> int:
        """How many there are."""
        return sum([await length(self._store, keys.dead_letters(p)) for p in range(keys.PARTITIONS)])

    async def requeue(self, letter: DeadLetter) -> str | None:
        """Put a dead letter back into its outbox; returns its entry there, None if somebody did that before.

        Under the e-mail address that the user has now, as far as that is known: an old one may be why it was refused.
        """
        record = letter.record
        if record is None:
            return None
        email = await known_email(self._store, record.user) or record.email
        return await self._ledger.requeue(Reservation(record.id, record.user, email, record.model, 0, 0), letter.entry)

    async def discard(self, letter: DeadLetter) -> bool:
        """Delete a dead letter, which is not to be billed; False if somebody did that before."""
        if letter.record is None:
            # Nobody knows whose it is: it counts against nobody.
            return bool(await self._store.command("XDEL", keys.dead_letters(letter.partition), letter.entry))
        return await self._ledger.discard(letter.record.user, letter.entry)

    async def is_waiting(self, partition: int, entry: str) -> bool:
        """Whether this record is still in its outbox."""
        return bool(await self._store.command("XRANGE", keys.outbox(partition), entry, entry))
