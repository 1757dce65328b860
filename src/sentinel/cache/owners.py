"""Who owns what at a provider: a key for each object, which lives as long as the object does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from sentinel.cache import keys
from sentinel.cache.redis import Store
from sentinel.steps import in_portions

_MOST_ID_BYTES = 256
"""No provider has longer ones: what is longer is nobody's."""
_AT_ONCE = 64
"""Questions of one turn of the event loop: a page of a list may have thousands."""


class OwnerRecords:
    """The records in Redis. noted: told of what Redis must not forget, as BatchingUsageTracker.noted is."""

    def __init__(
        self,
        store: Store,
        noted: Callable[[str, str, Callable[[], Awaitable[bool]]], None] = lambda _id, _user, _again: None,
    ) -> None:
        self._store = store
        self._noted = noted

    async def owners(self, ids: Sequence[str]) -> list[str | None]:
        """The user of each of these objects, None for one that nobody's record has. Raises RedisUnavailable."""
        found: list[str | None] = []
        for some in in_portions(ids, _AT_ONCE):
            found += await asyncio.gather(*map(self._owner, some))
        return found

    async def _owner(self, id_: str) -> str | None:
        name = id_.encode(errors="replace")
        if len(name) > _MOST_ID_BYTES:
            return None
        owner = await self._store.command("GET", keys.owner(name))
        return None if owner is None else owner.decode(errors="replace")

    async def record(self, user: str, ids: Sequence[str], seconds: int | None) -> None:
        """These are the user's for so long, None: for ever; not what is another's. Raises RedisUnavailable."""
        names = _names(ids)
        for some in in_portions(names, _AT_ONCE):
            await asyncio.gather(*(self._record(user, name, seconds) for name in some))

    async def _record(self, user: str, name: bytes, seconds: int | None) -> None:
        if await self._write(user, name, seconds):
            self._noted(f"owner {name!r}", user, lambda: self._write(user, name, seconds))

    async def _write(self, user: str, name: bytes, seconds: int | None) -> bool:
        ends = () if seconds is None else ("EX", seconds)
        return await self._store.command("SET", keys.owner(name), user, "NX", *ends) is not None

    async def refresh(self, ids: Sequence[str], seconds: int) -> None:
        """Records of these that end do so in so long from now. Raises RedisUnavailable."""
        names = _names(ids)
        await asyncio.gather(*(self._store.command("EXPIRE", keys.owner(name), seconds, "XX") for name in names))

    async def give(self, user: str, id_: str) -> bool:
        """It is the user's from now on, whoever had it; False for what can be no id. Raises RedisUnavailable."""
        names = _names([id_])
        for name in names:
            await self._store.command("SET", keys.owner(name), user)
        return bool(names)

    async def forget(self, id_: str) -> None:
        """It is no more. Raises RedisUnavailable."""
        for name in _names([id_]):
            await self._store.command("DEL", keys.owner(name))


def _names(ids: Sequence[str]) -> list[bytes]:
    """As keys have them; without what can be no id."""
    names = (id_.encode(errors="replace") for id_ in ids)
    return [name for name in names if 0 < len(name) <= _MOST_ID_BYTES]
