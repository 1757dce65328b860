"""Users are apart (P7): what one of them creates at a provider, no other can use, though all share the provider's keys.

Whatever a creating answer calls `id` is recorded as its user's. A request that names an object is served only if each
is the caller's: what is another's is not found, and so is what nobody's record has, for it may be another's who came
before the records. Kinds that SHARED_OBJECTS names are common property.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import structlog

from sentinel.endpoints.families import REFRESHED, RESPONSE_SECONDS
from sentinel.endpoints.references import Reference
from sentinel.error import NotFound, RedisUnavailable
from sentinel.observability.logs import log_name

log = structlog.get_logger()


class Records(Protocol):
    """Where it is written down who owns what (cache/owners.py)."""

    async def owners(self, ids: Sequence[str]) -> list[str | None]:
        """The user of each of these objects, None for one that nobody's record has. Raises RedisUnavailable."""

    async def places(self, ids: Sequence[str]) -> list[str | None]:
        """The provider of each of these: empty where the record has none, None without one. Raises RedisUnavailable."""

    async def record(self, user: str, ids: Sequence[str], seconds: int | None, place: str = "") -> None:
        """These are the user's, for so long, None: for ever; place: at this provider. Raises RedisUnavailable."""

    async def refresh(self, ids: Sequence[str], seconds: int) -> None:
        """Records of these that end do so in so long from now. Raises RedisUnavailable."""

    async def give(self, user: str, id_: str) -> bool:
        """It is the user's, whoever had it; False for what can be no id. Raises RedisUnavailable."""

    async def forget(self, id_: str) -> None:
        """It is no more. Raises RedisUnavailable."""


class Ownership:
    """Who may use which objects. shared: kinds that are common property."""

    def __init__(self, records: Records, shared: Collection[str]) -> None:
        self._records = records
        self._shared = frozenset(shared)

    def is_shared(self, kind: str) -> bool:
        """Whether objects of this kind are common property."""
        return kind in self._shared

    async def check(self, user: str, references: Sequence[Reference]) -> bool:
        """Whether any of these is the user's, or common property: so is then what lies below it.

        Raises NotFound for the first that is not the user's, RedisUnavailable.
        """
        own = [reference for reference in references if reference.kind not in self._shared]
        owners = await self._owners([reference.id for reference in own])
        for reference in own:
            owner = owners[reference.id]
            if owner != user and (reference.is_known or owner is not None):
                raise NotFound(f"No such object: '{reference.id[:64]}'.", param=reference.param or None)
        used = [reference.id for reference in own if reference.kind in REFRESHED and owners[reference.id] == user]
        if used:
            await self._records.refresh(used, RESPONSE_SECONDS)
        return len(own) < len(references) or user in owners.values()

    async def visible(self, user: str, ids: Sequence[str], *, only_own: bool) -> set[str]:
        """Those of these that a list may show the user; only_own: not what is nobody's. Raises RedisUnavailable."""
        owners = await self._owners(ids)
        return {id_ for id_, owner in owners.items() if owner == user or (owner is None and not only_own)}

    async def _owners(self, ids: Sequence[str]) -> dict[str, str | None]:
        once = list(dict.fromkeys(ids))
        return dict(zip(once, await self._records.owners(once), strict=True)) if once else {}

    async def place(self, references: Sequence[Reference], home: str) -> str:
        """The provider that has the first of these of which there is a record; empty where there is none.

        home: that of a record without a provider, which is as old as the only one was.
        """
        places = await self._records.places([reference.id for reference in references])
        return next((place or home for place in places if place is not None), "")

    async def record(
        self, user: str, ids: Sequence[str], seconds: int | None = RESPONSE_SECONDS, place: str = ""
    ) -> None:
        """An answer has created these, which are there for so long at most; it has not left yet in whole.

        place: the provider that has them, empty where there is but one.
        While Redis is away they are nobody's: not found by anybody, also not by who created them, until it is back.
        """
        try:
            await self._records.record(user, ids, seconds, place)
        except RedisUnavailable:
            log.warning("objects are without an owner until redis is back", user_id=log_name(user), objects=len(ids))

    async def owner(self, id_: str) -> str | None:
        """Whose it is, for an operator. Raises RedisUnavailable."""
        return (await self._owners([id_]))[id_]

    async def give(self, user: str, id_: str) -> bool:
        """An operator says that it is this user's; False for what can be no id. Raises RedisUnavailable."""
        return await self._records.give(user, id_)

    async def forget(self, id_: str) -> None:
        """The provider has deleted it. While Redis is away its record stays, and does no harm."""
        try:
            await self._records.forget(id_)
        except RedisUnavailable:
            log.warning("a deleted object keeps its owner, for redis is away")
