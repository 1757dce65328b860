"""Who a token belongs to, and what Zion granted its user: from memory, from Redis, from Zion.

A token is looked for in memory (a few seconds), in Redis (JWT_CACHE_TTL_SECONDS), at Zion. While Zion is away its last
answer serves for CACHE_STALE_SECONDS more. A 401 is remembered for 5 s only. Whatever the number of callers, one
question at a time goes out for one token and for one user.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import structlog

from sentinel.cache import keys
from sentinel.cache.ledger import RedisLedger
from sentinel.cache.redis import Store
from sentinel.clock import monotonic
from sentinel.error import AccessDenied, AppError, InvalidApiKey, RedisUnavailable, ZionUnavailable
from sentinel.limits.policy import Quota
from sentinel.tasks import Tasks
from sentinel.zion.client import ZionClient, quota_from
from sentinel.zion.models import AuthenticatedUser

log = structlog.get_logger()

MEMORY_SECONDS = 5.0
REFUSED_SECONDS = 5.0
MOST_TOKENS = 50_000
"""Bounds the memory: about 400 bytes for each token, 20 MB in all."""


class SubscriptionCache:
    """Tokens and limits with their times to live. on_stale is called whenever an outdated answer is served."""

    def __init__(
        self,
        store: Store,
        zion: ZionClient,
        ledger: RedisLedger,
        *,
        jwt_ttl_seconds: float,
        limits_ttl_seconds: float,
        stale_seconds: float,
        redis_optional: bool,
        on_stale: Callable[[], None],
    ) -> None:
        self._store = store
        self._zion = zion
        self._ledger = ledger
        self._jwt_ttl = jwt_ttl_seconds
        self._limits_ttl = limits_ttl_seconds
        self._stale = stale_seconds
        self._redis_optional = redis_optional
        self._on_stale = on_stale
        self._users: OrderedDict[bytes, tuple[AuthenticatedUser, float]] = OrderedDict()
        self._refused: OrderedDict[bytes, tuple[AppError, float]] = OrderedDict()
        self._flights: dict[bytes, asyncio.Task[Any]] = {}
        self._tasks = Tasks()

    def remembered(self, token: bytes) -> AuthenticatedUser | None:
        """The user of this token if memory knows, without waiting."""
        found = self._users.get(keys.token_digest(token))
        return found[0] if found is not None and found[1] > monotonic() else None

    async def user(self, token: bytes) -> AuthenticatedUser:
        """The user of this token. Raises InvalidApiKey, AccessDenied, ZionUnavailable, RedisUnavailable."""
        digest = keys.token_digest(token)
        found = self._users.get(digest)
        if found is not None and found[1] > monotonic():
            return found[0]
        refused = self._refused.get(digest)
        if refused is not None and refused[1] > monotonic():
            raise type(refused[0])(refused[0].message)
        user: AuthenticatedUser = await self._single_flight(digest, lambda: self._find_user(digest, token))
        return user

    async def _find_user(self, digest: bytes, token: bytes) -> AuthenticatedUser:
        user = await self._stored_user(keys.jwt(digest))
        if user is None:
            try:
                user = await self._zion.user(token.decode("latin-1"))
            except (InvalidApiKey, AccessDenied) as error:
                _remember(self._refused, digest, error, REFUSED_SECONDS)
                await self._write("DEL", keys.jwt_stale(digest))
                raise
            except ZionUnavailable:
                user = await self._stored_user(keys.jwt_stale(digest))
                if user is None:
                    raise
                self._on_stale()
            else:
                await self._keep_user(digest, user)
        _remember(self._users, digest, user, min(MEMORY_SECONDS, self._jwt_ttl))
        return user

    async def _stored_user(self, key: bytes) -> AuthenticatedUser | None:
        try:
            stored = await self._store.command("GET", key)
        except RedisUnavailable:
            if self._redis_optional:
                return None
            raise
        return msgspec.json.decode(stored, type=AuthenticatedUser) if stored else None

    async def _keep_user(self, digest: bytes, user: AuthenticatedUser) -> None:
        value = msgspec.json.encode(user)
        fresh_ms, stale_ms = round(self._jwt_ttl * 1000), round((self._jwt_ttl + self._stale) * 1000)
        await self._write("SET", keys.jwt(digest), value, "PX", max(1, fresh_ms))
        await self._write("SET", keys.jwt_stale(digest), value, "PX", max(1, stale_ms))

    async def _write(self, *command: bytes | str | int) -> None:
        try:
            await self._store.command(*command)
        except RedisUnavailable:
            if not self._redis_optional:
                raise

    async def fetch_limits(self, user: str, seq: int) -> None:
        """Hand the ledger what Zion grants the user, for an account that knows nothing yet.

        seq: acknowledgements the account had seen. Raises AccessDenied, ZionUnavailable, RedisUnavailable.
        """

        async def fetch() -> None:
            stored = await self._store.command("GET", keys.limits(user))
            quota = quota_from(stored) if stored else await self._ask_limits(user)
            await self._ledger.refresh(user, quota, seq)

        await self._single_flight(b"limits:" + user.encode(), fetch)

    async def refresh_limits(self, user: str, seq: int) -> None:
        """Ask Zion anew, whatever Redis has. Raises as fetch_limits."""

        async def refresh() -> None:
            await self._ledger.refresh(user, await self._ask_limits(user), seq)

        await self._single_flight(b"refresh:" + user.encode(), refresh)

    def refresh_limits_soon(self, user: str, seq: int) -> None:
        """Ask Zion anew in the background; while that fails the old value serves."""

        async def refresh() -> None:
            try:
                await self.refresh_limits(user, seq)
            except AppError as error:
                self._on_stale()
                log.warning("limits stay as they were", user=user, reason=error.code)

        self._tasks.start(refresh(), f"refresh limits of {user}")

    async def limits_of(self, user: str) -> Quota:
        """What Zion grants the user, asked now. Raises AccessDenied, ZionUnavailable."""
        quota, _ = await self._zion.limits(user)
        return quota

    async def _ask_limits(self, user: str) -> Quota:
        quota, body = await self._zion.limits(user)
        await self._store.command("SET", keys.limits(user), body, "PX", max(1, round(self._limits_ttl * 1000)))
        return quota

    async def forget_user(self, user: str) -> None:
        """Forget every token of this user, so that the next request asks Zion; used by operators."""
        for digest in [digest for digest, (known, _) in self._users.items() if known.id == user]:
            del self._users[digest]

    async def _single_flight(self, key: bytes, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        flight = self._flights.get(key)
        if flight is None:
            flight = self._tasks.start(_quiet(work()), "single flight")
            self._flights[key] = flight
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        # One caller who leaves must not take the answer from the others.
        result = await asyncio.shield(flight)
        if isinstance(result, AppError):
            raise result
        return result

    async def close(self) -> None:
        """Stop what runs in the background."""
        await self._tasks.cancel()


async def _quiet(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of `work`, or its AppError as a value: every waiting caller raises it for themselves."""
    try:
        return await work
    except AppError as error:
        return error


def _remember(memory: OrderedDict[bytes, tuple[Any, float]], digest: bytes, value: Any, seconds: float) -> None:
    """Insertion order is the order of expiry, so forgetting what is over or too much is a look at the oldest."""
    now = monotonic()
    while memory:
        oldest = next(iter(memory))
        if len(memory) < MOST_TOKENS and memory[oldest][1] > now:
            break
        del memory[oldest]
    memory[digest] = (value, now + seconds)
    memory.move_to_end(digest)
