"""The streams of Redis as bytes: its library types whatever any setting of a connection could make of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sentinel.cache.redis import Store

Fields = dict[bytes, bytes]


async def entries(store: Store, stream: str | bytes) -> list[tuple[bytes, Fields]]:
    """All entries of a stream, oldest first."""
    found: Any = await store.client.xrange(stream)
    return list(found)


async def append(store: Store, stream: str | bytes, fields: Mapping[bytes, bytes], entry: bytes = b"*") -> bytes:
    """Write an entry; its name, which may be given."""
    named: bytes = await store.command("XADD", stream, entry, *(word for field in fields.items() for word in field))
    return named


async def read_one(store: Store, stream: str | bytes, group: str) -> tuple[bytes, Fields] | None:
    """The next entry that no reader of the group has had; None where there is none."""
    found: Any = await store.client.xreadgroup(group, "test", {stream: ">"}, count=1)
    return found[0][1][0] if found else None
