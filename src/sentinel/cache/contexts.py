"""How much context an object at a provider brings to a request that names it: tokens that nobody here sees."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from sentinel.cache import keys
from sentinel.cache.redis import Store
from sentinel.endpoints.families import RESPONSE_SECONDS
from sentinel.error import RedisUnavailable
from sentinel.limits.policy import EXACT

log = structlog.get_logger()


class ContextRecords:
    """The records in Redis: of responses and conversations, by their ids. One that is not there counts as nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def tokens(self, ids: Sequence[str]) -> int:
        """What these bring together. Raises RedisUnavailable."""
        return sum(await asyncio.gather(*map(self._tokens, ids)))

    async def _tokens(self, id_: str) -> int:
        written = await self._store.command("GET", keys.context(id_.encode(errors="replace")))
        return min(EXACT, int(written)) if written is not None and written.isdigit() else 0

    async def note(self, ids: Sequence[str], tokens: int) -> None:
        """From now on these bring so much. While Redis is away it is not noted: usage is billed all the same."""
        try:
            names = [keys.context(id_.encode(errors="replace")) for id_ in ids]
            await asyncio.gather(*(self._store.command("SET", name, tokens, "EX", RESPONSE_SECONDS) for name in names))
        except RedisUnavailable:
            log.warning("the size of a context is not noted, for redis is away", objects=len(ids))
