"""Tokens of a real issuer, on a loopback socket.

`governance/service/oidc/discovery.py`, `governance/service/oidc/key_cache.py`, `governance/service/oidc/issuer.py`.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from sentinel.egress import Egress, TlsFiles
from sentinel.egress import ForwardProxy as ProxyAddress
from sentinel.governance.service.oidc.discovery import IssuerUnavailable
from sentinel.governance.service.oidc.identity import TokenRefused
from sentinel.governance.service.oidc.issuer import Issuer
from sentinel.governance.service.oidc.jwks import ALGORITHMS
from sentinel.governance.service.oidc.settings import OidcSettings
from tests.support.oidc_issuer import (
    AUDIENCE,
    ED448_KEY,
    KEYS,
    NOW,
    OTHER_RSA_KEY,
    RSA_KEY,
    OidcIssuer,
    drip,
    endless,
    jwk,
    redirect,
)
from tests.support.relays import Certificates, ForwardProxy, Relay
from tests.support.waiting import AT_ONCE_SECONDS, wait_until

MINUTE, DAY = 60.0, 86_400.0


class Clock:
    """A clock that goes on, and can be turned on."""

    def __init__(self) -> None:
        self._turned = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self._turned

    def turn(self, seconds: float) -> None:
        self._turned += seconds


@pytest.fixture
def there() -> Iterator[OidcIssuer]:
    """The issuer."""
    with OidcIssuer() as issuer:
        yield issuer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ours(there: OidcIssuer, clock: Clock) -> Iterator[Issuer]:
    """What reads its tokens."""
    issuer = Issuer(OidcSettings(there.url, (AUDIENCE,)), clock=clock)
    yield issuer
    issuer.close()


def refusal(issuer: Issuer, token: str) -> str:
    """Why the token is refused."""
    with pytest.raises(TokenRefused) as refused:
        issuer.claims(token, NOW)
    assert token[:20] not in str(refused.value)
    return str(refused.value)


def trouble(issuer: Issuer, token: str) -> str:
    """Why nobody can say whether the token is good."""
    with pytest.raises(IssuerUnavailable) as unavailable:
        issuer.claims(token, NOW)
    return str(unavailable.value)


def segment(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unsigned(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"x") -> str:
    """A token of these parts."""
    return ".".join(map(segment, (json.dumps(header).encode(), json.dumps(claims).encode(), signature)))


def at_once(count: int, do: Callable[[int], Any]) -> list[Any]:
    """The same in so many threads that start together; what each returned."""
    start = threading.Barrier(count)

    def one(number: int) -> Any:
        start.wait(30)
        return do(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


class TestTokens:
    """What is good and what is not, with keys at hand."""

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_a_good_token_is_an_identity(self, there: OidcIssuer, ours: Issuer, algorithm: str) -> None:
        """Whatever algorithm of those allowed its issuer signs with."""
        there.keys = [jwk(KEYS[algorithm], kid="one")]
        identity = ours.claims(there.token(KEYS[algorithm], algorithm, email_verified=True), NOW)
        assert (identity.email, identity.email_verified, identity.external_id) == ("ana@corp.test", True, "u-1")
        assert identity.expires_at_seconds == NOW + 300

    def test_ed448_is_an_edwards_curve_too(self, there: OidcIssuer, ours: Issuer) -> None:
        """EdDSA names none."""
        there.keys = [jwk(ED448_KEY, kid="one")]
        assert ours.claims(there.token(ED448_KEY, "EdDSA"), NOW).external_id == "u-1"

    @pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "application/at+jwt", None])
    def test_a_token_of_the_right_type_is_good(self, there: OidcIssuer, ours: Issuer, kind: str | None) -> None:
        """An ID token or an access token, or one that does not say."""
        assert ours.claims(there.token(headers={"kid": "one", "typ": kind}), NOW).external_id == "u-1"

    @pytest.mark.parametrize(
        ("headers", "reason"),
        [
            ({"typ": "logout+jwt"}, "something else"),
            ({"typ": "secevent+jwt"}, "something else"),
            ({"crit": ["exp"], "exp": 1}, "signed JWT"),
            ({"crit": ["b64"], "b64": True}, "crit"),
            ({"b64": False, "crit": ["b64"]}, "signed JWT"),
            ({"kid": 7}, "signed JWT"),
            ({"kid": None}, "signed JWT"),
        ],
    )
    def test_a_header_that_wants_more_is_refused(
        self, there: OidcIssuer, ours: Issuer, headers: dict[str, Any], reason: str
    ) -> None:
        """Other types, and whatever is critical."""
        header = {"alg": "RS256", "kid": "one"} | headers
        signed = f"{segment(json.dumps(header).encode())}.{segment(json.dumps(there.claims()).encode())}"
        signature = jwt.get_algorithm_by_name("RS256").sign(signed.encode(), RSA_KEY)
        assert reason in refusal(ours, f"{signed}.{segment(signature)}")

    def test_an_unsigned_token_is_refused(self, there: OidcIssuer, ours: Issuer) -> None:
        """`none` in any spelling, with a signature or without."""
        for name in ("none", "None", "NONE", "", None, ["RS256"], {"RS256": 1}, 7):
            header = {"alg": name, "kid": "one"}
            assert "not allowed" in refusal(ours, unsigned(header, there.claims()))
        assert "not allowed" in refusal(ours, unsigned({"kid": "one"}, there.claims()))
        assert "no signed JWT" in refusal(ours, unsigned({"alg": "none"}, there.claims(), b""))
        assert there.asked == []

    @pytest.mark.parametrize("secret_form", [PublicFormat.SubjectPublicKeyInfo, PublicFormat.PKCS1])
    @pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
    def test_a_public_key_is_no_secret(
        self, there: OidcIssuer, ours: Issuer, encoding: Encoding, secret_form: PublicFormat
    ) -> None:
        """HS256 with what everybody can read."""
        secret = RSA_KEY.public_key().public_bytes(encoding, secret_form)
        for form in (secret, secret.strip()):
            signed = unsigned({"alg": "HS256", "kid": "one"}, there.claims()).rpartition(".")[0]
            signature = segment(hmac.new(form, signed.encode(), hashlib.sha256).digest())
            assert "not allowed" in refusal(ours, f"{signed}.{signature}")

    def test_a_secret_among_the_keys_is_none(self, there: OidcIssuer, ours: Issuer) -> None:
        """Whoever publishes it has told it to everybody."""
        secret = b"s" * 32
        there.keys.append({"kty": "oct", "kid": "two", "alg": "HS256", "k": segment(secret)})
        token = jwt.encode(there.claims(), secret, "HS256", {"kid": "two"})
        assert "not allowed" in refusal(ours, token)

    def test_an_algorithm_must_be_allowed_and_fit_the_key(self, there: OidcIssuer) -> None:
        """An operator may allow fewer, a key may say what it is for, and its kind says the rest."""
        there.keys = [jwk(RSA_KEY, kid="one", alg="PS256"), jwk(KEYS["ES384"], kid="two")]
        some = Issuer(OidcSettings(there.url, (AUDIENCE,), algorithms=("RS256", "PS256", "ES256")))
        assert some.claims(there.token(algorithm="PS256"), NOW).external_id == "u-1"
        assert "no key" in refusal(some, there.token(algorithm="RS256"))
        assert "not allowed" in refusal(some, there.token(KEYS["ES384"], "ES384", {"kid": "two"}))
        assert "no key" in refusal(some, unsigned({"alg": "ES256", "kid": "two"}, there.claims(), b"x" * 64))
        assert there.fetches == 1
        some.close()

    def test_a_signature_of_another_key_is_refused(self, there: OidcIssuer, ours: Issuer) -> None:
        """Under a name that is known, so there is nothing to fetch anew."""
        assert "no key" in refusal(ours, there.token(OTHER_RSA_KEY))
        assert ours.claims(there.token(), NOW).external_id == "u-1"
        head, claims, signature = there.token().split(".")
        forged = segment(json.dumps(there.claims(email="boss@corp.test")).encode())
        assert "no key" in refusal(ours, f"{head}.{forged}.{signature}")
        assert "no key" in refusal(ours, f"{head}.{claims}.{segment(b'short')}")
        assert there.fetches == 1

    def test_a_token_brings_no_keys(self, there: OidcIssuer, ours: Issuer) -> None:
        """Neither in its header, nor at an address in it."""
        with OidcIssuer() as evil:
            evil.keys = [jwk(OTHER_RSA_KEY, kid="one")]
            headers = {"kid": "one", "jku": f"{evil.url}/keys", "x5u": f"{evil.url}/keys", "jwk": evil.keys[0]}
            assert "no key" in refusal(ours, there.token(OTHER_RSA_KEY, headers=headers))
            assert "another issuer" in refusal(ours, evil.token(OTHER_RSA_KEY))
            assert evil.asked == []

    def test_what_is_no_good_anyway_has_nothing_fetched(self, there: OidcIssuer, ours: Issuer) -> None:
        """It is refused without a look at its signature."""
        for claims in ({"exp": NOW - 61}, {"aud": "other"}, {"iss": "https://x.test"}, {"email": None}):
            refusal(ours, there.token(**claims))
        assert "too long" in refusal(ours, "a" * 16_385)
        assert "no signed JWT" in refusal(ours, there.token() + "==")
        assert there.asked == []

    def test_a_token_without_a_name_is_tried(self, there: OidcIssuer, ours: Issuer) -> None:
        """Against all keys that fit."""
        there.keys = [jwk(KEYS["ES256"]), jwk(OTHER_RSA_KEY), jwk(RSA_KEY, use="enc"), jwk(RSA_KEY)]
        assert ours.claims(there.token(headers={}), NOW).external_id == "u-1"
        assert ours.claims(there.token(KEYS["ES256"], "ES256", {}), NOW).external_id == "u-1"
        assert there.fetches == 1

    def test_one_malformed_key_is_left_out(self, there: OidcIssuer, ours: Issuer) -> None:
        """The others serve."""
        there.keys[:0] = [None, {"kty": "RSA", "n": 1}, {"kty": "XYZ"}]
        assert ours.claims(there.token(), NOW).external_id == "u-1"


class TestRotation:
    """When keys are fetched anew."""

    def test_keys_are_fetched_once(self, there: OidcIssuer, ours: Issuer) -> None:
        """With the first token, and kept."""
        assert there.asked == []
        for _ in range(3):
            ours.claims(there.token(), NOW)
        assert there.asked == ["/.well-known/openid-configuration", "/keys"]

    def test_a_new_key_serves_at_once(self, there: OidcIssuer, ours: Issuer) -> None:
        """The first token that it signed has the keys fetched anew."""
        ours.claims(there.token(), NOW)
        there.keys = [jwk(OTHER_RSA_KEY, kid="two")]
        assert ours.claims(there.token(OTHER_RSA_KEY, headers={"kid": "two"}), NOW).external_id == "u-1"
        assert "no key" in refusal(ours, there.token())
        assert there.fetches == 2

    def test_a_new_key_without_a_name_serves_at_once(self, there: OidcIssuer, ours: Issuer) -> None:
        """It cannot be told from the old one but by trying."""
        there.keys = [jwk(RSA_KEY)]
        ours.claims(there.token(headers={}), NOW)
        there.keys = [jwk(OTHER_RSA_KEY)]
        assert ours.claims(there.token(OTHER_RSA_KEY, headers={}), NOW).external_id == "u-1"
        assert there.fetches == 2

    def test_strangers_have_keys_fetched_every_half_minute_at_most(
        self, there: OidcIssuer, ours: Issuer, clock: Clock
    ) -> None:
        """However many names of keys they make up."""
        ours.claims(there.token(), NOW)
        for number in range(50):
            assert "no key" in refusal(ours, there.token(OTHER_RSA_KEY, headers={"kid": f"k{number}"}))
        assert there.fetches == 2
        clock.turn(29)
        refusal(ours, there.token(OTHER_RSA_KEY, headers={}))
        assert there.fetches == 2
        clock.turn(1.5)
        refusal(ours, there.token(OTHER_RSA_KEY, headers={"kid": "k"}))
        assert there.fetches == 3

    def test_keys_that_were_just_fetched_are_not_fetched_again(self, there: OidcIssuer, ours: Issuer) -> None:
        """Not for the token that they were fetched for."""
        assert "no key" in refusal(ours, there.token(headers={"kid": "k"}))
        assert there.fetches == 1

    def test_a_key_that_is_gone_is_refused_after_ten_minutes(
        self, there: OidcIssuer, ours: Issuer, clock: Clock
    ) -> None:
        """Whoever asks first then has the keys fetched before the answer."""
        ours.claims(there.token(), NOW)
        there.keys = [jwk(OTHER_RSA_KEY, kid="two")]
        clock.turn(10 * MINUTE - 5)
        ours.claims(there.token(), NOW)
        clock.turn(6)
        assert "no key" in refusal(ours, there.token())

    @pytest.mark.parametrize(
        ("header", "seconds"), [("max-age=3600", 3600.0), ("max-age=1", MINUTE), ("max-age=99999999", DAY)]
    )
    def test_the_issuer_says_how_long_keys_are_fresh(
        self, there: OidcIssuer, ours: Issuer, clock: Clock, header: str, seconds: float
    ) -> None:
        """A minute at least, a day at most."""
        there.headers = {"cache-control": header}
        ours.claims(there.token(), NOW)
        clock.turn(seconds - 5)
        ours.claims(there.token(), NOW)
        assert there.fetches == 1
        clock.turn(6)
        ours.claims(there.token(), NOW)
        assert there.fetches == 2

    def test_an_odd_header_says_nothing(self, there: OidcIssuer, ours: Issuer) -> None:
        """It is no reason to do without the keys."""
        there.headers = {"cache-control": "max-age=\xff"}
        assert ours.claims(there.token(), NOW).external_id == "u-1"

    def test_many_threads_fetch_once(self, there: OidcIssuer, ours: Issuer) -> None:
        """The first token of a process, and the first of a new key."""
        assert len(at_once(16, lambda _: ours.claims(there.token(), NOW))) == 16
        assert there.fetches == 1
        there.keys = [jwk(OTHER_RSA_KEY, kid="two")]
        token = there.token(OTHER_RSA_KEY, headers={"kid": "two"})
        assert len(at_once(16, lambda _: ours.claims(token, NOW))) == 16
        assert there.fetches == 2

    def test_many_strangers_fetch_once(self, there: OidcIssuer, ours: Issuer) -> None:
        """All at the same time."""
        ours.claims(there.token(), NOW)
        at_once(16, lambda number: refusal(ours, there.token(headers={"kid": f"k{number}"})))
        assert there.fetches == 2

    def test_others_do_not_wait_for_fresh_keys(self, there: OidcIssuer, ours: Issuer, clock: Clock) -> None:
        """While one fetches, those that are kept serve."""
        ours.claims(there.token(), NOW)
        clock.turn(11 * MINUTE)
        there.may_answer.clear()
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(ours.claims, there.token(), NOW)
            wait_until(lambda: len(there.asked) == 3, "the fetch")
            assert ours.claims(there.token(), NOW).external_id == "u-1"
            assert not first.done()
            there.may_answer.set()
            assert first.result(30).external_id == "u-1"
        assert there.fetches == 2


class TestOutages:
    """When the issuer is away, or is none."""

    def test_a_token_waits_for_one_fetch_at_most(self, there: OidcIssuer, ours: Issuer, clock: Clock) -> None:
        """Stale keys and a key that is not known are no two reasons to ask an issuer that is away."""
        ours.claims(there.token(), NOW)
        there.status = 500
        clock.turn(11 * MINUTE)
        assert "status 500" in trouble(ours, there.token(headers={"kid": "two"}))
        assert len(there.asked) == 3

    def test_without_keys_nobody_is_refused(self, there: OidcIssuer, ours: Issuer, clock: Clock) -> None:
        """A failure is remembered for a moment and told once; then there is another try."""
        there.status = 500
        with capture_logs() as lines:
            assert trouble(ours, there.token()) == "discovery: status 500"
            assert trouble(ours, there.token()) == "discovery: status 500"
        assert len(there.asked) == 1
        assert [line["event"] for line in lines] == ["oidc issuer fails"]
        there.status = 200
        assert trouble(ours, there.token()) == "discovery: status 500"
        clock.turn(6)
        assert ours.claims(there.token(), NOW).external_id == "u-1"

    def test_the_last_keys_serve_for_a_day(self, there: OidcIssuer, ours: Issuer, clock: Clock) -> None:
        """And not longer; nothing but a new key is missed meanwhile."""
        ours.claims(there.token(), NOW)
        there.status = 503
        for _ in range(23):
            clock.turn(60 * MINUTE)
            assert ours.claims(there.token(), NOW).external_id == "u-1"
        asked = len(there.asked)
        ours.claims(there.token(), NOW)
        assert len(there.asked) == asked
        assert "status 503" in trouble(ours, there.token(OTHER_RSA_KEY, headers={"kid": "two"}))
        assert "status 503" in trouble(ours, there.token(OTHER_RSA_KEY, headers={"kid": "two"}))
        assert len(there.asked) == asked + 1
        assert "no key" in refusal(ours, there.token(OTHER_RSA_KEY))
        clock.turn(61 * MINUTE)
        assert "status 503" in trouble(ours, there.token())
        there.status = 200
        clock.turn(6)
        assert ours.claims(there.token(), NOW).external_id == "u-1"

    def test_nobody_there(self) -> None:
        """A port on which nobody listens."""
        with OidcIssuer() as gone:
            token = gone.token()
        issuer = Issuer(OidcSettings(gone.url, (AUDIENCE,)))
        assert "refused" in trouble(issuer, token)
        issuer.close()

    @pytest.mark.parametrize("document", ["discovery", "jwks"])
    def test_a_slow_issuer_is_away(self, there: OidcIssuer, ours: Issuer, document: str) -> None:
        """Whether it is silent or never ends, the deadline holds for both documents together."""
        setattr(there, document, drip)
        began = time.monotonic()
        assert "timed out" in trouble(ours, there.token())
        assert 1.5 < time.monotonic() - began < AT_ONCE_SECONDS

    def test_a_silent_issuer_is_away(self, there: OidcIssuer, ours: Issuer) -> None:
        """For all who ask, with one fetch."""
        there.may_answer.clear()
        assert set(at_once(8, lambda _: trouble(ours, there.token()))) == {"discovery: operation timed out"}
        assert len(there.asked) == 1

    @pytest.mark.parametrize("document", ["discovery", "jwks"])
    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (b"<html>", "it is no"),
            (b"", "it is no"),
            (b"[]", "it is no"),
            (b"\xff\xfe", "it is no"),
            (endless, "more than 1000000 bytes"),
            (redirect, "status 302"),
        ],
        ids=lambda _: "answer",
    )
    def test_a_wrong_answer_is_none(
        self, there: OidcIssuer, ours: Issuer, document: str, answer: Any, reason: str
    ) -> None:
        """Read with a bound, and redirected nowhere."""
        setattr(there, document, answer)
        assert reason in trouble(ours, there.token())
        assert "/elsewhere" not in there.asked

    def test_a_bomb_does_not_go_off(self, there: OidcIssuer, ours: Issuer) -> None:
        """What is large only once it is decoded is too large, too."""
        there.discovery = gzip.compress(b" " * 50_000_000)
        there.headers = {"content-encoding": "gzip"}
        assert "more than 1000000 bytes" in trouble(ours, there.token())

    def test_too_many_keys_are_none(self, there: OidcIssuer, ours: Issuer) -> None:
        """A hundred are enough for anybody."""
        there.keys = there.keys * 101
        assert "more than 100 keys" in trouble(ours, there.token())

    @pytest.mark.parametrize("keys", [[], [{"kty": "oct", "k": "c2VjcmV0"}]])
    def test_no_key_at_all_refuses_nobody(self, there: OidcIssuer, ours: Issuer, clock: Clock, keys: list[Any]) -> None:
        """Old keys do not serve on, for they were withdrawn."""
        ours.claims(there.token(), NOW)
        there.keys = keys
        clock.turn(11 * MINUTE)
        with capture_logs() as lines:
            assert "no key that can be used" in trouble(ours, there.token())
        assert lines[0]["event"] == "oidc issuer has no keys"

    @pytest.mark.parametrize(
        ("members", "reason"),
        [
            ({"issuer": "https://login.corp.test"}, "another issuer, 'https://login.corp.test'"),
            ({"issuer": None}, "no discovery document"),
            ({"jwks_uri": None}, "no discovery document"),
            ({"jwks_uri": "http://10.0.0.1/keys"}, "not https://"),
            ({"jwks_uri": "file:///etc/passwd"}, "not https://"),
            ({"jwks_uri": "http://127.0.0.1@evil.test/"}, "not https://"),
            ({"jwks_uri": "/keys"}, "not https://"),
        ],
    )
    def test_the_document_must_be_its_own(
        self, there: OidcIssuer, ours: Issuer, members: dict[str, Any], reason: str
    ) -> None:
        """Of this very issuer, with an address where nobody in between can change keys."""
        there.discovery = there.document(**members)
        assert reason in trouble(ours, there.token())
        assert there.fetches == 0

    def test_a_slash_at_the_end_is_part_of_the_name(self, there: OidcIssuer) -> None:
        """But not doubled in the address of the document."""
        slashed = f"{there.url}/realms/a/"
        issuer = Issuer(OidcSettings(slashed, (AUDIENCE,)))
        assert "another issuer" in trouble(issuer, there.token(iss=slashed))
        assert there.asked == ["/realms/a/.well-known/openid-configuration"]
        there.discovery = there.document(issuer=slashed)
        fresh = Issuer(OidcSettings(slashed, (AUDIENCE,)))
        assert fresh.claims(there.token(iss=slashed), NOW).external_id == "u-1"
        issuer.close()
        fresh.close()

    def test_nothing_of_a_token_comes_into_the_log(self, there: OidcIssuer, ours: Issuer) -> None:
        """Neither of one that is refused, nor while the issuer is away."""
        there.status = 500
        token = there.token()
        with capture_logs() as lines:
            trouble(ours, token)
            refusal(ours, there.token(exp=1))
        assert not any(part in json.dumps(lines) for part in [*token.split("."), "ana@"])
        assert lines[0]["log_level"] == "warning"


class TestTheWayThere:
    """TLS and proxies."""

    def test_an_authority_of_our_own(self, there: OidcIssuer, tmp_path: Path) -> None:
        """An https:// issuer whose certificate only our file vouches for, which sends nobody to http://."""
        certificates = Certificates(tmp_path)
        port = int(there.url.rpartition(":")[2])
        with Relay(port, certificates.server("localhost")) as relay:
            url = f"https://localhost:{relay.port}"
            settings = OidcSettings(url, (AUDIENCE,))
            there.discovery = there.document(issuer=url, jwks_uri=f"{url}/keys")
            stranger = Issuer(settings)
            assert "ertificate" in trouble(stranger, there.token(iss=url))
            known = Issuer(settings, Egress(tls=TlsFiles(certificates.ca)))
            assert known.claims(there.token(iss=url), NOW).external_id == "u-1"
            there.discovery = there.document(issuer=url)
            downgraded = Issuer(settings, Egress(tls=TlsFiles(certificates.ca)))
            assert "not https://" in trouble(downgraded, there.token(iss=url))
            for issuer in (stranger, known, downgraded):
                issuer.close()

    def test_through_a_proxy(self, there: OidcIssuer) -> None:
        """Where there is one."""
        port = int(there.url.rpartition(":")[2])
        with ForwardProxy({f"127.0.0.1:{port}": port}, credentials="Basic YTpi") as proxy:
            way = Egress(ProxyAddress("127.0.0.1", proxy.port, authorization="Basic YTpi"))
            issuer = Issuer(OidcSettings(there.url, (AUDIENCE,)), way)
            assert issuer.claims(there.token(), NOW).external_id == "u-1"
            assert proxy.heads[0].startswith(f"GET {there.url}/.well-known/openid-configuration ".encode())
            issuer.close()

    def test_past_the_proxies_of_the_environment(self, there: OidcIssuer, monkeypatch: pytest.MonkeyPatch) -> None:
        """Which way to go is said, not found."""
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        issuer = Issuer(OidcSettings(there.url, (AUDIENCE,)))
        assert issuer.claims(there.token(), NOW).external_id == "u-1"
        issuer.close()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
