"""Who a token belongs to, and what its user was granted: from memory, from Redis, from the governance system.

A token is looked for in memory (a few seconds), in Redis (JWT_CACHE_TTL_SECONDS), at the governance. While that is away
its last answer serves for CACHE_STALE_SECONDS more. A refusal is remembered for 5 s only. Whatever the number of
callers, one question at a time goes out for one token and for one user. No token serves past its end, which the
governance tells, and the token itself where it is a JWT.

An operator may want users forgotten: then nothing that was asked before is kept, or shared with whoever asks later.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import lru_cache
from typing import Any, Protocol

import msgspec
import structlog
from redis.asyncio.client import PubSub

from sentinel.cache import keys
from sentinel.cache.bulkhead import Bulkhead
from sentinel.cache.channel import listen
from sentinel.cache.redis import Store
from sentinel.cache.token_records import TokenRecords, read_user, until
from sentinel.clock import monotonic, now_ms
from sentinel.error import AccessDenied, AppError, InvalidApiKey, RedisRefused, ZionUnavailable
from sentinel.governance.port import AuthenticatedUser, Governance
from sentinel.limits.policy import ByDimension, Quota
from sentinel.observability.logs import log_name
from sentinel.steps import in_portions
from sentinel.tasks import Tasks, pause

log = structlog.get_logger()

MEMORY_SECONDS = 15.0
"""So much longer than JWT_CACHE_TTL_SECONDS a revoked token may serve, where nobody says `forget`."""
REFUSED_SECONDS = 5.0
UNKNOWN_SECONDS = 2.8
"""So long a token that nobody has seen may wait for a place, and for an answer: a 503 must come within 3 s."""
_LISTEN_SECONDS, _LISTEN_AGAIN_SECONDS = 30.0, 5.0
_LOOK_AT_ONCE = 2_000
"""Tokens looked at in one step of the loop: half a millisecond."""
_FORGET_AT_ONCE = 4
"""More than one, so that what is over ends sooner than more comes; all at once would be 12 ms after a pause."""
_NAMED_AT_ONCE = 1_000
"""Users whose tokens are looked for at once."""
MOST_TOKENS = 50_000
"""Bounds the memory: about 750 bytes for each token, 37 MB in all; as many refused ones, 45 MB."""


_SHORT_TOKEN_BYTES = 1024
_digest_of_short = lru_cache(maxsize=4096)(keys.token_digest)
"""Of the last tokens, which mostly come again at once: half a microsecond less each. 5 MB, whatever strangers send."""


class Account(Protocol):
    """Who is told what the governance grants."""

    async def refresh(self, user: str, quota: Quota, seq: int) -> None:
        """Take what the governance says about the user's limits, asked when `seq` acknowledgements were known."""

    async def forget_limits(self, user: str) -> bool:
        """Whether the user has an account; nothing is granted on its limits before the governance was asked again."""


