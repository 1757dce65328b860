"""Ends the leases of processes that died, for users whom nobody else touches."""

from __future__ import annotations

import random
from collections.abc import Callable

import structlog

from sentinel.cache import keys
from sentinel.cache.redis_ledger import RedisLedger
from sentinel.error import RedisRefused, RedisUnavailable
from sentinel.observability.logs import log_name
from sentinel.tasks import pause

log = structlog.get_logger()

EVERY_SECONDS = 2.0
_MOST_USERS = 100
_AGAIN_MS = 600_000
"""An account that cannot be read is looked at so often; meanwhile it stands behind all others."""


async def expire_due(ledger: RedisLedger, on_unreadable: Callable[[str], None] = lambda _: None) -> int:
    """End every lease that is due; returns how many reservations came back.

    What cannot be read, or is away, stops nobody else. on_unreadable: told where it was. Raises RedisUnavailable at the
    end where a partition was away.
    """
    count, away = 0, None
    for partition in range(keys.PARTITIONS):
        try:
            count += await _expire_partition(ledger, partition, on_unreadable)
        except RedisUnavailable as error:
            away = error
    if away is not None:
        raise away
    return count


async def _expire_partition(ledger: RedisLedger, partition: int, on_unreadable: Callable[[str], None]) -> int:
    count = 0
    try:
        users = await ledger.due(partition, _MOST_USERS)
    except RedisRefused:
        on_unreadable("leases")
        log.warning("the leases of a partition cannot be read", partition=partition)
        return 0
    for user in users:
        try:
            count += await ledger.expire(user)
        except RedisRefused:
            on_unreadable("accounts")
            log.warning("an account cannot be read: its reservations stay", user_id=log_name(user))
            await ledger.look_later(user, _AGAIN_MS)
    return count


async def run(ledger: RedisLedger, on_unreadable: Callable[[str], None] = lambda _: None) -> None:
    """Do so for ever. Every process does, at moments of its own."""
    while True:
        await pause(EVERY_SECONDS * (0.5 + random.random()))  # noqa: S311 (no secret)
        try:
            if count := await expire_due(ledger, on_unreadable):
                log.info("leases have ended", reservations=count)
        except RedisUnavailable:
            log.debug("the lease expirer waits for redis")
