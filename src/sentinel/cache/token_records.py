"""Whose a token is, in Redis: under its hash, for JWT_CACHE_TTL_SECONDS, and longer for when the governance is away.

No record lasts beyond the token's end. All of a user's can be forgotten, and while that is done nobody adds to them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from importlib import resources
from secrets import token_hex
from typing import Any

import msgspec

from sentinel.cache import keys
from sentinel.cache.redis import Script, Store
from sentinel.clock import now_ms
from sentinel.error import RedisRefused, RedisUnavailable
from sentinel.governance.jwt import ends_ms
from sentinel.governance.model_globs import shared
from sentinel.governance.port import AuthenticatedUser
from sentinel.limits.policy import EXACT

MOST_TOKENS_OF_A_USER = 1_000
"""Bounds what Redis keeps of one user: 0.3 MB. The token of which it would know the shortest is asked about anew."""
_DROP_AT_ONCE = 100
"""Twice as many commands, in one write."""
FORGOTTEN_MS = 2 * 3600 * 1000
"""So long Redis knows that a user was to be forgotten: as long as a client secret of theirs lasts."""
_QUESTION_MS = 5_000
"""No question is out for longer: so long after a user was to be forgotten, an answer may be from before that."""


class TokenRecords:
    """The records. fresh_seconds, then stale_seconds more: how long each lasts. optional: it need not be there."""

    def __init__(self, store: Store, fresh_seconds: float, stale_seconds: float, *, optional: bool) -> None:
        self._store = store
        self._fresh_ms = max(1, round(fresh_seconds * 1000))
        self._stale_ms = max(1, round((fresh_seconds + stale_seconds) * 1000))
        self._optional = optional
        self._note_token = Script.of(resources.files(__package__).joinpath("note_token.lua").read_text())

    async def fresh(self, digest: bytes, token: bytes) -> AuthenticatedUser | None:
        """Whose the token is, None where nobody knows. Raises RedisUnavailable, as all here."""
        return _valid(await self.read(keys.jwt(digest)), token)

    async def stale(self, digest: bytes, token: bytes) -> AuthenticatedUser | None:
        """Whose it was not long ago."""
        return _valid(await self.read(keys.jwt_stale(digest)), token)

    async def keep(self, digest: bytes, user: AuthenticatedUser) -> bool:
        """Keep whose a token is; False where it must not be kept, not in memory either."""
        left_ms = EXACT if user.expires_at_ms is None else user.expires_at_ms - now_ms()
        if left_ms <= 0:
            return False
        value, stale_ms = msgspec.json.encode(user), min(left_ms, self._stale_ms)
        # In one write, so that nothing comes between them: what is known and not noted could not be forgotten.
        too_many, *_ = await asyncio.gather(
            self._if_there(lambda: self._note(digest, user.id, stale_ms)),
            self.write("SET", keys.jwt(digest), value, "PX", min(left_ms, self._fresh_ms)),
            self.write("SET", keys.jwt_stale(digest), value, "PX", stale_ms),
        )
        if too_many:
            await self._if_there(lambda: self._drop(too_many))
        # Looked for once it is written: whoever forgets the user does it the other way round.
        if await self._is_being_forgotten(user.id):
            await self._if_there(lambda: self._drop([digest]))
            return False
        return True

    async def refused(self, digest: bytes) -> None:
        """The governance does not know the token any more."""
        await self.write("DEL", keys.jwt_stale(digest))

    async def forget(self, user: str) -> bool:
        """Forget every token of this user, and their client secrets; whether a token was known."""
        key, has_any = keys.tokens(user), False
        mark = f"{await self._now_ms(user)}.{token_hex(4)}"
        await self._store.command("SET", keys.forgotten(user), mark, "PX", FORGOTTEN_MS)
        while digests := await self._store.command("ZRANGE", key, 0, _DROP_AT_ONCE - 1):
            has_any = True
            await self._drop(digests)
            # Not the whole key: another token may have been noted meanwhile.
            await self._store.command("ZREM", key, *digests)
        return has_any

    async def read(self, key: bytes) -> bytes | None:
        """What Redis has; None also where that is nothing of ours: then it is asked for, and written, anew."""
        try:
            stored: bytes | None = await self._if_there(lambda: self._store.command("GET", key))
        except RedisRefused:
            return None
        return stored

    async def write(self, *command: bytes | str | int) -> None:
        """Run a command that writes."""
        await self._if_there(lambda: self._store.command(*command))

    def _note(self, digest: bytes, user: str, stale_ms: int) -> Awaitable[list[bytes]]:
        """Note that this token is the user's; the answer are those that are too many."""
        return self._store.script(self._note_token, (keys.tokens(user),), digest, stale_ms, MOST_TOKENS_OF_A_USER)

    async def _drop(self, digests: Collection[bytes]) -> None:
        """Let Redis forget whose these tokens are."""
        await asyncio.gather(
            *(self._store.command("DEL", key(digest)) for digest in digests for key in (keys.jwt, keys.jwt_stale))
        )

    async def _is_being_forgotten(self, user: str) -> bool:
        mark = await self.read(keys.forgotten(user))
        if mark is None:
            return False
        now = await self._if_there(lambda: self._now_ms(user))
        return now is None or now <= _moment_of(mark) + _QUESTION_MS

    async def _now_ms(self, user: str) -> int:
        """The clock of the Redis that knows whether this user is to be forgotten."""
        seconds, microseconds = await self._store.command("TIME", key=keys.forgotten(user))
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def _if_there(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """The answer of Redis; None where it is away and need not be there. A call may fail before it is awaited."""
        try:
            return await call()
        except RedisUnavailable:
            if not self._optional:
                raise
            return None


def until(user: AuthenticatedUser, token: bytes) -> AuthenticatedUser:
    """The user of a token, no longer than the token itself says that it is valid."""
    moment_ms = ends_ms(token)
    if moment_ms is None or (user.expires_at_ms is not None and user.expires_at_ms <= moment_ms):
        return user
    return msgspec.structs.replace(user, expires_at_ms=moment_ms)


def read_user(stored: bytes | None) -> AuthenticatedUser | None:
    """The user of a stored value; None where there is none, or it cannot be read."""
    try:
        user = msgspec.json.decode(stored, type=AuthenticatedUser) if stored else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if user is None or user.allowed_models is None:
        return user
    return msgspec.structs.replace(user, allowed_models=shared(user.allowed_models))


def _valid(stored: bytes | None, token: bytes) -> AuthenticatedUser | None:
    """The user of a stored value, unless the token has ended."""
    user = read_user(stored)
    user = None if user is None else until(user, token)
    is_over = user is not None and user.expires_at_ms is not None and user.expires_at_ms <= now_ms()
    return None if is_over else user


def _moment_of(mark: bytes) -> int:
    """When a user was to be forgotten, ms since the epoch."""
    digits = mark.partition(b".")[0]
    return int(digits) if digits.isdigit() else 0
