"""The batches on their way, in Redis: written down right before they are sent, with the answer right after it came.

So whoever takes over a partition knows whether a batch was sent, and whether it was answered. Who had it before cannot
note another one: a process may be stopped for longer than others wait for it, and go on right where it was.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib import resources
from typing import Annotated

import msgspec

from sentinel.cache import keys
from sentinel.cache.redis import Script
from sentinel.cache.redis_ledger import RedisLedger
from sentinel.steps import Steps, in_portions, in_steps, json_list
from sentinel.usage.batch import MOST_ITEMS, Batch, Item, calls_for
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


class PartitionsTaken(Exception):
    """Somebody has taken over partitions of a batch, which must not be sent."""


class BatchStore:
    """The batches of all processes. Every method may raise RedisUnavailable.

    name: this process among those who deliver. pacer: waits between the steps of what would hold up requests.
    remember_seconds: how long what was done with is
    known, should Redis forget it.
    """

    def __init__(
        self,
        ledger: RedisLedger,
        name: str,
        pacer: Pacer,
        quarantine: Quarantine,
        remember_seconds: float = REMEMBER_SECONDS,
    ) -> None:
        self._take_over, self._note_sent = (
            Script.of(resources.files(__package__).joinpath(f"{what}.lua").read_text())
            for what in ("take_over", "note_sent")
        )
        self._name = name.encode()
        self._ledger = ledger
        self._store = ledger.store
        self._pacer = pacer
        self._quarantine = quarantine
        self._done: RecentIds[str] = RecentIds(remember_seconds)

    async def note_sent(self, batch: Batch) -> None:
        """Write down that this batch is sent from now on, with what was booked for its users before that.

        Raises PartitionsTaken, with nothing written down.
        """
        calls = await in_steps(calls_for(batch.items, _ITEMS_LOOKED_UP, lambda item: item.partition))
        await self._pacer.run(self._look_up, calls)
        partitions = {item.partition for item in batch.items}
        names = keys.batches(), keys.deliverers()
        written = await in_steps(encode(batch))
        args = (self._name, batch.key.encode(), written, *(b"%d" % p for p in partitions))
        if not await self._store.script(self._note_sent, names, *args):
            raise PartitionsTaken

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

    async def take_over(self, partitions: Collection[int]) -> list[tuple[Batch, Refusals | None]]:
        """From now on these partitions are delivered by this process, and batches of others' past come to no end.

        Returns all batches that were sent, of all processes, with the answer where it came. Not those that we were done
        with: what was booked of them the record store remembers. To ask the governance would tell nothing, for it has
        booked later ones since.
        """
        names = keys.batches(), keys.deliverers()
        told = await self._store.script(self._take_over, names, self._name, *(b"%d" % p for p in partitions))
        fields = pairs(told)
        found = []
        for key, value in fields.items():
            if key.endswith(_ANSWER):
                continue
            batch = await in_steps(decode(key, value))
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


def encode(batch: Batch) -> Steps[bytes]:
    """A batch as it is written down: as JSON."""
    items = yield from json_list(batch.items, lambda item: item)
    return b'{"key":%b,"items":%b}' % (msgspec.json.encode(batch.key), items)


class _Written(msgspec.Struct):
    key: str
    items: Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1, max_length=MOST_ITEMS)]


_written = msgspec.json.Decoder(_Written).decode
_item = msgspec.json.Decoder(Item).decode


def decode(key: bytes, value: bytes) -> Steps[Batch | None]:
    """The batch that is written down under this key; None for something that others have put there."""
    items: list[Item] = []
    try:
        written = _written(value)
        for portion in in_portions(written.items):
            yield
            read = [_item(raw) for raw in portion]
            if not all(item.has_moment and item.partition == keys.partition_of(item.user) for item in read):
                return None
            items += read
    except (ValueError, RecursionError):
        return None
    return Batch(written.key, items) if written.key.encode() == key else None


def _refusals(value: bytes | None) -> Refusals | None:
    """An answer that cannot be read tells nothing: then the governance is asked."""
    try:
        return None if value is None else msgspec.json.decode(value, type=Refusals)
    except (ValueError, RecursionError):
        return None
