"""Who owns what at a provider, and at which: a key for each object, which lives as long as the object does.

Its value is the user, and behind a NUL the provider's name where there are several.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from sentinel.cache import keys
from sentinel.cache.redis import Store
from sentinel.error import RedisRefused, RedisUnavailable
from sentinel.steps import in_portions

_MOST_ID_BYTES = 256
"""No provider has longer ones: what is longer is nobody's."""
_PLACE = b"\0"
_AT_ONCE = 64
"""Questions of one turn of the event loop: a page of a list may have thousands."""


class Note(Protocol):
    """As BatchingUsageTracker.noted."""

    def __call__(self, id_: str, user: str, again: Callable[[], Awaitable[bool]], /, *, missed: bool = False) -> None:
        """Redis must not forget it."""


def _not_noted(*_: object, missed: bool = False) -> None:
    """Nobody notes it again."""


class OwnerRecords:
    """The records in Redis. noted: told of what Redis must not forget."""

    def __init__(self, store: Store, noted: Note = _not_noted) -> None:
        self._store = store
        self._noted = noted

    async def owners(self, ids: Sequence[str]) -> list[str | None]:
        """The user of each of these objects, None for one that nobody's record has. Raises RedisUnavailable."""
        found: list[str | None] = []
        for some in in_portions(ids, _AT_ONCE):
            found += await asyncio.gather(*map(self._owner, some))
        return found

    async def _owner(self, id_: str) -> str | None:
        record = await self._record_of(id_)
        return None if record is None else record.partition(_PLACE)[0].decode(errors="replace")

    async def places(self, ids: Sequence[str]) -> list[str | None]:
        """The provider of each of these: empty where the record has none, None without one. Raises RedisUnavailable."""
        found: list[str | None] = []
        for some in in_portions(ids, _AT_ONCE):
            records = await asyncio.gather(*map(self._record_of, some))
            found += [None if each is None else each.partition(_PLACE)[2].decode(errors="replace") for each in records]
        return found

    async def _record_of(self, id_: str) -> bytes | None:
        name = id_.encode(errors="replace")
        if len(name) > _MOST_ID_BYTES:
            return None
        record: bytes | None = await self._store.command("GET", keys.owner(name))
        return record

    async def record(self, user: str, ids: Sequence[str], seconds: int | None, place: str = "") -> None:
        """These are the user's for so long, None: for ever; not what is another's. place: their provider's name.

        Raises RedisUnavailable: then they are once it is back.
        """
        names = _names(ids)
        for some in in_portions(names, _AT_ONCE):
            await asyncio.gather(*(self._record(user, name, seconds, place) for name in some))

    async def _record(self, user: str, name: bytes, seconds: int | None, place: str) -> None:
        value, id_ = _value(user, place), f"owner {name!r}"

        def write() -> Awaitable[bool]:
            return self._write(value, name, seconds)

        try:
            if await write():
                self._noted(id_, user, write)
        except RedisRefused:
            raise
        except (RedisUnavailable, asyncio.CancelledError):
            # Nobody would ever do it again.
            self._noted(id_, user, write, missed=True)
            raise

    async def _write(self, value: bytes, name: bytes, seconds: int | None) -> bool:
        ends = () if seconds is None else ("EX", seconds)
        return await self._store.command("SET", keys.owner(name), value, "NX", *ends) is not None

    async def refresh(self, ids: Sequence[str], seconds: int) -> None:
        """Records of these that end do so in so long from now. Raises RedisUnavailable."""
        names = _names(ids)
        await asyncio.gather(*(self._store.command("EXPIRE", keys.owner(name), seconds, "XX") for name in names))

    async def give(self, user: str, id_: str) -> bool:
        """It is the user's from now on, whoever had it; False for what can be no id. Raises RedisUnavailable."""
        names = _names([id_])
        for name in names:
            (place,) = await self.places([id_])
            await self._store.command("SET", keys.owner(name), _value(user, place or ""))
        return bool(names)

    async def forget(self, id_: str) -> None:
        """It is no more. Raises RedisUnavailable."""
        for name in _names([id_]):
            await self._store.command("DEL", keys.owner(name))


def _value(user: str, place: str) -> bytes:
    return user.encode() + (_PLACE + place.encode() if place else b"")


def _names(ids: Sequence[str]) -> list[bytes]:
    """As keys have them; without what can be no id."""
    names = (id_.encode(errors="replace") for id_ in ids)
    return [name for name in names if 0 < len(name) <= _MOST_ID_BYTES]
