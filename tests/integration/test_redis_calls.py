"""When calls to Redis are written: at once where none waits for an answer, else together.

About: `cache/connection.py`.
"""

from __future__ import annotations

import asyncio
import contextlib

from redis import Redis

from sentinel.cache.redis import Store
from tests.support.waiting import wait_until


async def test_a_call_beside_which_none_waits_is_written_at_once(store: Store, store_url: str) -> None:
    """Redis has it though the event loop had no turn; what is called after it waits for the end of this one."""
    with contextlib.closing(Redis.from_url(store_url)) as other:
        calls = [store.command("SET", name, "1") for name in ("one", "two", "three")]
        wait_until(lambda: other.get("one"))
        assert other.mget("two", "three") == [None, None]
        await asyncio.gather(*calls)
        assert other.mget("two", "three") == [b"1", b"1"]


async def test_calls_are_carried_out_in_their_order(store: Store) -> None:
    """However many there are, and whichever are written together."""
    pushed: list[int] = []
    for count in (1, 2, 40, 1):
        numbers = range(len(pushed), len(pushed) + count)
        await asyncio.gather(*(store.command("RPUSH", "list", number) for number in numbers))
        pushed += numbers
    assert [int(number) for number in await store.command("LRANGE", "list", 0, -1)] == pushed
