"""From the Authorization header to the caller."""

from __future__ import annotations

from collections.abc import Mapping

from sentinel.cache.subscription import SubscriptionCache
from sentinel.error import InvalidApiKey, MissingApiKey
from sentinel.governance.port import AuthenticatedUser

MOST_TOKEN_BYTES = 16 * 1024
"""A JWT is rarely over 2 KB; no header of this size is worth asking Zion about."""


def bearer_token(value: bytes | None) -> bytes:
    """The token of `Authorization: Bearer <token>`; the scheme in any case (RFC 9110, 11.1). None: no such header.

    Raises MissingApiKey, InvalidApiKey (for what can be no token).
    """
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


def remembered(headers: Mapping[bytes, bytes], cache: SubscriptionCache) -> AuthenticatedUser | None:
    """The caller, where memory knows the token; None: `identify` must be asked. headers: names in lower case."""
    value = headers.get(b"authorization")
    # What memory knows was a proper token when it came first.
    if value is not None and value[:7].lower() == b"bearer ":
        return cache.remembered(value[7:])
    return None


async def identify(
    headers: Mapping[bytes, bytes], cache: SubscriptionCache, client: str | None = None
) -> AuthenticatedUser:
    """The caller. headers: names in lower case. client: the address of the connection.

    Raises MissingApiKey, InvalidApiKey, AccessDenied, ZionUnavailable, RedisUnavailable.
    """
    return await cache.user(bearer_token(headers.get(b"authorization")), client)
