"""Whose a client secret is: a key in Redis for each, under its hash, which ends when the secret does."""

from __future__ import annotations

import msgspec

from sentinel.cache import keys
from sentinel.cache.redis import Store
from sentinel.clock import now_ms
from sentinel.endpoints.endpoint import ClientSecret
from sentinel.governance.port import AuthenticatedUser

MOST_SECONDS = 2 * 3600
"""OpenAI's longest; a user who is locked out is so after this at the latest, whatever an answer says."""


class ClientSecretRecords:
    """The records."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def record(self, user: AuthenticatedUser, secret: ClientSecret) -> None:
        """The secret is this user's. Raises RedisUnavailable."""
        ms = min(MOST_SECONDS * 1000, secret.expires_at * 1000 - now_ms())
        if ms > 0:
            key = keys.client_secret(keys.token_digest(secret.value.encode()))
            await self._store.command("SET", key, msgspec.json.encode(user), "PX", ms)

    async def user_of(self, secret: bytes) -> AuthenticatedUser | None:
        """Whose it is; None where nobody's record has it, or no more. Raises RedisUnavailable."""
        told = await self._store.command("GET", keys.client_secret(keys.token_digest(secret)))
        return None if told is None else msgspec.json.decode(told, type=AuthenticatedUser)
