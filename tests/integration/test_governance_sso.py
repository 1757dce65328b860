"""Users who come with a token of the organisation's issuer (docs/governance.md, "Single sign-on"), over HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sentinel.config import ConfigError
from sentinel.governance.service.app import build
from tests.support.governance import Governance, governance, settings_of, sqlite_url
from tests.support.oidc_issuer import AUDIENCE, OidcIssuer


@pytest.fixture
def issuer() -> Iterator[OidcIssuer]:
    with OidcIssuer() as running:
        yield running


@pytest.fixture
def house(tmp_path: Path, issuer: OidcIssuer) -> Iterator[Governance]:
    oidc = {"oidc_issuer": issuer.url, "oidc_audience": AUDIENCE, "oidc_plan_claim": "plan"}
    with governance(sqlite_url(tmp_path), **oidc, oidc_default_plan="starter") as running:
        running.set_plan("starter", requests=10)
        running.set_plan("team", requests=1_000, models=["gpt-4o*"])
        yield running


def token(issuer: OidcIssuer, **claims: Any) -> str:
    now = int(time.time())
    return issuer.token(iat=now, **{"exp": now + 300, **claims})


def test_whoever_comes_with_a_good_token_is_a_user(house: Governance, issuer: OidcIssuer) -> None:
    """On the default plan, or the one that the token names; the second time they are who they were."""
    first = house.me(token(issuer)).json["data"]
    assert (first["email"], first["externalId"]) == ("ana@corp.test", "u-1")
    assert first["expiresAt"]
    assert "allowedModels" not in first
    assert house.me(token(issuer)).json["data"]["id"] == first["id"]
    other = house.me(token(issuer, sub="u-2", email="bo@corp.test", plan="team")).json["data"]
    assert other["allowedModels"] == ["gpt-4o*"]
    assert house.call("GET", "/limits/external/u-2").json["data"]["limits"][0]["aiRequests"]["limit"] == 1_000


def test_many_first_requests_make_one_user(house: Governance, issuer: OidcIssuer) -> None:
    """However many come at once."""
    with ThreadPoolExecutor(16) as pool:
        ids = {answer.json["data"]["id"] for answer in pool.map(lambda _: house.me(token(issuer)), range(32))}
    assert len(ids) == 1


def test_a_verified_address_is_its_user(house: Governance, issuer: OidcIssuer) -> None:
    """Who was added by an administrator stays who they are, also to proxies; an unverified address proves nothing."""
    known = house.add_user("Ana@corp.test", "team")
    assert house.me(token(issuer)).status == 401
    data = house.me(token(issuer, email_verified=True)).json["data"]
    assert (data["id"], data["externalId"], data["email"]) == (known.id, None, "Ana@corp.test")


def test_a_disabled_user_stays_out(house: Governance, issuer: OidcIssuer) -> None:
    """403, however good the token is."""
    assert house.me(token(issuer)).status == 200
    house.change_user("ana@corp.test", disabled=True)
    assert house.me(token(issuer)).status == 403


def test_without_a_plan_for_new_users(tmp_path: Path, issuer: OidcIssuer) -> None:
    """Only those who are known come in."""
    with governance(sqlite_url(tmp_path), oidc_issuer=issuer.url, oidc_audience=AUDIENCE) as house:
        assert house.me(token(issuer)).status == 401
        house.set_plan("team")
        house.add_user("ana@corp.test", "team")
        assert house.me(token(issuer, email_verified=True)).status == 200


def test_an_issuer_that_is_away(house: Governance, issuer: OidcIssuer) -> None:
    """503 for what may be good, so that proxies go on with what they know; 401 for what is not; keys of ours go on."""
    issuer.status = 500
    house.add_user("bo@corp.test", "starter")
    answer = house.me(token(issuer))
    assert (answer.status, "retry-after" in answer.headers) == (503, True)
    assert house.me(token(issuer, exp=1)).status == 401
    assert house.me(house.add_key("bo@corp.test").key).status == 200


def test_a_wrong_issuer_is_told_at_the_start(tmp_path: Path) -> None:
    """With all other mistakes."""
    with pytest.raises(ConfigError) as told:
        build(settings_of(sqlite_url(tmp_path), oidc_issuer="http://id.corp.test", oidc_audience="x"))
    assert "OIDC_ISSUER: the issuer must be https://" in told.value.mistakes[0]
