"""Which targets are left alone, told from one process to all others (proxy/breaker.py).

Nobody asks Redis for it: what is told is heard within milliseconds, and who has missed it finds out by itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import msgspec

from sentinel.cache import keys
from sentinel.cache.channel import listen
from sentinel.cache.redis import Store
from sentinel.clock import monotonic
from sentinel.error import RedisUnavailable
from sentinel.tasks import Tasks

_LISTEN_SECONDS = 30.0


class _News(msgspec.Struct):
    name: str
    what: str
    seconds: float


class BreakerNews:
    """Of one process. heard: told the name of a route, and what of it is left alone until when (monotonic seconds)."""

    def __init__(self, store: Store, tasks: Tasks, heard: Callable[[str, str, float], None]) -> None:
        self._store = store
        self._tasks = tasks
        self._heard = heard

    def tell(self, name: str, what: str, seconds: float) -> None:
        """Tell all processes; while Redis is away nobody."""
        self._tasks.start(self._tell(msgspec.json.encode(_News(name, what, seconds))), "breaker news")

    async def _tell(self, news: bytes) -> None:
        with contextlib.suppress(RedisUnavailable):
            await self._store.command("PUBLISH", keys.breakers(), news)

    async def run(self) -> None:
        """Listen for ever."""
        await listen(self._store, keys.breakers(), self._take)

    async def _take(self, channel: Any) -> None:
        message = await channel.get_message(ignore_subscribe_messages=True, timeout=_LISTEN_SECONDS)
        if message is None or not message["data"]:
            return
        # Whatever else is said there is none of ours.
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
            news = msgspec.json.decode(message["data"], type=_News)
            self._heard(news.name, news.what, monotonic() + min(max(0.0, news.seconds), 600.0))
