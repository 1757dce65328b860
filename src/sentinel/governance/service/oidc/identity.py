"""The claims of a token: whether it is good now, for us and by this issuer, and who it says somebody is. Decides.

Source: RFC 7519, 4.1; OpenID Connect Core 1.0, 3.1.3.7 and 5.1. The signature is no matter of this file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from msgspec import MsgspecError, json

from sentinel.governance.service.oidc.settings import OidcSettings

_MOST_EMAIL, _MOST_ID, _MOST_TEXT = 320, 255, 200
"""Characters: of an address (RFC 5321: 64 and 255 around the @), of `sub` (OpenID Connect Core, 2), of the others."""

_LAST_SECONDS = 253_402_300_799
"""The end of the year 9999. Moments past it are milliseconds by mistake, or attacks on whoever reckons with dates."""


class TokenRefused(Exception):
    """This token is no good. The message says why, for a log: it has nothing of the token."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a token speaks for.

    email_verified: the issuer made sure that the address is theirs; without that it proves nothing. external_id: theirs
    at this issuer, for ever. plan: as the issuer says, None where it does not. expires_at_seconds: Unix time, without
    leeway.
    """

    email: str
    email_verified: bool
    external_id: str
    name: str | None
    plan: str | None
    expires_at_seconds: float


def identity_of(payload: bytes, settings: OidcSettings, now_seconds: float) -> Identity:
    """Read a token's claims. now_seconds: Unix time. Raises TokenRefused."""
    try:
        claims = json.decode(payload, type=dict[str, Any])
    except (MsgspecError, ValueError, RecursionError):
        raise TokenRefused("its claims are no JSON object") from None
    if claims.get("iss") != settings.issuer:
        raise TokenRefused("it is of another issuer")
    if not _is_for(claims.get("aud"), settings.audiences):
        raise TokenRefused("it is for another audience")
    expires_at = _check_times(claims, settings.leeway_seconds, now_seconds)
    email = _email(claims.get(settings.email_claim))
    verified = claims.get("email_verified")
    return Identity(
        email=email,
        # It is about the claim `email`, and says nothing of what another claim holds.
        email_verified=(verified is True or verified == "true") and claims.get("email") == email,
        external_id=_external_id(claims.get(settings.external_id_claim)),
        name=_text(claims.get("name")),
        plan=_text(claims.get(settings.plan_claim)) if settings.plan_claim else None,
        expires_at_seconds=expires_at,
    )


def _is_for(audience: object, ours: tuple[str, ...]) -> bool:
    named = audience if isinstance(audience, list) else [audience]
    return all(isinstance(name, str) for name in named) and any(name in ours for name in named)


def _check_times(claims: dict[str, Any], leeway_seconds: float, now_seconds: float) -> float:
    """When the token expires. Raises TokenRefused where it has, or is not valid yet."""
    expires_at = _moment(claims, "exp")
    if expires_at is None:
        raise TokenRefused("it never expires: exp is missing")
    if expires_at + leeway_seconds <= now_seconds:
        raise TokenRefused("it has expired")
    for name in ("nbf", "iat"):
        begins_at = _moment(claims, name)
        if begins_at is not None and begins_at - leeway_seconds > now_seconds:
            raise TokenRefused(f"it is not valid yet: {name} is in the future")
    return expires_at


def _moment(claims: dict[str, Any], name: str) -> float | None:
    moment = claims.get(name)
    if moment is None:
        return None
    # To Python true is a number, too.
    if isinstance(moment, bool) or not isinstance(moment, int | float) or not 0 <= moment <= _LAST_SECONDS:
        raise TokenRefused(f"{name} is no moment in seconds")
    return float(moment)


def _email(email: object) -> str:
    if email is None:
        raise TokenRefused("it has no e-mail address")
    if not isinstance(email, str) or len(email) > _MOST_EMAIL or not re.fullmatch(r"[^@\s]+@[^@\s]+", email):
        raise TokenRefused("its e-mail address is none")
    # Neither control characters nor what is invisible or turns the reading direction.
    if not email.isprintable():
        raise TokenRefused("its e-mail address is none")
    return email


def _external_id(subject: object) -> str:
    if not isinstance(subject, str) or not 0 < len(subject) <= _MOST_ID or not subject.isprintable():
        raise TokenRefused("it does not say who its user is")
    return subject


def _text(value: object) -> str | None:
    """A claim that a token may lack, and that is not worth a refusal."""
    if not isinstance(value, str) or len(value) > _MOST_TEXT or not value.isprintable():
        return None
    return value.strip() or None
