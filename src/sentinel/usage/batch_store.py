"""The batches on their way, in Redis: written down right before they are sent, with the answer right after it came.

So whoever takes over a partition knows whether a batch was sent, and whether it was answered.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sentinel.cache import keys
from sentinel.cache.redis_ledger import RedisLedger
from sentinel.usage.batch import Batch, Item, portions
from sentinel.usage.pacer import Pacer
from sentinel.usage.quarantine import Quarantine
from sentinel.usage.recent_ids import REMEMBER_SECONDS, RecentIds
from sentinel.usage.streams import pairs

_ITEMS_LOOKED_UP = 16
"""In one call."""

_ANSWER = b":answer"

Refusals = dict[int, str]
"""The answer to a batch as it is written down: the places of the items that were refused, with the reasons."""
NO_RECEIPT: Refusals = {-1: "no receipt"}
"""Somebody said yes, without a receipt. Who does not know this takes it for a yes."""


class BatchStore:
    """The batches of all processes. Every method may raise RedisUnavailable.

    pacer: waits between the steps of what would hold up requests. remember_seconds: how long what was done with is
    known, should Redis forget it.
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
        self._done: RecentIds[str] = RecentIds(remember_seconds)

    async def note_sent(self, batch: Batch) -> None:
        """Write down that this batch is sent from now on, with what was booked for its users before that."""
        await self._pacer.run(self._look_up, portions(batch.items, _ITEMS_LOOKED_UP, lambda item: item.partition))
        await self._store.command("HSET", keys.batches(), batch.key, msgspec.json.encode(batch))

    async def _look_up(self, items: Sequence[Item]) -> None:
        before = await self._ledger.known_used([item.user for item in items])
        for item, used in zip(items, before, strict=True):
            item.before = used

    async def note_answer(self, batch: Batch, refusals: Refusals) -> None:
        """Write down what was said to a batch."""
        await self._store.command("HSET", keys.batches(), batch.key.encode() + _ANSWER, msgspec.json.encode(refusals))

    async def forget_answer(self, batch: Batch) -> None:
        """This batch is sent once more; what was said to it counts no longer."""
        await self._store.command("HDEL", keys.batches(), batch.key.encode() + _ANSWER)

    async def forget(self, batch: Batch) -> None:
        """Nothing more is to be known of this batch. Should Redis forget that, it will hear it again."""
        self._done.add((batch.key,))
        await self._store.command("HDEL", keys.batches(), batch.key, batch.key.encode() + _ANSWER)

    async def batches(self) -> list[tuple[Batch, Refusals | None]]:
        """All batches that were sent, of all processes, with the answer where it came.

        Not those that we were done with. What was booked of them the record store remembers; to ask the governance
        would tell nothing, for it has booked later ones since.
        """
        fields = pairs(await self._store.command("HGETALL", keys.batches()))
        found = []
        for key, value in fields.items():
            if key.endswith(_ANSWER):
                continue
            batch = _read_batch(key, value)
            if batch is None:
                await self._quarantine.add_batch(key, value, key + _ANSWER)
            elif batch.key in self._done:
                await self.forget(batch)
            else:
                found.append((batch, _refusals(fields.get(key + _ANSWER))))
        return found

    def age(self) -> None:
        """Forget what was remembered for long enough. To be called while Redis is there, and only then."""
        self._done.age()


def _read_batch(key: bytes, value: bytes) -> Batch | None:
    try:
        batch = msgspec.json.decode(value, type=Batch)
    except (ValueError, RecursionError):
        return None
    sound = all(item.has_moment and item.partition == keys.partition_of(item.user) for item in batch.items)
    return batch if sound and batch.key.encode() == key else None


def _refusals(value: bytes | None) -> Refusals | None:
    """An answer that cannot be read tells nothing: then the governance is asked."""
    try:
        return None if value is None else msgspec.json.decode(value, type=Refusals)
    except (ValueError, RecursionError):
        return None