CLAIMS = st.dictionaries(st.sampled_from(["iss", "aud", "sub", "email", "exp", "nbf", "iat", "jti", "name"]), JSON)
HEADERS = st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "cty", "zip"]), JSON)
MANY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class TestWhatever:
    """Whatever comes, it is an identity or one of two errors."""

    @MANY
    @given(st.text() | st.binary().map(segment) | st.lists(st.binary().map(segment), max_size=4).map(".".join))
    def test_texts(self, ours: Issuer, token: str) -> None:
        """No text is a token."""
        with pytest.raises((TokenRefused, IssuerUnavailable)):
            ours.claims(token, NOW)

    @MANY
    @given(HEADERS, CLAIMS, st.binary(min_size=1, max_size=300))
    def test_headers_and_signatures(
        self, there: OidcIssuer, ours: Issuer, header: dict[str, Any], claims: dict[str, Any], signature: bytes
    ) -> None:
        """A token that looks right, but for what was changed, and that nobody signed."""
        there.keys = [jwk(key, kid=name) for name, key in KEYS.items()]
        for algorithm in ("RS256", "ES512", "EdDSA"):
            parts = {"alg": algorithm, "kid": algorithm} | header
            for body in (there.claims() | claims, there.claims()):
                with pytest.raises((TokenRefused, IssuerUnavailable)):
                    ours.claims(unsigned(parts, body, signature), NOW)

    @MANY
    @given(CLAIMS)
    def test_signed_claims(self, there: OidcIssuer, ours: Issuer, claims: dict[str, Any]) -> None:
        """The issuer itself may say anything."""
        try:
            identity = ours.claims(
                jwt.api_jws.encode(json.dumps(there.claims() | claims).encode(), RSA_KEY, "RS256", {"kid": "one"}), NOW
            )
        except TokenRefused:
            return
        assert "@" in identity.email
