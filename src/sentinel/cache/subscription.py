"""Who a token belongs to, and what its user was granted: from memory, from Redis, from the governance system.

A token is looked for in memory (a few seconds), in Redis (JWT_CACHE_TTL_SECONDS), at the governance. While that is away
its last answer serves for CACHE_STALE_SECONDS more. A refusal is remembered for 5 s only. Whatever the number of
callers, one question at a time goes out for one token and for one user.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Coroutine
from functools import lru_cache
from importlib import resources
from typing import Any, Protocol

import msgspec
import structlog
from redis.exceptions import RedisClusterException, RedisError

from sentinel.cache import keys
from sentinel.cache.bulkhead import Bulkhead
from sentinel.cache.redis import Script, Store
from sentinel.clock import monotonic
from sentinel.error import AccessDenied, AppError, InvalidApiKey, RedisRefused, RedisUnavailable, ZionUnavailable
from sentinel.governance.port import AuthenticatedUser, Governance
from sentinel.limits.policy import ByDimension, Quota
from sentinel.observability.logs import log_name
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
MOST_TOKENS = 50_000
"""Bounds the memory: about 750 bytes for each token, 37 MB in all; as many refused ones, 45 MB."""


MOST_TOKENS_OF_A_USER = 1_000
"""Bounds what Redis keeps of one user: 0.3 MB. The token of which it would know the shortest is asked about anew."""
_DROP_AT_ONCE = 100
"""Twice as many commands, in one write."""


_SHORT_TOKEN_BYTES = 1024
_digest_of_short = lru_cache(maxsize=4096)(keys.token_digest)
"""Of the last tokens, which mostly come again at once: half a microsecond less each. 5 MB, whatever strangers send."""


class Account(Protocol):
    """Who is told what the governance grants."""

    async def refresh(self, user: str, quota: Quota, seq: int) -> None:
        """Take what the governance says about the user's limits, asked when `seq` acknowledgements were known."""


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
        self._stale = stale_seconds
        self._redis_optional = redis_optional
        self._on_stale = on_stale
        self._users: OrderedDict[bytes, tuple[AuthenticatedUser, float]] = OrderedDict()
        self._refused: OrderedDict[bytes, tuple[AppError, float]] = OrderedDict()
        self._unknown = Bulkhead()
        self._flights: dict[bytes, asyncio.Task[Any]] = {}
        self._tasks = Tasks()
        self._note_token = Script.of(resources.files(__package__).joinpath("note_token.lua").read_text())

    def remembered(self, token: bytes) -> AuthenticatedUser | None:
        """The user of this token if memory knows, without waiting."""
        is_short = len(token) <= _SHORT_TOKEN_BYTES
        return self._remembered(_digest_of_short(token) if is_short else keys.token_digest(token))

    def _remembered(self, digest: bytes) -> AuthenticatedUser | None:
        found = self._users.get(digest)
        return found[0] if found is not None and found[1] > monotonic() else None

    async def user(self, token: bytes, client: str | None = None) -> AuthenticatedUser:
        """The user of this token. client: the address that it came from.

        Raises InvalidApiKey, AccessDenied, ZionUnavailable, RedisUnavailable.
        """
        digest = keys.token_digest(token)
        user = self._decided(digest)
        if user is not None:
            return user
        user = await self._stored_user(keys.jwt(digest))
        if user is None:
            user = await self._single_flight(digest, lambda: self._ask_governance(digest, token, client))
        else:
            self._remember_user(digest, user)
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
        try:
            user = await self._user_at_governance(digest, token.decode("latin-1"), client)
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
        self._remember_user(digest, user)
        return user

    async def _user_at_governance(self, digest: bytes, token: str, client: str | None) -> AuthenticatedUser:
        if not self._unknown.has_place(client) and await self._read(keys.jwt_stale(digest)):
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

    def _remember_user(self, digest: bytes, user: AuthenticatedUser) -> None:
        _remember(self._users, digest, user, min(MEMORY_SECONDS, self._jwt_ttl))

    async def _stored_user(self, key: bytes) -> AuthenticatedUser | None:
        return _user(await self._read(key))

    async def _read(self, key: bytes) -> bytes | None:
        """What Redis has; None also where that is nothing of ours: then it is asked for, and written, anew."""
        try:
            stored: bytes | None = await self._unless_optional(lambda: self._store.command("GET", key))
        except RedisRefused:
            return None
        return stored

    async def _keep_user(self, digest: bytes, user: AuthenticatedUser) -> None:
        value = msgspec.json.encode(user)
        fresh_ms = max(1, round(self._jwt_ttl * 1000))
        stale_ms = max(1, round((self._jwt_ttl + self._stale) * 1000))
        # In one write, so that nothing comes between them: what is known and not noted could not be forgotten.
        too_many, *_ = await asyncio.gather(
            self._unless_optional(lambda: self._note(digest, user.id, stale_ms)),
            self._write("SET", keys.jwt(digest), value, "PX", fresh_ms),
            self._write("SET", keys.jwt_stale(digest), value, "PX", stale_ms),
        )
        if too_many:
            await self._unless_optional(lambda: self._drop_tokens(too_many))

    async def _write(self, *command: bytes | str | int) -> None:
        await self._unless_optional(lambda: self._store.command(*command))

    def _note(self, digest: bytes, user: str, stale_ms: int) -> Awaitable[list[bytes]]:
        """Note that this token is the user's; the answer are those that are too many."""
        return self._store.script(self._note_token, (keys.tokens(user),), digest, stale_ms, MOST_TOKENS_OF_A_USER)

    async def _unless_optional(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """The answer of Redis; None where it is away and need not be there. A call may fail before it is awaited."""
        try:
            return await call()
        except RedisUnavailable:
            if not self._redis_optional:
                raise
            return None

    async def _drop_tokens(self, digests: Collection[bytes]) -> None:
        """Let Redis forget whose these tokens are."""
        await asyncio.gather(
            *(self._store.command("DEL", key(digest)) for digest in digests for key in (keys.jwt, keys.jwt_stale))
        )

    async def fetch_limits(self, user: str, seq: int) -> None:
        """Hand the ledger what the governance grants the user, for an account that knows nothing yet.

        seq: acknowledgements the account had seen. Raises AccessDenied, ZionUnavailable, RedisUnavailable.
        """

        async def fetch() -> None:
            stored = await self._read(keys.limits(user))
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
        quota = await self._governance.limits(user)
        await self._write("SET", keys.limits(user), _packed(quota), "PX", max(1, round(self._limits_ttl * 1000)))
        return quota

    async def forget_user(self, user: str) -> None:
        """Forget every token of this user, here and in all other processes: the next request asks again.

        Raises RedisUnavailable.
        """
        key = keys.tokens(user)
        while digests := await self._store.command("ZRANGE", key, 0, _DROP_AT_ONCE - 1):
            await self._drop_tokens(digests)
            # Not the whole key: another token may have been noted meanwhile.
            await self._store.command("ZREM", key, *digests)
        await self._forget_here(user)
        await self._store.command("PUBLISH", keys.forget(), user)

    async def _forget_here(self, user: str) -> None:
        # All tokens at once would hold the loop for 8 ms.
        known = list(self._users)
        for start in range(0, len(known), _LOOK_AT_ONCE):
            for digest in known[start : start + _LOOK_AT_ONCE]:
                found = self._users.get(digest)
                if found is not None and found[0].id == user:
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
        while True:
            try:
                # A client of a cluster knows no node before.
                await self._store.client.initialize()
                async with self._store.client.pubsub() as channel:
                    await channel.subscribe(keys.forget())
                    while True:
                        message = await channel.get_message(ignore_subscribe_messages=True, timeout=_LISTEN_SECONDS)
                        if message is not None and message["data"]:
                            await self._forget_here(message["data"].decode())
            except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
                log.debug("the channel is lost", reason=type(error).__name__)
                await pause(_LISTEN_AGAIN_SECONDS)

    async def _single_flight(self, key: bytes, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        flight = self._flights.get(key)
        if flight is None:
            flight = self._tasks.start(_quiet(work()), "single flight")
            self._flights[key] = flight
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        # One caller who leaves must not take the answer from the others.
        return _raised(await asyncio.shield(flight))

    async def close(self) -> None:
        """Stop what runs in the background."""
        await self._tasks.cancel()


async def known_email(store: Store, user: str) -> str | None:
    """The e-mail address that came with the user's newest token, None where no token is known. Raises RedisUnavailable.

    The governance tells it with a token alone.
    """
    for digest in await store.command("ZRANGE", keys.tokens(user), 0, -1, "REV"):
        with contextlib.suppress(RedisRefused):
            if found := _user(await store.command("GET", keys.jwt_stale(digest))):
                return found.email
    return None


def _user(stored: bytes | None) -> AuthenticatedUser | None:
    """The user of a stored value; None where there is none, or it cannot be read."""
    try:
        return msgspec.json.decode(stored, type=AuthenticatedUser) if stored else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


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
