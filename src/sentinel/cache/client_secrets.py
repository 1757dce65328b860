"""Whose a client secret is: a key in Redis for each, under its hash, which ends when the secret does."""

from __future__ import annotations

import msgspec

from sentinel.cache import keys
from sentinel.cache.redis import Store
from sentinel.clock import now_ms
from sentinel.endpoints.endpoint import ClientSecret
from sentinel.governance.port import AuthenticatedUser
from sentinel.limits.policy import EXACT

MOST_SECONDS = 2 * 3600
"""OpenAI's longest; a user who is locked out is so after this at the latest, whatever an answer says."""


class SecretOwner(AuthenticatedUser, frozen=True, gc=False, omit_defaults=True):
    """Whose it is. forgotten: what stood there when it was made; it ends when an operator wants its user forgotten.

    place: where it was made, "" where there is but one place. model: that it is for, as the client has named it.
    """

    forgotten: str = ""
    place: str = ""
    model: str = ""


class ClientSecretRecords:
    """The records."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def record(self, user: AuthenticatedUser, secret: ClientSecret, place: str = "", model: str = "") -> None:
        """The secret is this user's. place, model: as in SecretOwner. Raises RedisUnavailable."""
        ends_ms = min(secret.expires_at * 1000, EXACT if user.expires_at_ms is None else user.expires_at_ms)
        ms = min(MOST_SECONDS * 1000, ends_ms - now_ms())
        if ms > 0:
            key = keys.client_secret(keys.token_digest(secret.value.encode()))
            forgotten = await self._forgotten(user.id)
            owner = SecretOwner(**msgspec.structs.asdict(user), forgotten=forgotten, place=place, model=model)
            await self._store.command("SET", key, msgspec.json.encode(owner), "PX", ms)

    async def user_of(self, secret: bytes) -> SecretOwner | None:
        """Whose it is; None where nobody's record has it, or no more. Raises RedisUnavailable."""
        told = await self._store.command("GET", keys.client_secret(keys.token_digest(secret)))
        owner = None if told is None else msgspec.json.decode(told, type=SecretOwner)
        return owner if owner is not None and owner.forgotten == await self._forgotten(owner.id) else None

    async def _forgotten(self, user: str) -> str:
        return (await self._store.command("GET", keys.forgotten(user)) or b"").decode()
