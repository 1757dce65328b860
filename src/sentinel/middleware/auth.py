"""From the Authorization header to the caller."""

from __future__ import annotations

from collections.abc import Iterable

from sentinel.cache.subscription import SubscriptionCache
from sentinel.error import Header, InvalidApiKey, MissingApiKey
from sentinel.proxy.headers import value_of
from sentinel.zion.models import AuthenticatedUser

MOST_TOKEN_BYTES = 16 * 1024
"""A JWT is rarely over 2 KB; no header of this size is worth asking Zion about."""


def bearer_token(headers: Iterable[Header]) -> bytes:
    """The token of `Authorization: Bearer <token>`; the scheme in any case (RFC 9110, 11.1).

    Raises MissingApiKey, InvalidApiKey (for what can be no token).
    """
    value = value_of(headers, b"authorization")
    scheme, _, token = (value or b"").strip().partition(b" ")
    token = token.strip()
    if scheme.lower() != b"bearer" or not token:
        raise MissingApiKey(
            "You didn't provide an API key: send your token in an Authorization header, as `Bearer <token>`."
        )
    # Only visible ASCII can be sent on in a header; no JWT has anything else.
    if len(token) > MOST_TOKEN_BYTES or not token.isascii() or not token.decode("ascii").isprintable() or b" " in token:
        raise InvalidApiKey("Incorrect API key provided: this is no token.")
    return token


async def identify(headers: Iterable[Header], cache: SubscriptionCache) -> AuthenticatedUser:
    """The caller. Raises MissingApiKey, InvalidApiKey, AccessDenied, ZionUnavailable, RedisUnavailable."""
    value = value_of(headers, b"authorization")
    # What memory knows was a proper token when it came first.
    if value is not None and (user := cache.remembered(value[7:])) is not None and value[:7].lower() == b"bearer ":
        return user
    return await cache.user(bearer_token(headers))
