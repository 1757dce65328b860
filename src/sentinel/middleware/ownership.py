"""Users are apart (P7): what one of them creates at a provider, no other can use, though all share the provider's keys.

Whatever a creating answer calls `id` is recorded as its user's. A request that names an object is served only if each
is the caller's: what is another's is not found, and so is what nobody's record has, for it may be another's who came
before the records. Kinds that SHARED_OBJECTS names are common property.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import structlog

from sentinel.endpoints.references import Reference
from sentinel.error import NotFound, RedisUnavailable
from sentinel.observability.logs import log_name

log = structlog.get_logger()


class Records(Protocol):
    """Where it is written down who owns what (cache/owners.py)."""

    async def owners(self, ids: Sequence[str]) -> list[str | None]:
        """The user of each of these objects, None for one that nobody's record has. Raises RedisUnavailable."""

    async def record(self, user: str, ids: Sequence[str]) -> None:
        """These are the user's. Raises RedisUnavailable."""


class Ownership:
    """Who may use which objects. shared: kinds that are common property."""

    def __init__(self, records: Records, shared: Collection[str]) -> None:
        self._records = records
        self._shared = frozenset(shared)

    async def check(self, user: str, references: Sequence[Reference]) -> None:
        """Raises NotFound for the first that is not the user's, RedisUnavailable."""
        own = [reference for reference in references if reference.kind not in self._shared]
        ids = list(dict.fromkeys(reference.id for reference in own))
        owners = dict(zip(ids, await self._records.owners(ids), strict=True)) if ids else {}
        for reference in own:
            if owners[reference.id] != user:
                raise NotFound(f"No such object: '{reference.id[:64]}'.", param=reference.param)

    async def record(self, user: str, ids: Sequence[str]) -> None:
        """An answer has created these; it has not left yet in whole.

        While Redis is away they stay nobody's: not found by anybody, also not by who created them.
        """
        try:
            await self._records.record(user, ids)
        except RedisUnavailable:
            log.warning("objects stay without an owner, for redis is away", user_id=log_name(user), objects=len(ids))
