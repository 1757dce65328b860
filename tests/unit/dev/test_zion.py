"""Zion's API, over real sockets.

About: `dev/tiers.py`.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from sentinel.dev.accounts import SimUser
from sentinel.dev.server import Server
from sentinel.dev.zion import ZionSimulator
from tests.support.client import Answer, ask
from tests.support.waiting import wait_until

USERS_ME = "/api/v1/users/me"
LIMITS = "/api/v1/limits/external/"
BATCH = "/api/v1/usage/external/batch-increment"
INCREMENT = "/api/v1/usage/external/increment"
ITEM = {"email": "ana@corp.test", "aiInputTokens": 31, "aiOutputTokens": 7, "aiRequests": 1, "model": "gpt-4o"}
Ask = Callable[..., Answer]


@pytest.fixture
def ana(zion_sim: ZionSimulator) -> SimUser:
    return zion_sim.add_user(
        "ana@corp.test",
        external_id="ext-7",
        limits={"ai_requests": 10, "ai_input_tokens": 1000, "ai_output_tokens": None},
    )


@pytest.fixture
def call(zion_sim: ZionSimulator, zion_server: Server) -> Ask:
    """A request with the API key."""

    def call(method: str, path: str, json: object = None, **headers: str) -> Answer:
        sent = {"x-api-key": zion_sim.api_key, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return ask(method, zion_server.url + path, json, sent)

    return call


@pytest.fixture
def users_me(zion_server: Server) -> Ask:
    return lambda token, **more: ask(
        "GET", zion_server.url + USERS_ME, None, {"Authorization": f"Bearer {token}", **more}
    )


def test_users_me(zion_sim: ZionSimulator, ana: SimUser, users_me: Ask) -> None:
    """A valid token tells who the caller is."""
    answer = users_me(zion_sim.token(ana))
    assert answer.status == 200
    assert answer.json["success"] is True
    assert answer.json["data"] == {
        "id": "usr_1",
        "email": "ana@corp.test",
        "name": None,
        "externalId": "ext-7",
        "emailVerified": True,
        "createdAt": "2026-01-02T03:04:05Z",
        "lastLoginAt": None,
    }


def test_a_plan_and_an_end(zion_sim: ZionSimulator, ana: SimUser, users_me: Ask) -> None:
    """Are told where there are some; a token that ends tells so by itself, and is refused after that."""
    ana.allowed_models, ana.expires_at = ["gpt-4o*"], "2100-01-01T00:00:00Z"
    zion_sim.add_token(ana, "sk-plain")
    zion_sim.add_token(ana, "sk-ends", "2101-01-01T00:00:00Z")
    zion_sim.add_token(ana, "sk-ended", "2001-01-01T00:00:00Z")
    told = {token: users_me(token).json["data"] for token in ("sk-plain", "sk-ends")}
    assert [data["allowedModels"] for data in told.values()] == [["gpt-4o*"]] * 2
    assert [data["expiresAt"] for data in told.values()] == ["2100-01-01T00:00:00Z", "2101-01-01T00:00:00Z"]
    assert users_me("sk-ended").status == 401
    ana.expires_at = "2001-01-01T00:00:00Z"
    assert users_me("sk-plain").status == 401


def test_tokens_that_are_refused(zion_sim: ZionSimulator, ana: SimUser, users_me: Ask) -> None:
    """Unknown, expired, revoked tokens and an API key beside them are 401; each token of a user is another one."""
    good = zion_sim.token(ana)
    assert good != zion_sim.token(ana)
    revoked = zion_sim.token(ana)
    zion_sim.revoke(revoked)
    for token in ("nonsense", "", zion_sim.token(ana, lifetime_seconds=-1), revoked):
        answer = users_me(token)
        assert (answer.status, answer.json["error"]["code"]) == (401, "UNAUTHORIZED")
    assert users_me(good, **{"x-api-key": zion_sim.api_key}).status == 401
    assert users_me(good).status == 200


def test_a_token_that_tells_nothing(zion_sim: ZionSimulator, ana: SimUser, users_me: Ask) -> None:
    """Any text may be a token, until it is revoked."""
    zion_sim.add_token(ana, "sk-short")
    assert users_me("sk-short").json["data"]["email"] == "ana@corp.test"
    zion_sim.revoke("sk-short")
    assert users_me("sk-short").status == 401


def test_another_zions_tokens_are_refused(zion_sim: ZionSimulator, ana: SimUser, users_me: Ask) -> None:
    """Nobody can sign tokens but the one simulator: there may be a real provider behind it."""
    other = ZionSimulator()
    assert users_me(other.token(other.add_user("ana@corp.test"))).status == 401


@pytest.mark.parametrize(("status", "answered"), [("revoked", 401), ("forbidden", 403), ("active", 200)])
def test_user_status(zion_sim: ZionSimulator, ana: SimUser, users_me: Ask, status: Any, answered: int) -> None:
    """A user who is revoked or forbidden keeps the token but not the access."""
    ana.status = status
    assert users_me(zion_sim.token(ana)).status == answered


def test_users_me_styles(zion_sim: ZionSimulator, ana: SimUser, users_me: Ask) -> None:
    """The profile comes in all the shapes that the contract warns of."""
    token = zion_sim.token(ana)
    zion_sim.users_me_style = "success_false"
    assert (users_me(token).status, users_me(token).json["success"]) == (200, False)
    zion_sim.users_me_style = "minimal"
    assert set(users_me(token).json["data"]) == {"id", "email", "externalId"}
    zion_sim.users_me_style = "absent_external_id"
    assert "externalId" not in users_me(token).json["data"]
    zion_sim.users_me_style = "extra"
    assert users_me(token).json["data"]["roles"] == ["member"]
    zion_sim.users_me_style = "full"
    for external_id in (None, ""):
        ana.external_id = external_id
        assert users_me(token).json["data"]["externalId"] == external_id


def test_limits_in_both_shapes(zion_sim: ZionSimulator, ana: SimUser, call: Ask) -> None:
    """Shape C and shape A tell the same limits; the user is found by external id, or by id."""
    ana.used["ai_requests"] = 4
    data = call("GET", LIMITS + "ext-7").json["data"]
    assert (data["userId"], data["externalId"]) == ("usr_1", "ext-7")
    assert data["limits"][0]["aiRequests"] == {"limit": 10, "used": 4, "remaining": 6}
    zion_sim.limit_shape = "A"
    limits = {limit["name"]: limit for limit in call("GET", LIMITS + "usr_1").json["data"]["limits"]}
    assert limits["ai_requests"]["remaining"] == 6
    assert limits["ai_output_tokens"]["limit"] is None
    assert call("GET", LIMITS + "nobody").status == 404


def test_an_external_id_may_hold_anything(zion_sim: ZionSimulator, call: Ask) -> None:
    """Escaped characters in the path are decoded."""
    zion_sim.add_user("x@y", external_id="team a/é?x")
    assert call("GET", LIMITS + "team%20a%2F%C3%A9%3Fx").json["data"]["externalId"] == "team a/é?x"


def test_api_key_is_demanded(zion_sim: ZionSimulator, ana: SimUser, zion_server: Server) -> None:
    """Without the key, with a wrong one, or with a JWT beside it, the external routes refuse."""
    for headers in ({}, {"x-api-key": "x"}, {"x-api-key": zion_sim.api_key, "Authorization": "Bearer x"}):
        assert ask("GET", zion_server.url + LIMITS + "ext-7", None, headers).status == 401
        assert ask("POST", zion_server.url + BATCH, {"increments": [ITEM]}, headers).status == 401
    assert not zion_sim.applied


def test_usage_adds_up(zion_sim: ZionSimulator, ana: SimUser, call: Ask) -> None:
    """Items are added in order, over the limit too, and show in the limits."""
    answer = call(
        "POST", BATCH, {"increments": [ITEM, {**ITEM, "model": "o3", "aiRequests": 12}]}, idempotency_key="k1"
    )
    assert answer.status == 200
    first, second = answer.json["data"]["results"]
    assert first == {
        "email": "ana@corp.test",
        "limitName": "ai_usage",
        "success": True,
        "aiInputTokens": {"newValue": 31, "limit": 1000},
        "aiOutputTokens": {"newValue": 7, "limit": None},
        "aiRequests": {"newValue": 1, "limit": 10},
    }
    assert second["aiRequests"] == {"newValue": 13, "limit": 10}
    assert zion_sim.used("ana@corp.test") == {"ai_input_tokens": 62, "ai_output_tokens": 14, "ai_requests": 13}
    assert [(item.model, item.idempotency_key) for item in zion_sim.applied] == [("gpt-4o", "k1"), ("o3", "k1")]
    assert call("GET", LIMITS + "ext-7").json["data"]["limits"][0]["aiRequests"]["remaining"] == -3


def test_concurrent_reports_lose_nothing(zion_sim: ZionSimulator, ana: SimUser, call: Ask) -> None:
    """Reports from several threads add up."""

    def report() -> None:
        for _ in range(20):
            assert call("POST", BATCH, {"increments": [ITEM] * 5}).status == 200

    threads = [threading.Thread(target=report) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert zion_sim.used("ana@corp.test")["ai_requests"] == 400
    assert len(zion_sim.applied) == 400


def test_partial_failure(zion_sim: ZionSimulator, ana: SimUser, call: Ask) -> None:
    """An unknown and a refused user fail alone, with status 200."""
    zion_sim.add_user("bo@corp.test")
    zion_sim.refused_emails.add("bo@corp.test")
    items = [{**ITEM, "email": "no@corp.test"}, ITEM, {**ITEM, "email": "bo@corp.test"}]
    answer = call("POST", BATCH, {"increments": items})
    data = answer.json["data"]
    assert (answer.status, data["processed"], data["failed"]) == (200, 3, 2)
    assert [result["success"] for result in data["results"]] == [False, True, False]
    assert [result.get("error") for result in data["results"]] == ["user unknown", None, "refused"]
    assert len(zion_sim.applied) == 1


def test_batch_sizes(zion_sim: ZionSimulator, ana: SimUser, call: Ask) -> None:
    """A thousand items pass, more are 413, none is 400."""
    assert call("POST", BATCH, {"increments": [ITEM] * 1000}).status == 200
    assert call("POST", BATCH, {"increments": [ITEM] * 1001}).status == 413
    assert call("POST", BATCH, {"increments": []}).status == 400
    assert len(zion_sim.applied) == 1000


def test_a_bad_item_refuses_the_batch(zion_sim: ZionSimulator, ana: SimUser, call: Ask) -> None:
    """400 names the place, and nothing is applied."""
    answer = call("POST", BATCH, {"increments": [ITEM, {**ITEM, "aiRequests": 0}]})
    assert answer.status == 400
    assert "increments[1].aiRequests" in answer.json["error"]["message"]
    assert not zion_sim.applied


def test_bad_bodies(zion_server: Server, zion_sim: ZionSimulator) -> None:
    """What is not JSON, or not said to be, is 400."""
    key = {"x-api-key": zion_sim.api_key}
    assert ask("POST", zion_server.url + BATCH, None, key, raw=b"{").status == 400
    assert ask("POST", zion_server.url + BATCH, {"a": 1}, {**key, "Content-Type": "text/plain"}).status == 400


@pytest.mark.parametrize("style", ["no_limit_name", "empty", "old_shape", "garbage"])
def test_results_styles(zion_sim: ZionSimulator, ana: SimUser, call: Ask, style: Any) -> None:
    """However a batch is answered, it is applied once."""
    zion_sim.results_style = style
    answer = call("POST", BATCH, {"increments": [ITEM]})
    assert answer.status == 200
    assert len(zion_sim.applied) == 1
    if style == "garbage":
        with pytest.raises(ValueError, match="Expecting"):
            _ = answer.json
    elif style == "empty":
        assert answer.json["data"]["results"] == []
    elif style == "no_limit_name":
        assert "limitName" not in answer.json["data"]["results"][0]
    else:
        assert answer.json["data"]["results"] == [{"externalId": "ext-7", "success": True, "newValue": 1, "limit": 10}]


def test_increment(zion_sim: ZionSimulator, ana: SimUser, call: Ask) -> None:
    """One item at a time, told with what remains."""
    data = call("POST", INCREMENT, {**ITEM, "aiRequests": 10}).json["data"]
    assert data["canUse"] is False
    assert data["aiRequests"] == {"limit": 10, "used": 10, "remaining": 0}
    assert call("POST", INCREMENT, {**ITEM, "email": "no@corp.test"}).status == 400
    zion_sim.refused_emails.add("ana@corp.test")
    assert call("POST", INCREMENT, ITEM).status == 400
    assert zion_sim.used("ana@corp.test")["ai_requests"] == 10


def test_missing_endpoints(zion_sim: ZionSimulator, ana: SimUser, call: Ask) -> None:
    """An older Zion lacks one or the other endpoint."""
    zion_sim.batch_endpoint_missing = True
    assert call("POST", BATCH, {"increments": [ITEM]}).status == 404
    zion_sim.increment_missing = True
    assert call("POST", INCREMENT, ITEM).status == 404
    assert call("GET", "/api/v1/nope").status == 404
    assert call("GET", INCREMENT.replace("increment", "x")).status == 404
    assert call("POST", LIMITS + "ext-7", {}).status == 405


def test_without_dedupe_a_repeated_key_counts_twice(zion_sim: ZionSimulator, ana: SimUser, call: Ask) -> None:
    """As with a real Zion."""
    for _ in range(2):
        call("POST", BATCH, {"increments": [ITEM]}, idempotency_key="k1")
    assert zion_sim.used("ana@corp.test")["ai_requests"] == 2


def test_dedupe(zion_sim: ZionSimulator, ana: SimUser, call: Ask) -> None:
    """A key that comes again gets the first answer and changes nothing; with another body it is a mistake."""
    zion_sim.dedupe = True
    first = call("POST", BATCH, {"increments": [ITEM]}, idempotency_key="k1")
    again = call("POST", BATCH, {"increments": [ITEM]}, idempotency_key="k1")
    assert again.json == first.json
    assert call("POST", BATCH, {"increments": [ITEM, ITEM]}, idempotency_key="k1").status == 422
    assert call("POST", BATCH, {"increments": [ITEM]}, idempotency_key="k2").status == 200
    assert call("POST", BATCH, {"increments": [ITEM]}).status == 200
    assert zion_sim.used("ana@corp.test")["ai_requests"] == 3


def test_apply_then_drop(zion_sim: ZionSimulator, ana: SimUser, call: Ask, users_me: Ask) -> None:
    """The ambiguous case: applied, but nobody hears of it. Requests that apply nothing are not hit."""
    zion_sim.dedupe = True
    zion_sim.faults.set(apply_then_drop=True, times=1)
    assert users_me(zion_sim.token(ana)).status == 200
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        call("POST", BATCH, {"increments": [ITEM]}, idempotency_key="k1")
    assert zion_sim.used("ana@corp.test")["ai_requests"] == 1
    assert call("POST", BATCH, {"increments": [ITEM]}, idempotency_key="k1").status == 200
    assert zion_sim.used("ana@corp.test")["ai_requests"] == 1


def test_apply_then_delay(zion_sim: ZionSimulator, ana: SimUser, call: Ask) -> None:
    """Applied at once, answered late."""
    zion_sim.faults.apply_then_delay_seconds = 0.2
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(call("POST", BATCH, {"increments": [ITEM]})))
    thread.start()
    wait_until(lambda: zion_sim.applied)
    assert not answers
    thread.join(10)
    assert answers[0].status == 200


def test_a_period_that_ends(zion_sim: ZionSimulator, ana: SimUser, call: Ask) -> None:
    """After its end, usage starts again at 0."""
    call("POST", BATCH, {"increments": [ITEM]})
    ana.period_end = datetime(2026, 1, 1, tzinfo=UTC)
    assert zion_sim.used("ana@corp.test")["ai_requests"] == 0
    assert call("GET", LIMITS + "ext-7").json["data"]["limits"][0]["aiRequests"]["used"] == 0


def test_tiers(call: Ask) -> None:
    """The tier configuration has its three arrays."""
    assert set(call("GET", "/api/v1/tiers/config").json["data"]["tiers"]) == {"simple", "moderate", "complex"}


def test_failures_leak_internals_on_purpose(zion_sim: ZionSimulator, call: Ask) -> None:
    """Zion's own error text holds a mark, which no client of Sentinel may ever see."""
    zion_sim.faults.status = 500
    answer = call("GET", LIMITS + "x")
    assert (answer.status, answer.json["success"]) == (500, False)
    assert "zion-db-7.internal" in answer.json["error"]["message"]


