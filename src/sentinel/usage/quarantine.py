"""What cannot be read: set aside by itself, counted and told of, so that it stops nothing else."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources

import structlog

from sentinel.cache import keys
from sentinel.cache.redis import Script, Store
from sentinel.clock import monotonic
from sentinel.error import RedisRefused

log = structlog.get_logger()

_TELL_SECONDS = 60.0
"""A partition that cannot be read is told of so often."""


class Quarantine:
    """Of one process. on_unreadable: told where something was, that cannot be read."""

    def __init__(self, store: Store, on_unreadable: Callable[[str], None] = lambda _: None) -> None:
        self._store = store
        self.on_unreadable = on_unreadable
        self._told_at: dict[int, float] = {}
        self._set_aside = Script.of(resources.files(__package__).joinpath("set_aside.lua").read_text())

    async def add_record(self, partition: int, entry: str) -> None:
        """Move a record out of its outbox. Raises RedisUnavailable."""
        self.on_unreadable("outbox")
        stream, aside = keys.outbox(partition), keys.unreadable(partition)
        try:
            await self._store.script(self._set_aside, (stream, aside), keys.GROUP, entry)
        except RedisRefused:
            # It stays among what was read and is not done with.
            log.warning("an unreadable record cannot be set aside", partition=partition, entry=entry)

    async def add_batch(self, key: bytes, value: bytes, *fields: bytes) -> None:
        """Move a batch, and fields that belong to it, out of those on their way. Raises RedisUnavailable.

        Its records are read once more: whether they were booked, nobody knows then.
        """
        self.on_unreadable("batches")
        log.error("a batch cannot be read", key=key.decode(errors="replace")[:64])
        await self._store.command("HSET", keys.unreadable_batches(), key, value)
        await self._store.command("HDEL", keys.batches(), key, *fields)

    def tell(self, where: str, partition: int) -> None:
        """A whole partition cannot be read: an operator has to look."""
        now = monotonic()
        if now - self._told_at.get(partition, -_TELL_SECONDS) >= _TELL_SECONDS:
            self._told_at[partition] = now
            self.on_unreadable(where)
            log.error("a partition cannot be read", where=where, partition=partition)