class SubscriptionCache:
    """Tokens and limits with their times to live. on_stale is called whenever an outdated answer is served."""

    def __init__(
        self,
        store: Store,
        governance: Governance,
        ledger: Account,
        *,
        jwt_ttl_seconds: float,
        limits_ttl_seconds: float,
        stale_seconds: float,
        redis_optional: bool,
        on_stale: Callable[[], None],
    ) -> None:
        self._store = store
        self._governance = governance
        self._ledger = ledger
        self._jwt_ttl = jwt_ttl_seconds
        self._limits_ttl = limits_ttl_seconds
        self._on_stale = on_stale
        self._users: OrderedDict[bytes, tuple[AuthenticatedUser, float]] = OrderedDict()
        self._refused: OrderedDict[bytes, tuple[AppError, float]] = OrderedDict()
        self._unknown = Bulkhead()
        self._flights: dict[bytes, asyncio.Task[Any]] = {}
        self._forgets = 0
        self._tasks = Tasks()
        self._tokens = TokenRecords(store, jwt_ttl_seconds, stale_seconds, optional=redis_optional)

    def remembered(self, token: bytes) -> AuthenticatedUser | None:
        """The user of this token if memory knows, without waiting."""
        is_short = len(token) <= _SHORT_TOKEN_BYTES
        return self._remembered(_digest_of_short(token) if is_short else keys.token_digest(token))

    def _remembered(self, digest: bytes) -> AuthenticatedUser | None:
        found = self._users.get(digest)
        if found is None or found[1] <= monotonic():
            return None
        user = found[0]
        return user if user.expires_at_ms is None or user.expires_at_ms > now_ms() else None

    async def user(self, token: bytes, client: str | None = None) -> AuthenticatedUser:
        """The user of this token. client: the address that it came from.

        Raises InvalidApiKey, AccessDenied, ZionUnavailable, RedisUnavailable.
        """
        digest = keys.token_digest(token)
        user = self._decided(digest)
        if user is not None:
            return user
        forgets = self._forgets
        user = await self._tokens.fresh(digest, token)
        if user is None:
            user = await self._single_flight(digest, lambda: self._ask_governance(digest, token, client))
        else:
            self._remember_user(digest, user, forgets)
        assert user is not None
        return user

    def _decided(self, digest: bytes) -> AuthenticatedUser | None:
        """What memory knows of a token, which may be that it was refused."""
        refused = self._refused.get(digest)
        if refused is not None and refused[1] > monotonic():
            raise type(refused[0])(refused[0].message)
        return self._remembered(digest)

    async def _ask_governance(self, digest: bytes, token: bytes, client: str | None) -> AuthenticatedUser:
        # Somebody may have asked between our look into Redis and now.
        user = self._decided(digest)
        if user is not None:
            return user
        forgets = self._forgets
        try:
            user = until(await self._user_at_governance(digest, token.decode("latin-1"), client), token)
        except (InvalidApiKey, AccessDenied) as error:
            if forgets == self._forgets:
                _remember(self._refused, digest, error, REFUSED_SECONDS)
            await self._tokens.refused(digest)
            raise
        except ZionUnavailable:
            user = await self._tokens.stale(digest, token)
            if user is None:
                raise
            self._on_stale()
            self._remember_user(digest, user, forgets)
        else:
            if await self._tokens.keep(digest, user):
                self._remember_user(digest, user, forgets)
        return user

    async def _user_at_governance(self, digest: bytes, token: str, client: str | None) -> AuthenticatedUser:
        if not self._unknown.has_place(client) and await self._tokens.read(keys.jwt_stale(digest)):
            # It was good not long ago, so it is no stranger's.
            return await self._governance.identify(token)
        try:
            async with asyncio.timeout(UNKNOWN_SECONDS):
                await self._unknown.enter(client)
                question = self._tasks.start(_quiet(self._ask_in_place(token, client)), "unknown token")
                # Who asked may have waited long enough, but the question is still out: its place stays taken.
                user: AuthenticatedUser = _raised(await asyncio.shield(question))
                return user
        except TimeoutError as error:
            raise ZionUnavailable("The governance system does not answer in time.", retry_after_seconds=2) from error

    async def _ask_in_place(self, token: str, client: str | None) -> AuthenticatedUser:
        try:
            return await self._governance.identify(token)
        finally:
            self._unknown.leave(client)

    def _remember_user(self, digest: bytes, user: AuthenticatedUser, forgets: int) -> None:
        """Remember a user, unless anybody was forgotten since there were so many: it may be this one."""
        if forgets == self._forgets:
            _remember(self._users, digest, user, min(MEMORY_SECONDS, self._jwt_ttl))

    async def fetch_limits(self, user: str, seq: int) -> None:
        """Hand the ledger what the governance grants the user, for an account that knows nothing yet.

        seq: acknowledgements the account had seen. Raises AccessDenied, ZionUnavailable, RedisUnavailable.
        """

        async def fetch() -> None:
            stored = await self._tokens.read(keys.limits(user))
            quota = _quota(stored) or await self._ask_limits(user)
            await self._ledger.refresh(user, quota, seq)

        await self._single_flight(b"limits:" + user.encode(), fetch)

    async def refresh_limits(self, user: str, seq: int) -> None:
        """Ask the governance anew, whatever Redis has. Raises as fetch_limits."""

        async def refresh() -> None:
            await self._ledger.refresh(user, await self._ask_limits(user), seq)

        await self._single_flight(b"refresh:" + user.encode(), refresh)

    def refresh_limits_soon(self, user: str, seq: int) -> None:
        """Ask the governance anew in the background; while that fails the old value serves."""

        async def refresh() -> None:
            try:
                await self.refresh_limits(user, seq)
            except AppError as error:
                self._on_stale()
                log.warning("limits stay as they were", user_id=log_name(user), reason=error.code)

        self._tasks.start(refresh(), "refresh limits")

    async def _ask_limits(self, user: str) -> Quota:
        forgets = self._forgets
        quota = await self._governance.limits(user)
        if forgets != self._forgets:
            # Somebody was forgotten meanwhile, and it may be this user: the answer may be from before that.
            quota = await self._governance.limits(user)
        await self._tokens.write("SET", keys.limits(user), _packed(quota), "PX", max(1, round(self._limits_ttl * 1000)))
        return quota

    async def forget_users(self, users: Sequence[str]) -> list[bool]:
        """Forget every token of these users, here and in all other processes: the next request asks again.

        Returns of each whether any was known. Raises RedisUnavailable.
        """
        known: list[bool] = []
        for portion in in_portions(users):
            known += await asyncio.gather(*map(self._tokens.forget, portion))
        await self._forget_here(users)
        for portion in in_portions(users):
            await asyncio.gather(*(self._store.command("PUBLISH", keys.forget(), user) for user in portion))
        return known

    async def forget_limits(self, user: str) -> bool:
        """Forget what the governance has granted; whether the user has an account. Raises RedisUnavailable."""
        await self._store.command("DEL", keys.limits(user))
        return await self._ledger.forget_limits(user)

    async def _forget_here(self, users: Collection[str]) -> None:
        self._forgets += 1
        # Who asks from now on shares no question with those who have asked before.
        self._flights.clear()
        users = frozenset(users)
        # All tokens at once would hold the loop for 8 ms.
        known = list(self._users)
        for start in range(0, len(known), _LOOK_AT_ONCE):
            for digest in known[start : start + _LOOK_AT_ONCE]:
                found = self._users.get(digest)
                if found is not None and found[0].id in users:
                    del self._users[digest]
            await pause(0)
        # A refusal does not say whose it is.
        refused, self._refused = self._refused, OrderedDict()
        while refused:
            for _ in range(min(len(refused), _LOOK_AT_ONCE)):
                refused.popitem()
            await pause(0)

    async def listen(self) -> None:
        """Forget whom other processes say, for ever. What is missed in an outage ends by itself in seconds."""

        async def take(channel: Any) -> None:
            if users := await _named(channel):
                await self._forget_here(users)

        await listen(self._store, keys.forget(), take)

    async def _single_flight(self, key: bytes, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        flight = self._flights.get(key)
        if flight is None:
            flight = self._tasks.start(_quiet(work()), "single flight")
            self._flights[key] = flight
            flight.add_done_callback(lambda ended: self._landed(key, ended))
        # One caller who leaves must not take the answer from the others.
        return _raised(await asyncio.shield(flight))

    def _landed(self, key: bytes, flight: asyncio.Task[Any]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    async def close(self) -> None:
        """Stop what runs in the background."""
        await self._tasks.cancel()


async def known_email(store: Store, user: str) -> str | None:
    """The e-mail address that came with the user's newest token, None where no token is known. Raises RedisUnavailable.

    The governance tells it with a token alone.
    """
    for digest in await store.command("ZRANGE", keys.tokens(user), 0, -1, "REV"):
        with contextlib.suppress(RedisRefused):
            if found := read_user(await store.command("GET", keys.jwt_stale(digest))):
                return found.email
    return None


async def _named(channel: PubSub) -> set[str]:
    """The users that have come by a channel: all that wait, for to look for one of them takes as long as for many."""
    users: set[str] = set()
    timeout = _LISTEN_SECONDS
    while (message := await channel.get_message(ignore_subscribe_messages=True, timeout=timeout)) is not None:
        users.add(message["data"].decode(errors="replace"))
        if len(users) >= _NAMED_AT_ONCE:
            break
        timeout = 0.0
        await pause(0)
    return users


def _packed(quota: Quota) -> bytes:
    return msgspec.json.encode((quota.limit, quota.used, quota.ends_ms, quota.told))


_unpacked = msgspec.json.Decoder(tuple[ByDimension, ByDimension, ByDimension, tuple[bool, bool, bool]]).decode


def _quota(stored: bytes | None) -> Quota | None:
    """The quota that is kept; None where there is none, or what others wrote: then it is asked for, never guessed."""
    try:
        return Quota(*_unpacked(stored)) if stored else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


async def _quiet(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of `work`, or its AppError as a value: every waiting caller raises it for themselves."""
    try:
        return await work
    except AppError as error:
        return error


def _raised(result: Any) -> Any:
    """What `_quiet` has returned; raises where it is an AppError."""
    if isinstance(result, AppError):
        raise result
    return result


def _remember(memory: OrderedDict[bytes, tuple[Any, float]], digest: bytes, value: Any, seconds: float) -> None:
    """Insertion order is the order of expiry, so forgetting what is over or too much is a look at the oldest few."""
    now = monotonic()
    for _ in range(min(len(memory), _FORGET_AT_ONCE)):
        oldest = next(iter(memory))
        if len(memory) < MOST_TOKENS and memory[oldest][1] > now:
            break
        del memory[oldest]
    memory[digest] = (value, now + seconds)
    memory.move_to_end(digest)
