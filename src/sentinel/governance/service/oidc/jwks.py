"""The issuer's keys, as its JWKS has them (RFC 7517): which can be used, and which fit a token. Decides."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from msgspec import Meta, MsgspecError, Raw, Struct, json

if TYPE_CHECKING:
    from jwt.algorithms import AllowedPublicKeys

_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_FITTING: dict[tuple[str, str | None], tuple[str, ...]] = {
    ("RSA", None): _RSA,
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
    ("OKP", "Ed448"): ("EdDSA",),
}
"""Type and curve of a key: what it can verify (RFC 7518, 3.1; RFC 8037). Secrets (`oct`) are not among them, so that no
public key can ever be taken for one."""

ALGORITHMS = (*_RSA, "ES256", "ES384", "ES512", "EdDSA")
"""All that can be allowed. Never `none`, never HS256 and its relatives."""

_MOST_KEYS = 100
_MOST_TRIED = 10
"""A token without `kid` is tried against so many keys, for each costs up to a millisecond."""

_RSA_BITS = range(2048, 16_385)
"""Less is forbidden (RFC 7518, 3.3), more is slow."""

_MAX_AGE_SECONDS, _LEAST_SECONDS, _MOST_SECONDS = 600.0, 60.0, 86_400.0


class MalformedKeys(Exception):
    """This is no JWKS, or one that is too long; the message says which."""


_Number = Annotated[str, Meta(min_length=1, max_length=2800)]
"""In base64url; 16,384 bits at most."""


class _Jwk(Struct):
    kty: str
    crv: str | None = None
    kid: str | None = None
    use: str | None = None
    key_ops: list[str] | None = None
    alg: str | None = None
    n: _Number | None = None
    e: Annotated[str, Meta(min_length=1, max_length=12)] | None = None
    x: _Number | None = None
    y: _Number | None = None
    d: object = None


class _Jwks(Struct):
    keys: list[Raw]


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key. algorithms: those that it may verify."""

    kid: str | None
    algorithms: frozenset[str]
    key: AllowedPublicKeys


@dataclass(frozen=True, slots=True)
class KeySet:
    """All keys of the issuer that can be used, perhaps none."""

    keys: tuple[VerificationKey, ...]

    def knows(self, kid: str) -> bool:
        """Whether any key is called so."""
        return any(key.kid == kid for key in self.keys)

    def fitting(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
        """The keys that can have signed a token with this header, the first few of them."""
        fits = (key for key in self.keys if algorithm in key.algorithms and (kid is None or key.kid == kid))
        return tuple(key for key, _ in zip(fits, range(_MOST_TRIED), strict=False))


def read_keys(body: bytes) -> KeySet:
    """Take a JWKS apart. A key that is malformed, or not for signatures, is left out. Raises MalformedKeys."""
    try:
        found = json.decode(body, type=_Jwks).keys
    except (MsgspecError, ValueError, RecursionError) as error:
        raise MalformedKeys("it is no JWKS") from error
    if len(found) > _MOST_KEYS:
        raise MalformedKeys(f"it has more than {_MOST_KEYS} keys")
    return KeySet(tuple(key for key in map(_read_key, found) if key is not None))


def _read_key(raw: Raw) -> VerificationKey | None:
    try:
        jwk = json.decode(raw, type=_Jwk)
        algorithms = _algorithms(jwk)
        # Public numbers alone: whoever made this library's key of a private one would sign with it.
        numbers = {name: value for name in ("kty", "crv", "n", "e", "x", "y") if (value := getattr(jwk, name))}
        key = jwt.PyJWK(numbers, algorithms[0]).key if algorithms else None
    except (MsgspecError, jwt.PyJWTError, UnsupportedAlgorithm, LookupError, TypeError, ValueError, RecursionError):
        return None
    if key is None or (jwk.kty == "RSA" and key.key_size not in _RSA_BITS):
        return None
    return VerificationKey(jwk.kid, frozenset(algorithms), key)


def _algorithms(jwk: _Jwk) -> tuple[str, ...]:
    """What a key may verify; nothing if it is for something else, or its private half stands beside it."""
    for_signatures = jwk.use in (None, "sig") and (jwk.key_ops is None or "verify" in jwk.key_ops)
    if jwk.d is not None or not for_signatures:
        return ()
    fitting = _FITTING.get((jwk.kty, jwk.crv), ())
    return tuple(name for name in fitting if jwk.alg in (None, name))


def max_age_seconds(cache_control: str | None) -> float:
    """How long an answer with this Cache-Control is fresh: a minute to a day, ten minutes where it does not say."""
    directives = [each.strip().lower() for each in (cache_control or "").split(",")]
    if "no-store" in directives or "no-cache" in directives:
        return _LEAST_SECONDS
    ages = [found[1] for each in directives if (found := re.fullmatch(r"max-age *= *\"?([0-9]{1,10})\"?", each))]
    return min(max(float(ages[0]), _LEAST_SECONDS), _MOST_SECONDS) if ages else _MAX_AGE_SECONDS
