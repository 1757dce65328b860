"""Ends the leases of processes that died, for users whom nobody else touches."""

from __future__ import annotations

import random

import structlog

from sentinel.cache import keys
from sentinel.cache.ledger import RedisLedger
from sentinel.error import RedisUnavailable
from sentinel.tasks import pause

log = structlog.get_logger()

EVERY_SECONDS = 2.0
_MOST_USERS = 100


async def reap(ledger: RedisLedger) -> int:
    """End every lease that is due; returns how many reservations came back. Raises RedisUnavailable."""
    count = 0
    for partition in range(keys.PARTITIONS):
        for user in await ledger.due(partition, _MOST_USERS):
            count += await ledger.expire(user)
    return count


async def run(ledger: RedisLedger) -> None:
    """Reap for ever. Every process does, at moments of its own."""
    while True:
        await pause(EVERY_SECONDS * (0.5 + random.random()))  # noqa: S311 (no secret)
        try:
            if count := await reap(ledger):
                log.info("leases have ended", reservations=count)
        except RedisUnavailable:
            log.debug("the reaper waits for redis")
