"""One OpenID Connect issuer: a token in, an identity out."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jwt

from sentinel.clock import monotonic
from sentinel.egress import DIRECT, Egress
from sentinel.governance.service.oidc.discovery import Discovery, IssuerUnavailable
from sentinel.governance.service.oidc.identity import Identity, TokenRefused, identity_of
from sentinel.governance.service.oidc.jwks import KeySet
from sentinel.governance.service.oidc.key_cache import KeyCache
from sentinel.governance.service.oidc.settings import OidcSettings

_MOST_CHARACTERS = 16_384
_JWS = jwt.PyJWS()
_TYPES = ("jwt", "at+jwt", "application/jwt", "application/at+jwt")
"""Other types, such as `logout+jwt`, are signed with the same keys and meant for something else (RFC 8725, 3.11)."""


class Issuer:
    """Reads the tokens of one issuer. Threads share it. Nothing is fetched before the first token. clock: for tests."""

    def __init__(self, settings: OidcSettings, egress: Egress = DIRECT, clock: Callable[[], float] = monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._discovery = Discovery(settings.issuer, egress)
        self._cache = KeyCache(settings.issuer, self._discovery.fetch, clock)

    def claims(self, token: str, now_seconds: float) -> Identity:
        """Who this token speaks for. now_seconds: Unix time.

        Raises TokenRefused, and IssuerUnavailable where the token may be good, but the keys to tell cannot be had.
        """
        header, payload = self._parts(token)
        # Before the signature: for what is no good anyway nothing is fetched, whether the issuer is away or not.
        identity = identity_of(payload, self._settings, now_seconds)
        self._verify(token, header.get("kid"), header["alg"])
        return identity

    def close(self) -> None:
        """Close all connections."""
        self._discovery.close()

    def _parts(self, token: str) -> tuple[dict[str, Any], bytes]:
        """Header and payload, of which nothing is proved yet."""
        if len(token) > _MOST_CHARACTERS:
            raise TokenRefused("it is too long")
        # Stricter than the library, which takes padding.
        if not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){2}", token):
            raise TokenRefused("it is no signed JWT")
        try:
            parts = _JWS.decode_complete(token, options={"verify_signature": False})
        except jwt.PyJWTError:
            raise TokenRefused("it is no signed JWT") from None
        header = parts["header"]
        if "crit" in header:
            raise TokenRefused("it wants something understood that we do not: crit")
        if str(header.get("typ", "JWT")).lower() not in _TYPES:
            raise TokenRefused("it is a JWT for something else: typ")
        if header.get("alg") not in self._settings.algorithms:
            raise TokenRefused("its algorithm is not allowed")
        return header, parts["payload"]

    def _verify(self, token: str, kid: str | None, algorithm: str) -> None:
        asked_at = self._clock()
        keys = self._cache.current()
        if _is_signed(token, keys, kid, algorithm):
            return
        if kid is None or not keys.knows(kid):
            keys = self._cache.newer(keys, asked_at)
            if _is_signed(token, keys, kid, algorithm):
                return
        if not keys.keys:
            raise IssuerUnavailable("it publishes no key that can be used")
        raise TokenRefused("no key of the issuer verifies it")


def _is_signed(token: str, keys: KeySet, kid: str | None, algorithm: str) -> bool:
    for key in keys.fitting(kid, algorithm):
        try:
            _JWS.decode_complete(token, key.key, algorithms=[algorithm])
        except jwt.PyJWTError:
            continue
        return True
    return False
