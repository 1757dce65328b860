"""JSON Web Tokens signed with HS256, as much as the Zion simulator needs (RFC 7515, RFC 7519)."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

import msgspec


class InvalidToken(Exception):
    """The token is malformed, forged or expired; the message says which."""


def issue_token(secret: bytes, claims: dict[str, Any]) -> str:
    """Sign `claims` and return the token."""
    head = _encode(msgspec.json.encode({"alg": "HS256", "typ": "JWT"}))
    signed = f"{head}.{_encode(msgspec.json.encode(claims))}"
    return f"{signed}.{_encode(_sign(secret, signed))}"


def read_token(secret: bytes, token: str, now: float) -> dict[str, Any]:
    """Return the claims of a token that we signed and that has not expired.

    now: Unix seconds. Raises InvalidToken.
    """
    signed, _, signature = token.rpartition(".")
    try:
        if not hmac.compare_digest(_decode(signature), _sign(secret, signed)):
            raise InvalidToken("bad signature")
        claims = msgspec.json.decode(_decode(signed.partition(".")[2]), type=dict[str, Any])
    except (ValueError, msgspec.MsgspecError) as cause:
        raise InvalidToken("malformed") from cause
    expires = claims.get("exp")
    if not isinstance(expires, int | float) or expires <= now:
        raise InvalidToken("expired")
    return claims


def _sign(secret: bytes, signed: str) -> bytes:
    return hmac.new(secret, signed.encode(), hashlib.sha256).digest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
