"""From the header that has the token to the caller."""

from __future__ import annotations

from collections.abc import Mapping

from sentinel.cache.subscription import SubscriptionCache
from sentinel.error import InvalidApiKey, MissingApiKey
from sentinel.governance.port import AuthenticatedUser

MOST_TOKEN_BYTES = 16 * 1024
"""A JWT is rarely over 2 KB; no header of this size is worth asking Zion about."""


_KEY_HEADERS = (b"x-api-key", b"api-key", b"x-goog-api-key")
"""Where Anthropic's, Azure's and Google's clients put it."""


def token_of(headers: Mapping[bytes, bytes]) -> bytes:
    """The token of a request: of `Authorization: Bearer`, else of the header that another format has for it.

    Raises MissingApiKey, InvalidApiKey (for what can be no token).
    """
    token = _of_scheme(headers.get(b"authorization"))
    if token is None:
        token = next((value for name in _KEY_HEADERS if (value := headers.get(name, b"").strip())), None)
    return _checked(token)


def bearer_token(value: bytes | None) -> bytes:
    """The token of `Authorization: Bearer <token>` alone. None: no such header. Raises as `token_of` does."""
    return _checked(_of_scheme(value))


def _of_scheme(value: bytes | None) -> bytes | None:
    """What follows `Bearer`, in any case (RFC 9110, 11.1)."""
    scheme, _, token = (value or b"").strip().partition(b" ")
    return token.strip() or None if scheme.lower() == b"bearer" else None


def _checked(token: bytes | None) -> bytes:
    if token is None:
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
    return await cache.user(token_of(headers), client)
