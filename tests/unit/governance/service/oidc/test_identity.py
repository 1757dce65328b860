"""What a token's claims come to."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.governance.service.oidc.identity import Identity, TokenRefused, identity_of
from sentinel.governance.service.oidc.settings import OidcSettings

NOW = 1_800_000_000.0
ISSUER = "https://login.corp.test/realm"
SETTINGS = OidcSettings(ISSUER, ("sentinel", "other"), plan_claim="plan")
GOOD = {"iss": ISSUER, "aud": "sentinel", "sub": "u-1", "email": "ana@corp.test", "exp": NOW + 300}


def read(settings: OidcSettings = SETTINGS, now: float = NOW, **claims: Any) -> Identity:
    """Good claims with these changes; None leaves one out."""
    merged = {name: value for name, value in (GOOD | claims).items() if value is not None}
    return identity_of(json.dumps(merged).encode(), settings, now)


def test_claims_come_to_an_identity() -> None:
    """All of it is the token's word."""
    assert read(email_verified=True, name=" Ana ", plan="gold") == Identity(
        "ana@corp.test", True, "u-1", "Ana", "gold", NOW + 300
    )


def test_what_a_token_may_lack_is_none() -> None:
    """No name, no plan, and an address that nobody vouches for."""
    assert read() == Identity("ana@corp.test", False, "u-1", None, None, NOW + 300)


def test_no_plan_is_read_without_its_claim() -> None:
    """A claim that happens to be called plan means nothing."""
    assert read(OidcSettings(ISSUER, ("sentinel",)), plan="gold").plan is None


@pytest.mark.parametrize("claims", [{"aud": ["x", "sentinel"], "azp": "x"}, {"aud": "other"}, {"aud": ["sentinel"]}])
def test_one_of_our_audiences_is_enough(claims: dict[str, Any]) -> None:
    """Whoever else it is for."""
    assert read(**claims).external_id == "u-1"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": ISSUER + "/"}, "another issuer"),
        ({"iss": ISSUER.upper()}, "another issuer"),
        ({"iss": [ISSUER]}, "another issuer"),
        ({"iss": None}, "another issuer"),
        ({"aud": None}, "another audience"),
        ({"aud": "sentinel2"}, "another audience"),
        ({"aud": []}, "another audience"),
        ({"aud": ["sentinel", 1]}, "another audience"),
        ({"aud": {"sentinel": 1}}, "another audience"),
        ({"exp": None}, "never expires"),
        ({"exp": str(NOW + 300)}, "exp is no moment"),
        ({"exp": True}, "exp is no moment"),
        ({"exp": (NOW + 300) * 1000}, "exp is no moment"),
        ({"exp": -1}, "exp is no moment"),
        ({"nbf": "now"}, "nbf is no moment"),
        ({"iat": []}, "iat is no moment"),
        ({"email": None}, "no e-mail"),
        *(
            ({"email": address}, "e-mail address is none")
            for address in (
                *("", "ana", "@corp.test", "ana@", "a@b@c", "ana @corp.test", "ana@corp.test\n", "ana\x00@corp.test"),
                *("ana\u202e@corp.test", "a" * 311 + "@corp.test", 1, True, ["ana@corp.test"], {"a": "b"}),
            )
        ),
        *(({"sub": subject}, "who its user is") for subject in (None, "", "a" * 256, "u\n1", 1, ["u-1"])),
    ],
)
def test_each_claim_that_is_wrong_refuses(claims: dict[str, Any], reason: str) -> None:
    """With a reason that holds nothing of the token."""
    with pytest.raises(TokenRefused, match=reason):
        read(**claims)


@pytest.mark.parametrize(
    ("claims", "good"),
    [
        ({"exp": NOW - 59}, True),
        ({"exp": NOW - 59.5}, True),
        ({"exp": NOW - 60}, False),
        ({"nbf": NOW + 60}, True),
        ({"nbf": NOW + 60.5}, False),
        ({"iat": NOW + 60}, True),
        ({"iat": NOW + 61}, False),
    ],
)
def test_clocks_may_differ_by_the_leeway(claims: dict[str, Any], good: bool) -> None:
    """60 seconds, and not a moment more."""
    if good:
        assert read(**claims).email == "ana@corp.test"
    else:
        with pytest.raises(TokenRefused, match=r"expired|not valid yet"):
            read(**claims)


@pytest.mark.parametrize(
    ("said", "verified"), [(True, True), ("true", True), (False, False), ("false", False), ("True", False), (1, False)]
)
def test_an_address_is_verified_where_the_issuer_says_so(said: Any, verified: bool) -> None:
    """As a boolean, or as the text that some issuers send."""
    assert read(email_verified=said).email_verified is verified


def test_verified_is_the_claim_email_alone() -> None:
    """What another claim holds, perhaps what a user typed, is not what the issuer vouches for."""
    settings = OidcSettings(ISSUER, ("sentinel",), email_claim="upn")
    assert read(settings, upn="boss@corp.test", email_verified=True).email_verified is False
    assert read(settings, upn="ana@corp.test", email_verified=True).email_verified is True


def test_claims_have_the_names_that_the_operator_says() -> None:
    """Dots and slashes in them are just that."""
    settings = OidcSettings(ISSUER, ("sentinel",), email_claim="https://corp.test/mail", external_id_claim="oid")
    claims: dict[str, Any] = {"https://corp.test/mail": "b@corp.test"}
    assert read(settings, **claims, oid="7").email == "b@corp.test"
    with pytest.raises(TokenRefused, match="who its user is"):
        read(settings, **claims)


@pytest.mark.parametrize("value", ["", " ", "a\nb", "a" * 201, 1, ["gold"], {}])
def test_an_odd_name_or_plan_is_none(value: Any) -> None:
    """It is not worth a refusal."""
    identity = read(name=value, plan=value)
    assert (identity.name, identity.plan) == (None, None)


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b'"x"', b"{", b'{"iss": "\\ud800"}', b"\xff", b'{"exp": NaN}', b"[" * 16_000, b'{"a":1e999}'],
    ids=lambda _: "payload",
)
def test_what_is_no_object_is_refused(payload: bytes) -> None:
    """Whatever else it is."""
    with pytest.raises(TokenRefused, match="no JSON object"):
        identity_of(payload, SETTINGS, NOW)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*GOOD, "nbf", "iat", "name", "plan", "email_verified"]), JSON))
def test_whatever_the_claims_are(claims: dict[str, Any]) -> None:
    """They come to an identity that can be stored, or are refused."""
    try:
        identity = identity_of(json.dumps(GOOD | claims).encode(), SETTINGS, NOW)
    except TokenRefused:
        return
    assert (identity.email + identity.external_id).isprintable()
    assert NOW - 60 < identity.expires_at_seconds < 1e12


@given(st.binary())
def test_whatever_the_payload_is(payload: bytes) -> None:
    """It is refused."""
    with pytest.raises(TokenRefused):
        identity_of(payload, SETTINGS, NOW)
