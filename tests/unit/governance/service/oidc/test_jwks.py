"""Which keys of a JWKS can be used, and for what."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from sentinel.governance.service.oidc.jwks import ALGORITHMS, KeySet, MalformedKeys, max_age_seconds, read_keys
from tests.support.oidc_issuer import ED448_KEY, KEYS, RSA_KEY, jwk

RSA = jwk(RSA_KEY, kid="one")
EC = jwk(KEYS["ES256"], kid="two")
ED = jwk(KEYS["EdDSA"], kid="three")


def read(*keys: Any) -> KeySet:
    return read_keys(json.dumps({"keys": keys}).encode())


def algorithms(*keys: Any) -> list[set[str]]:
    return [set(key.algorithms) for key in read(*keys).keys]


def test_each_algorithm_has_its_kind_of_key() -> None:
    """And no other fits it."""
    found = read(*(jwk(KEYS[name], kid=name) for name in ("RS256", "ES256", "ES384", "ES512", "EdDSA")))
    for name in ALGORITHMS:
        (key,) = found.fitting(None, name)
        assert key.kid == ("RS256" if name[:2] in ("RS", "PS") else name)


def test_both_edwards_curves_can_be_used() -> None:
    """EdDSA names no curve."""
    assert algorithms(ED, jwk(ED448_KEY)) == [{"EdDSA"}, {"EdDSA"}]


def test_what_a_key_says_of_itself_holds() -> None:
    """A key with `alg` is for nothing else."""
    assert algorithms(RSA | {"alg": "PS384", "use": "sig", "key_ops": ["verify"]}) == [{"PS384"}]


SMALL_KEY = rsa.generate_private_key(65537, 1024)


@pytest.mark.parametrize(
    "other",
    [
        *(None, 1, "x", [], {}, {"kty": "RSA"}, {"kty": "EC"}, {"kty": ["RSA"]}, {"kty": "oct", "k": "c2VjcmV0"}),
        RSA | {"use": "enc"},
        RSA | {"key_ops": ["encrypt"]},
        RSA | {"alg": "RSA-OAEP"},
        RSA | {"alg": "HS256"},
        RSA | {"alg": "none"},
        RSA | {"n": 5},
        RSA | {"n": ""},
        RSA | {"n": "!"},
        RSA | {"n": "A" * 2801},
        RSA | {"e": "AA"},
        RSA | {"e": "AQ"},
        RSA | {"e": "A" * 13},
        RSA | {"kid": 7},
        EC | {"crv": "P-384"},
        EC | {"crv": "secp256k1"},
        EC | {"crv": None},
        EC | {"x": EC["y"]},
        EC | {"x": "A"},
        EC | {"alg": "ES384"},
        {name: value for name, value in EC.items() if name != "y"},
        ED | {"crv": "X25519"},
        ED | {"x": "AAAA"},
        jwk(SMALL_KEY),
        RSAAlgorithm.to_jwk(RSA_KEY, as_dict=True) | {"key_ops": ["verify"]},
        ECAlgorithm.to_jwk(KEYS["ES256"], as_dict=True),
        jwk(ec.generate_private_key(ec.SECP256K1())),
    ],
    ids=lambda _: "key",
)
def test_a_key_of_no_use_is_left_out(other: Any) -> None:
    """Malformed, small, for something else, or with its private half for all to see; the others serve."""
    assert [key.kid for key in read(RSA, other, EC).keys] == ["one", "two"]


def test_keys_are_found_by_name() -> None:
    """A token without a name may be of any of them, but only the first few are tried."""
    found = read(RSA, EC, *(RSA | {"kid": f"k{number}"} for number in range(50)))
    assert [key.kid for key in found.fitting("k7", "RS256")] == ["k7"]
    assert found.fitting("two", "RS256") == ()
    assert found.fitting("", "RS256") == ()
    assert len(found.fitting(None, "RS256")) == 10
    assert found.knows("two")
    assert not found.knows("four")


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"{}", b'{"keys": {}}', b'{"keys": null}', b"\xff", b"[" * 10**6],
    ids=lambda _: "body",
)
def test_what_is_no_jwks_is_told(body: bytes) -> None:
    """It is not taken for one without keys."""
    with pytest.raises(MalformedKeys, match="no JWKS"):
        read_keys(body)


def test_a_jwks_has_a_hundred_keys_at_most() -> None:
    """More would be tried by nobody."""
    assert len(read(*[RSA] * 100).keys) == 100
    with pytest.raises(MalformedKeys, match="more than 100"):
        read(*[RSA] * 101)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        *((None, 600), ("", 600), ("public", 600), ("s-maxage=700", 600), ("max-age=x", 600), ("max-age=-1", 600)),
        *(("max-age=3600", 3600), ("public, Max-Age=700, must-revalidate", 700), ('max-age="700"', 700)),
        *(("max-age=0", 60), ("max-age=9999999999", 86_400), ("no-store, max-age=700", 60), ("no-cache", 60)),
    ],
)
def test_an_answer_says_how_long_it_is_fresh(header: str | None, seconds: float) -> None:
    """Within a minute and a day."""
    assert max_age_seconds(header) == seconds


MEMBER = st.sampled_from(["kty", "crv", "n", "e", "x", "y", "d", "kid", "use", "alg", "key_ops"])
VALUE = st.none() | st.integers() | st.text() | st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed448", "AQAB", "sig"])


@given(st.sampled_from([RSA, EC, ED]), st.dictionaries(MEMBER, VALUE, max_size=3))
def test_whatever_a_key_is(key: dict[str, Any], members: dict[str, Any]) -> None:
    """It is used or left out, and the others serve."""
    assert read(key | members, EC).keys[-1].kid == "two"


@given(st.binary())
def test_whatever_comes(body: bytes) -> None:
    """Nothing else is raised."""
    with pytest.raises(MalformedKeys):
        read_keys(body)


@given(st.text())
def test_whatever_the_header_is(header: str) -> None:
    """There is an answer."""
    assert 60 <= max_age_seconds(header) <= 86_400
