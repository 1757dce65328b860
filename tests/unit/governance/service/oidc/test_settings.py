"""What an operator may say of an issuer."""

from __future__ import annotations

from typing import Any

import pytest

from sentinel.governance.service.oidc.settings import OidcSettings


@pytest.mark.parametrize(
    "issuer",
    [
        *("https://login.corp.test", "https://login.corp.test:8443/realms/a/", "http://localhost:8080/a"),
        *("http://127.0.0.1:1", "http://[::1]:1/a", "http://127.9.9.9"),
    ],
)
def test_an_issuer_is_https_or_on_this_machine(issuer: str) -> None:
    """With or without a path."""
    assert OidcSettings(issuer, ("sentinel",)).issuer == issuer


@pytest.mark.parametrize(
    "issuer",
    [
        *("http://login.corp.test", "http://10.0.0.1", "http://localhost.evil.test", "http://127.0.0.1.evil.test"),
        *("http://127.0.0.1@evil.test", "https://user:pass@login.corp.test", "https://login.corp.test?a=b"),
        *("https://login.corp.test#a", "ftp://login.corp.test", "login.corp.test", "", "https://", "https://[::1"),
        *(
            "https://login.corp.test:x",
            "https://login.corp.test:0",
            "https://evil.test\\@a",
            "https://a b",
            "https://é",
        ),
    ],
)
def test_any_other_is_refused(issuer: str) -> None:
    """Before anything is fetched from there."""
    with pytest.raises(ValueError, match=r"the issuer must be https://"):
        OidcSettings(issuer, ("sentinel",))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"audiences": ()}, "audience"),
        ({"audiences": ("a", "")}, "audience"),
        ({"algorithms": ()}, "an algorithm must"),
        ({"algorithms": ("RS256", "HS256")}, "can be allowed .*: HS256"),
        ({"algorithms": ("none",)}, "can be allowed .*: none"),
        ({"algorithms": ("ES521",)}, "can be allowed .*: ES521"),
        ({"email_claim": ""}, "claim"),
        ({"external_id_claim": ""}, "claim"),
        ({"plan_claim": ""}, "claim"),
        ({"leeway_seconds": -1}, "leeway"),
        ({"leeway_seconds": float("nan")}, "leeway"),
    ],
)
def test_the_rest_is_checked_too(wrong: dict[str, Any], said: str) -> None:
    """Each mistake with words of its own."""
    with pytest.raises(ValueError, match=said):
        OidcSettings(**({"issuer": "https://login.corp.test", "audiences": ("sentinel",)} | wrong))
