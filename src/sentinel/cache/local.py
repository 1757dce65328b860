"""The ledger while Redis is away (`REDIS_DOWN=local`): each process admits its share of every limit from memory.

The share is limit / (SENTINEL_REPLICAS x SENTINEL_WORKERS), so that all processes together stay within the limit.
Settlements go to the spool and reach Redis when it is back. The rule is `limits/ledger.py`, the twin of the scripts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import structlog
from msgspec.structs import replace

from sentinel.cache.ledger import RedisLedger
from sentinel.clock import monotonic, now_ms
from sentinel.error import RedisRefused, RedisUnavailable
from sentinel.limits import ledger as rule
from sentinel.limits.policy import NOT_LIMITED, Ask, Policy, Quota, Triple, Verdict, View

log = structlog.get_logger()

MOST_ACCOUNTS = 20_000
"""Bounds the memory to about 40 MB. Only users seen during the outage are in here; the idlest are forgotten first."""

_CATCH_UP_SECONDS, _MOST_CATCH_UP_SECONDS = 2.0, 10.0
"""So long memory goes on when Redis is back: until all processes have replayed what they spooled, which takes a second.
Longer where our own spool takes longer, but not for ever."""


class LocalLedger:
    """Accounts in the memory of one process. share: this process is one of so many."""

    def __init__(self, policy: Policy, share: int) -> None:
        self.policy = policy
        self._share = share
        self._accounts: OrderedDict[str, rule.Account] = OrderedDict()

    def _account(self, user: str) -> rule.Account:
        account = self._accounts.get(user)
        if account is None:
            if len(self._accounts) >= MOST_ACCOUNTS:
                self._accounts.popitem(last=False)
            account = self._accounts[user] = rule.Account()
        self._accounts.move_to_end(user)
        return account

    def reserve(self, ask: Ask) -> Verdict:
        """As RedisLedger.reserve."""
        return replace(rule.reserve(self._account(ask.user), self.policy, ask, now_ms()), degraded=True)

    def view(self, user: str) -> View:
        """As RedisLedger.view."""
        account = self._accounts.get(user) or rule.Account()
        return replace(rule.view(account, self.policy, now_ms()), degraded=True)

    def extend(self, ask: Ask, held_output: int, more: int, sent: int) -> int:
        """As RedisLedger.extend."""
        held = replace(ask, output_tokens=held_output)
        return rule.extend(self._account(ask.user), self.policy, held, more, sent, now_ms())

    def settle(self, ask: Ask, spent: Triple) -> None:
        """Replace the reservation, if there is one, by what was spent. The bill is the spool's affair."""
        account = self._accounts.get(ask.user)
        if account is not None:
            rule.settle(account, self.policy, ask, spent, now_ms())
            # What was settled stays in `pend` until Redis is back; ids and bills would only grow.
            account.settled.clear()
            account.outbox.clear()

    def refresh(self, user: str, quota: Quota, seq: int) -> None:
        """Take this process's share of what Zion grants."""
        limits = [
            limit if limit == NOT_LIMITED else used + max(0, limit - used) // self._share
            for limit, used in zip(quota.limit, quota.used, strict=True)
        ]
        mine = Quota((limits[0], limits[1], limits[2]), quota.used, quota.ends_ms)
        rule.refresh(self._account(user), self.policy, mine, seq, now_ms())

    def forget(self) -> None:
        """Redis is back: what it knows counts again."""
        self._accounts.clear()


class FallbackLedger:
    """Redis while it is there, memory while it is not, and until Redis knows what was spent meanwhile.

    unsettled: how many settlements of this process wait for Redis.
    """

    def __init__(self, redis: RedisLedger, local: LocalLedger, unsettled: Callable[[], int]) -> None:
        self._unsettled = unsettled
        self._redis = redis
        self._local = local
        self._away = False
        self._back_at = 0.0

    async def reserve(self, ask: Ask) -> Verdict:
        """Admit or refuse; a verdict from memory is `degraded`."""
        if self._away and self._is_catching_up():
            return self._local.reserve(ask)
        try:
            verdict = await self._redis.reserve(ask)
        except RedisRefused:
            # One account that cannot be read; Redis is there for all others.
            raise
        except RedisUnavailable:
            self._lost()
            return self._local.reserve(ask)
        self._found()
        return verdict

    async def view(self, user: str) -> View:
        """What the user may spend and has spent, where it is decided on."""
        if self._away and self._is_catching_up():
            return self._local.view(user)
        try:
            return await self._redis.view(user)
        except RedisUnavailable:
            self._lost()
            return self._local.view(user)

    async def extend(self, ask: Ask, held_output: int, more: int, sent: int, started_ms: int) -> int:
        """Keep the lease, reserve more."""
        try:
            return await self._redis.extend(ask, held_output, more, sent, started_ms)
        except RedisRefused:
            raise
        except RedisUnavailable:
            self._lost()
            return self._local.extend(ask, held_output, more, sent)

    async def settle(
        self, ask: Ask, spent: Triple, started_ms: int, at_ms: int = 0, *, unsure: bool = False
    ) -> bool | None:
        """Settle in Redis. Raises RedisUnavailable, after memory has been settled: the caller spools it."""
        self._local.settle(ask, spent)
        return await self._redis.settle(ask, spent, started_ms, at_ms, unsure=unsure)

    async def refresh(self, user: str, quota: Quota, seq: int) -> None:
        """Take what Zion says."""
        try:
            await self._redis.refresh(user, quota, seq)
        except RedisUnavailable:
            self._local.refresh(user, quota, seq)
        else:
            if self._away:
                self._local.refresh(user, quota, seq)

    def _is_catching_up(self) -> bool:
        if not self._redis.store.available:
            return False
        self._back_at = self._back_at or monotonic()
        since = monotonic() - self._back_at
        return since < (_MOST_CATCH_UP_SECONDS if self._unsettled() else _CATCH_UP_SECONDS)

    def _lost(self) -> None:
        self._back_at = 0.0
        if not self._away:
            self._away = True
            log.warning("redis is away: requests are admitted from memory")

    def _found(self) -> None:
        if self._away:
            self._away = False
            self._local.forget()
            log.info("redis is back: it admits again")
