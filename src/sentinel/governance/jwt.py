"""When a token ends by its own word, if it is a JWT (RFC 7519). Nothing of it is believed: it may only end sooner."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from sentinel.limits.policy import EXACT


class _Claims(msgspec.Struct):
    exp: Any = None


_claims = msgspec.json.Decoder(_Claims).decode


def ends_ms(token: bytes) -> int | None:
    """The `exp` of a JWT, ms since the epoch; None for one that has none that is a number, and for other tokens."""
    parts = token.split(b".")
    if len(parts) != 3:
        # Five are one that is encrypted.
        return None
    payload = parts[1]
    try:
        told = _claims(base64.b64decode(payload + b"=" * (-len(payload) % 4), altchars=b"-_", validate=True)).exp
    except (ValueError, RecursionError):
        return None
    if isinstance(told, bool) or not isinstance(told, int | float) or not -EXACT < told * 1000 < EXACT:
        return None
    return int(told * 1000)
