"""The ledger while Redis is away (`REDIS_DOWN=local`): each process admits its share of every limit from memory.

The share is limit / (SENTINEL_REPLICAS x SENTINEL_WORKERS), so that all processes together stay within the limit.
Settlements go to the spool and reach Redis when it is back. The rule is `limits/ledger.py`, the twin of the scripts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import structlog
from msgspec.structs import replace

from sentinel.cache.redis_ledger import RedisLedger
from sentinel.clock import monotonic, now_ms
from sentinel.error import RedisRefused, RedisUnavailable
from sentinel.limits import ledger as rule
from sentinel.limits.account import Account
from sentinel.limits.policy import NOT_LIMITED, PLACE_TAKEN, Cost, Policy, Quota, Reservation, Verdict, View
from sentinel.tasks import pause

log = structlog.get_logger()

MOST_ACCOUNTS = 20_000
"""Bounds the memory to about 40 MB. Only users seen during the outage are in here; the idlest are forgotten first."""

_CATCH_UP_SECONDS, _MOST_CATCH_UP_SECONDS = 2.0, 10.0
"""So long memory goes on when Redis is back: until all processes have replayed what they spooled, which takes a second.
Longer where our own spool takes longer, but not for ever."""


BLIP_SECONDS = 0.25
"""A connection that is back so soon was lost, but Redis was not away: as long as a call waits for its answer."""
_LOOK_SECONDS = 0.01

T = TypeVar("T")


class LocalLedger:
    """Accounts in the memory of one process. share: this process is one of so many.

    What Redis has admitted is known here, too, as far as it is in flight in this process: an account that begins
    holds what these requests hold.
    """

    def __init__(self, policy: Policy, share: int) -> None:
        self.policy = policy
        self._share = share
        self._accounts: OrderedDict[str, Account] = OrderedDict()
        self._in_flight: dict[str, dict[str, tuple[Reservation, int]]] = {}

    def _account(self, user: str) -> Account:
        account = self._accounts.get(user)
        if account is None:
            if len(self._accounts) >= MOST_ACCOUNTS:
                self._accounts.popitem(last=False)
            account = self._accounts[user] = Account()
            for reservation, output in self._in_flight.get(user, {}).values():
                rule.extend(account, self.policy, replace(reservation, output_tokens=output), 0, -1, now_ms())
        self._accounts.move_to_end(user)
        return account

    def admitted(self, reservation: Reservation, output: int) -> None:
        """Redis has reserved so much output for a request of this process."""
        self._in_flight.setdefault(reservation.user, {})[reservation.id] = (reservation, output)

    def extended(self, reservation: Reservation, output: int) -> None:
        """So much it holds now, if it is still in flight."""
        if reservation.id in self._in_flight.get(reservation.user, ()):
            self._in_flight[reservation.user][reservation.id] = (reservation, output)

    def _forget_request(self, reservation: Reservation) -> None:
        requests = self._in_flight.get(reservation.user)
        if requests is not None and requests.pop(reservation.id, None) is not None and not requests:
            del self._in_flight[reservation.user]

    def reserve(self, reservation: Reservation) -> Verdict:
        """As RedisLedger.reserve."""
        return replace(rule.reserve(self._account(reservation.user), self.policy, reservation, now_ms()), degraded=True)

    def view(self, user: str) -> View:
        """As RedisLedger.view."""
        account = self._accounts.get(user) or Account()
        return replace(rule.view(account, self.policy, now_ms()), degraded=True)

    def extend(self, reservation: Reservation, held_output: int, more: int, delivered: int) -> int | None:
        """As RedisLedger.extend: where no limits are known, nothing is added to what the request holds."""
        held = replace(reservation, output_tokens=held_output)
        return rule.extend(self._account(reservation.user), self.policy, held, more, delivered, now_ms())

    def settle(self, reservation: Reservation, spent: Cost, *, redis_knows: bool = False) -> None:
        """Replace the reservation by what was spent. The bill is the spool's affair.

        redis_knows: then only a reservation that is here has to be ended.
        """
        account = self._accounts.get(reservation.user) if redis_knows else self._account(reservation.user)
        self._forget_request(reservation)
        if account is not None and (reservation.id in account.leases or not redis_knows):
            rule.settle(account, self.policy, reservation, spent, now_ms())
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


class _Outage(Exception):
    """Redis is away, and for longer than a blip."""


class FallbackLedger:
    """Redis while it is there, memory while it is not, and until Redis knows what was spent meanwhile.

    All processes must take the same way, or each would grant what is left: one from Redis, one from memory. So a
    connection that is back within BLIP_SECONDS is waited for, and after an outage that was longer each process goes on
    from memory for a while, also one that nobody has asked anything during it.

    unsettled: how many settlements of this process wait for Redis.
    """

    def __init__(self, redis: RedisLedger, local: LocalLedger, unsettled: Callable[[], int]) -> None:
        self._unsettled = unsettled
        self._redis = redis
        self._local = local
        self._away = False
        self._is_outage = False
        self._back_at = 0.0
        self._connects = redis.store.connects

    async def reserve(self, reservation: Reservation) -> Verdict:
        """Admit or refuse; a verdict from memory is `degraded`."""
        if self._from_memory():
            return self._local.reserve(reservation)
        try:
            verdict = await self._of_redis(partial(self._redis.reserve, reservation))
        except _Outage:
            return self._local.reserve(reservation)
        self._found()
        if verdict.admitted:
            self._local.admitted(reservation, verdict.granted_output)
        return verdict

    async def view(self, user: str) -> View:
        """What the user may spend and has spent, where it is decided on."""
        if self._from_memory():
            return self._local.view(user)
        try:
            return await self._of_redis(partial(self._redis.view, user))
        except _Outage:
            return self._local.view(user)

    async def extend(
        self, reservation: Reservation, held_output: int, more: int, delivered: int, started_ms: int
    ) -> int | None:
        """Keep the lease, reserve more."""
        try:
            holds = await self._of_redis(
                partial(self._redis.extend, reservation, held_output, more, delivered, started_ms)
            )
        except _Outage:
            return self._local.extend(reservation, held_output, more, delivered)
        if holds is not None and holds != PLACE_TAKEN:
            self._local.extended(reservation, holds)
        return holds

    async def settle(
        self,
        reservation: Reservation,
        spent: Cost,
        started_ms: int,
        at_ms: int = 0,
        *,
        unsure: bool = False,
        cost_micro_usd: int = 0,
    ) -> bool | None:
        """Settle in Redis. Raises RedisUnavailable, after memory has been settled: the caller spools it."""
        try:
            settled = await self._redis.settle(
                reservation, spent, started_ms, at_ms, unsure=unsure, cost_micro_usd=cost_micro_usd
            )
        except RedisUnavailable:
            # An error that Redis gave to this one call is no reason to do without it.
            if not self._redis.store.available:
                self._lost()
            self._local.settle(reservation, spent, redis_knows=not self._away)
            raise
        self._local.settle(reservation, spent, redis_knows=True)
        return settled

    async def refresh(self, user: str, quota: Quota, seq: int) -> None:
        """Take what Zion says."""
        try:
            await self._redis.refresh(user, quota, seq)
        except RedisUnavailable:
            self._local.refresh(user, quota, seq)
        else:
            if self._away:
                self._local.refresh(user, quota, seq)

    async def forget_limits(self, user: str) -> bool:
        """Nothing is granted before Zion was asked again. Raises RedisUnavailable."""
        return await self._redis.forget_limits(user)

    async def has_account(self, user: str) -> bool:
        """Whether Redis has one. Raises RedisUnavailable."""
        return await self._redis.has_account(user)

    async def _of_redis(self, call: Callable[[], Awaitable[T]]) -> T:
        """What Redis says. Raises RedisRefused, and _Outage if it is away for longer than a blip."""
        until = monotonic() + BLIP_SECONDS
        while True:
            try:
                return await call()
            except RedisRefused:
                # One account that cannot be read; Redis is there for all others.
                raise
            except RedisUnavailable as error:
                if self._is_outage or monotonic() > until:
                    self._lost(for_long=True)
                    raise _Outage from error
            await pause(_LOOK_SECONDS)

    def _from_memory(self) -> bool:
        """Whether Redis must learn first what was spent while it was away."""
        store = self._redis.store
        if store.connects != self._connects:
            self._connects = store.connects
            if store.outage_seconds > BLIP_SECONDS:
                self._lost(for_long=True)
        return self._away and self._is_outage and self._is_catching_up()

    def _is_catching_up(self) -> bool:
        if not self._redis.store.available:
            return False
        self._back_at = self._back_at or monotonic()
        since = monotonic() - self._back_at
        return since < (_MOST_CATCH_UP_SECONDS if self._unsettled() else _CATCH_UP_SECONDS)

    def _lost(self, *, for_long: bool = False) -> None:
        self._back_at, self._is_outage = 0.0, self._is_outage or for_long
        if not self._away:
            self._away = True
            log.warning("redis is away: requests are admitted from memory")

    def _found(self) -> None:
        if self._away:
            self._away = self._is_outage = False
            self._local.forget()
            log.info("redis is back: it admits again")
