"""A channel of Redis: what one process says, all others hear, if they are there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from redis.exceptions import RedisClusterException, RedisError

from sentinel.cache.redis import Store
from sentinel.tasks import pause

log = structlog.get_logger()

_LISTEN_AGAIN_SECONDS = 5.0


async def listen(store: Store, name: str, take: Callable[[Any], Awaitable[None]]) -> None:
    """Listen for ever. take: reads from the subscription, until it has enough. What is missed in an outage is lost."""
    while True:
        try:
            # A client of a cluster knows no node before.
            await store.client.initialize()
            async with store.client.pubsub() as channel:
                await channel.subscribe(name)
                while True:
                    await take(channel)
        except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
            log.debug("the channel is lost", reason=type(error).__name__)
            await pause(_LISTEN_AGAIN_SECONDS)
