"""Who owns what at a provider: a key for each object, which lives as long as the object does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sentinel.cache import keys
from sentinel.cache.redis import Store

RESPONSE_SECONDS = 31 * 86_400
"""OpenAI keeps a response, and the items in it, for 30 days."""
_MOST_ID_BYTES = 256
"""No provider has longer ones: what is longer is nobody's."""


class OwnerRecords:
    """The records in Redis."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def owners(self, ids: Sequence[str]) -> list[str | None]:
        """The user of each of these objects, None for one that nobody's record has. Raises RedisUnavailable."""
        return list(await asyncio.gather(*map(self._owner, ids)))

    async def _owner(self, id_: str) -> str | None:
        name = id_.encode(errors="replace")
        if len(name) > _MOST_ID_BYTES:
            return None
        owner = await self._store.command("GET", keys.owner(name))
        return None if owner is None else owner.decode(errors="replace")

    async def record(self, user: str, ids: Sequence[str]) -> None:
        """These are the user's, unless they are another's already. Raises RedisUnavailable."""
        names = [name for name in map(str.encode, ids) if len(name) <= _MOST_ID_BYTES]
        await asyncio.gather(
            *(self._store.command("SET", keys.owner(name), user, "NX", "EX", RESPONSE_SECONDS) for name in names)
        )