def test_calls_are_recorded(zion_sim: ZionSimulator, ana: SimUser, call: Ask) -> None:
    """Everything that Sentinel sends can be looked at."""
    call("POST", BATCH, {"increments": [ITEM]}, idempotency_key="k1")
    (recorded,) = zion_sim.calls
    assert (recorded.method, recorded.path) == ("POST", BATCH)
    assert recorded.headers["idempotency-key"] == "k1"
    assert recorded.body == {"increments": [ITEM]}


def test_unknown_metrics_are_a_mistake(zion_sim: ZionSimulator) -> None:
    """A typo in a test's limits must not mean unlimited."""
    with pytest.raises(ValueError, match="ai_request"):
        zion_sim.add_user("x@y", limits={"ai_request": 1})


def test_control(zion_sim: ZionSimulator, ana: SimUser, call: Ask, zion_server: Server) -> None:
    """A test in another process can do all of it over HTTP, and leaves no trace in the calls."""
    url = zion_server.url + "/_sim/"
    user = ask("POST", url + "users", {"email": "bo@corp.test", "limits": {"ai_requests": 5}}).json
    assert zion_sim.user("bo@corp.test").limits == {"ai_requests": 5}
    assert ask("GET", zion_server.url + USERS_ME, None, {"Authorization": f"Bearer {user['token']}"}).status == 200
    call("POST", INCREMENT, ITEM)
    assert ask("GET", url + "usage").json["ana@corp.test"]["ai_requests"] == 1
    assert ask("GET", url + "applied").json[0]["email"] == "ana@corp.test"
    assert ask("POST", url + "faults", {"status": 503, "times": 1}).json["status"] == 503
    assert ask("GET", url + "faults").json["times"] == 1
    assert call("GET", LIMITS + "ext-7").status == 503
    assert ask("POST", url + "options", {"dedupe": True, "refused_emails": ["x@y"]}).json["dedupe"] is True
    assert (zion_sim.dedupe, zion_sim.refused_emails) == (True, {"x@y"})
    assert len(ask("GET", url + "calls").json) == len(zion_sim.calls) == 3
    assert ask("POST", url + "options", {"nope": 1}).status == 400
    assert ask("POST", url + "faults", {"nope": 1}).status == 400
    assert ask("GET", url + "nope").status == 404
