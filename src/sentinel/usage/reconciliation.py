"""Reconciles accounts with records: what an account counts as pending, and as refused, is the sum of what there is.

Both are sums beside records, which may go without them: an outbox is evicted, trimmed, or restored from an older dump;
an account is forgotten before its dead letters. The ledger names the users with whom that would matter (refresh.lua):
those whose account begins, and those of whom more is pending or refused than is left to them.

The records are read page by page, and the correction is one function in Redis, which does nothing if an entry has come
or gone since: so no settlement and no delivery in between is lost.
"""

from __future__ import annotations

from collections.abc import Collection

import structlog

from sentinel.cache import keys
from sentinel.cache.redis_ledger import Found, RedisLedger
from sentinel.error import RedisRefused, RedisUnavailable
from sentinel.observability.logs import log_name
from sentinel.tasks import pause
from sentinel.usage.streams import read_record, rows

log = structlog.get_logger()

EVERY_SECONDS = 1.0
_PAGE = 256
MOST_RECORDS = 20_000
"""In a partition with more, Zion is away, and what is pending really is. Bounds a look to about 0.2 s, in pieces."""

_TRIES = 4


class Reconciler:
    """Corrects doubtful accounts. corrected: how many were wrong."""

    def __init__(self, ledger: RedisLedger) -> None:
        self._ledger = ledger
        self.corrected = 0

    async def run(self) -> None:
        """Look for doubtful accounts for ever."""
        while True:
            await pause(EVERY_SECONDS)
            try:
                await self.reconcile()
            except RedisUnavailable:
                log.debug("the reconciler waits for redis")

    async def reconcile(self) -> None:
        """Look at all accounts that are doubtful now. Raises RedisUnavailable; who was not looked at is named again."""
        by_partition: dict[int, set[str]] = {}
        while self._ledger.doubtful:
            user = self._ledger.doubtful.pop()
            by_partition.setdefault(keys.account_keys(user).partition, set()).add(user)
        for partition, users in by_partition.items():
            try:
                await self._reconcile(partition, users)
            except RedisRefused:
                log.warning("a partition cannot be held against its records", partition=partition)

    async def _reconcile(self, partition: int, users: set[str]) -> None:
        for _ in range(_TRIES):
            waiting = await self._found(keys.outbox(partition), partition, users)
            letters = await self._found(keys.dead_letters(partition), partition, users)
            if waiting is None or letters is None:
                return
            changed = set()
            for user in users:
                corrected = await self._ledger.reconcile(user, waiting[user], letters[user])
                if corrected is None:
                    changed.add(user)
                elif corrected:
                    self.corrected += 1
                    log.warning("what was pending is corrected by the records", user_id=log_name(user))
            users = changed
            if not users:
                return

    async def _found(self, stream: bytes, partition: int, users: Collection[str]) -> dict[str, Found] | None:
        """What this stream has of each of these users; None if it has too much to be looked at."""
        records: dict[str, list[tuple[int, int, int, int, int]]] = {user: [] for user in users}
        entries, last = 0, b""
        while entries < MOST_RECORDS:
            start = b"(" + last if last else b"-"
            page = rows(await self._ledger.store.command("XRANGE", stream, start, "+", "COUNT", _PAGE))
            for entry, fields in page:
                record = read_record(partition, entry, fields)
                if record is not None and record.user in records:
                    records[record.user].append((*record.spent, record.period, record.at_ms))
            entries, last = entries + len(page), page[-1][0] if page else last
            if len(page) < _PAGE:
                return {user: Found(entries, last.decode(), found) for user, found in records.items()}
            await pause(0)
        return None
