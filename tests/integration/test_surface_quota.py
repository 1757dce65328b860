"""The caller's own view: GET /sentinel/quota, and what is left of the subscription on every answer.

About: `routes/quota.py`.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any

import pytest

from tests.support.client import Answer
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import (
    CHAT,
    COMPLETIONS,
    GENERATE,
    MESSAGES,
    RESPONSES,
    asked,
    chat,
    maximum,
    post,
    send,
    streaming,
)
from tests.support.waiting import AT_ONCE_SECONDS, wait_until

pytestmark = pytest.mark.usefixtures("no_faults")

PATH = "/sentinel/quota"
RATES = "ai_requests=100/60s,ai_output_tokens=5000/1h,concurrency=9"
NAMES = ("requests", "input-tokens", "output-tokens")


@pytest.fixture(scope="module")
def sentinel(stack: Stack) -> SentinelProcess:
    return stack.sentinel(RATE_LIMITS=RATES)


def left(answer: Answer) -> list[int | None]:
    """What the headers tell of the subscription."""
    told = [answer.headers.get(f"x-sentinel-quota-remaining-{name}") for name in NAMES]
    return [None if value is None else int(value) for value in told]


def seen(sentinel: SentinelProcess, token: str) -> Any:
    answer = send(sentinel, "GET", PATH, token)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json"), answer.body
    return answer.json


def test_a_caller_sees_their_limits(stack: Stack, sentinel: SentinelProcess) -> None:
    """Before their first request: limits come from Zion, moments are RFC 3339, null is not limited."""
    ends = datetime.now(UTC) + timedelta(days=3)
    limits, used = {"ai_requests": 50, "ai_output_tokens": 900}, {"ai_requests": 3, "ai_input_tokens": 70}
    user, token = stack.user("looks@corp.test", limits=limits, used=used, reset_period="MONTHLY")
    user.period_end = ends
    found = seen(sentinel, token)
    assert list(found) == ["user", "quota", "windows", "concurrency"]
    assert found["user"] == "looks"
    assert list(found["quota"]) == ["ai_requests", "ai_input_tokens", "ai_output_tokens"]
    requests, inputs, outputs = found["quota"].values()
    assert (requests["limit"], requests["used"], requests["remaining"]) == (50, 3, 47)
    assert (inputs["limit"], inputs["remaining"]) == (None, None)
    assert (outputs["limit"], outputs["used"], outputs["remaining"]) == (900, 0, 900)
    for metric in (requests, outputs):
        assert abs(datetime.fromisoformat(metric["resets_at"]) - ends) <= timedelta(seconds=1)
    windows = [(w["metric"], w["limit"], w["window_seconds"], w["remaining"]) for w in found["windows"]]
    assert windows == [("ai_requests", 100, 60, 100), ("ai_output_tokens", 5000, 3600, 5000)]
    assert all(datetime.fromisoformat(window["resets_at"]).tzinfo for window in found["windows"])
    assert found["concurrency"] == {"limit": 9, "in_flight": 0}


def test_looking_costs_nothing(stack: Stack, sentinel: SentinelProcess) -> None:
    """No window, no quota, no record, no question to the provider; and one to Zion for any number of looks."""
    user, token = stack.user("looks-often@corp.test", limits={"ai_requests": 2})
    asked, calls = stack.simulators.zion.calls, len(stack.simulators.openai.calls)
    before = len(asked)
    first = seen(sentinel, token)
    for method in ("GET", "HEAD", "OPTIONS"):
        for _ in range(20):
            assert send(sentinel, method, PATH, token).status == 200
    assert not [name for name in send(sentinel, "GET", PATH, token).headers if name.startswith("x-ratelimit")]
    assert seen(sentinel, token)["quota"] == first["quota"]
    assert [window["remaining"] for window in seen(sentinel, token)["windows"]] == [100, 5000]
    paths = [call.path for call in list(asked)[before:]]
    assert len([path for path in paths if "looks-often" in path]) == 1
    assert len(stack.simulators.openai.calls) == calls
    assert [post(sentinel, token, chat("[[tokens=1]]")).status for _ in range(3)] == [200, 200, 429]
    assert stack.booked(2, "looks-often@corp.test")["ai_requests"] == 2
    assert user.used["ai_requests"] == 2


def test_what_was_spent_shows_at_once(stack: Stack, sentinel: SentinelProcess) -> None:
    """Also what Zion has not heard of yet."""
    _, token = stack.user("spends@corp.test", limits={"ai_requests": 10, "ai_output_tokens": 1000})
    stack.simulators.zion.faults.set(status=500, path_prefix="/api/v1/usage")
    assert post(sentinel, token, chat("[[tokens=7]]")).status == 200
    quota = seen(sentinel, token)["quota"]
    assert (quota["ai_requests"]["used"], quota["ai_output_tokens"]["remaining"]) == (1, 993)
    stack.simulators.zion.faults.clear()
    stack.booked(1, "spends@corp.test")
    wait_until(lambda: seen(sentinel, token)["quota"] == quota, "the same numbers once Zion has taken them")


def test_what_is_in_flight_is_reserved(stack: Stack, sentinel: SentinelProcess) -> None:
    """A request that runs counts with what it may spend, until it is settled."""
    _, token = stack.user("flies@corp.test", limits={"ai_output_tokens": 1000})
    slow = Thread(target=post, args=(sentinel, token, chat("[[tokens=3 first_delay=1]]", max_tokens=400)))
    slow.start()
    flying = wait_until(lambda: found if (found := seen(sentinel, token))["concurrency"]["in_flight"] else None)
    assert (flying["concurrency"]["in_flight"], flying["quota"]["ai_output_tokens"]["remaining"]) == (1, 600)
    assert flying["windows"][1]["remaining"] == 4600
    slow.join()
    wait_until(lambda: seen(sentinel, token)["quota"]["ai_output_tokens"]["remaining"] == 997)
    assert seen(sentinel, token)["concurrency"]["in_flight"] == 0


def test_a_limit_below_what_is_used_leaves_zero(stack: Stack, sentinel: SentinelProcess) -> None:
    """Nothing is ever negative, neither here nor in headers."""
    _, token = stack.user("over@corp.test", limits={"ai_output_tokens": 100}, used={"ai_output_tokens": 130})
    output = seen(sentinel, token)["quota"]["ai_output_tokens"]
    assert (output["limit"], output["used"], output["remaining"]) == (100, 130, 0)
    answer = post(sentinel, token, chat())
    assert (answer.status, left(answer)[2]) == (429, 0)


def test_an_upgrade_shows_without_a_request(stack: Stack) -> None:
    """Who only looks sees Zion's last word, too."""
    sentinel = stack.sentinel(CACHE_TTL_SECONDS="0.2")
    user, token = stack.user("upgraded@corp.test", limits={"ai_requests": 1})
    assert seen(sentinel, token)["quota"]["ai_requests"]["limit"] == 1
    user.limits["ai_requests"] = 77
    wait_until(lambda: seen(sentinel, token)["quota"]["ai_requests"]["limit"] == 77)
    assert seen(sentinel, token)["windows"] == []
    assert seen(sentinel, token)["concurrency"] == {"limit": None, "in_flight": 0}
    sentinel.kill()


def test_who_is_not_known_sees_nothing(stack: Stack, sentinel: SentinelProcess) -> None:
    """As on any other route of callers."""
    assert send(sentinel, "GET", PATH).is_error(401, "missing_api_key")
    assert send(sentinel, "GET", PATH, "nobody").is_error(401, "invalid_api_key")
    _, forbidden = stack.user("forbidden@corp.test", status="forbidden")
    assert send(sentinel, "GET", PATH, forbidden).is_error(403, "access_denied")
    _, token = stack.user("posts@corp.test")
    assert send(sentinel, "POST", PATH, token, b"{}").is_error(405, "method_not_allowed")


def test_without_zion_nothing_is_invented(stack: Stack, sentinel: SentinelProcess) -> None:
    """Limits that nobody knows are no limits of zero, and none without end: 503, within 3 s."""
    _, token = stack.user("unlooked@corp.test")
    stack.simulators.zion.faults.set(hang=True, path_prefix="/api/v1/limits")
    started = time.monotonic()
    answer = send(sentinel, "GET", PATH, token)
    assert answer.is_error(503, "service_unavailable", "server_error")
    assert time.monotonic() - started < AT_ONCE_SECONDS
    assert int(answer.headers["retry-after"]) >= 1


def test_it_works_without_redis() -> None:
    """`local` shows this process's share and says so; `refuse` says that it cannot tell."""
    with Stack() as stack:
        refusing = stack.sentinel()
        sentinel = stack.sentinel(
            REDIS_DOWN="local",
            SENTINEL_REPLICAS="2",
            RATE_LIMITS="ai_requests=10/60s",
            SPOOL_DIR=str(stack.folder / "s"),
        )
        _, token = stack.user("ana@corp.test", limits={"ai_output_tokens": 1000})
        assert seen(sentinel, token)["quota"]["ai_output_tokens"]["remaining"] == 1000
        assert seen(refusing, token)["quota"]["ai_output_tokens"]["remaining"] == 1000
        stack.store.kill()
        answer = wait_until(
            lambda: found if "x-sentinel-degraded" in (found := send(sentinel, "GET", PATH, token)).headers else None
        )
        assert answer.status == 200
        assert answer.json["quota"]["ai_output_tokens"]["remaining"] == 500
        assert answer.json["windows"][0]["remaining"] == 5
        spent = post(sentinel, token, chat("[[tokens=20]]", max_tokens=50))
        assert (spent.status, spent.headers["x-sentinel-degraded"], left(spent)[2]) == (200, "redis", 450)
        found = seen(sentinel, token)
        assert (found["quota"]["ai_output_tokens"]["remaining"], found["windows"][0]["remaining"]) == (480, 4)
        refused = wait_until(lambda: found if (found := send(refusing, "GET", PATH, token)).status == 503 else None)
        assert refused.is_error(503, "service_unavailable", "server_error")
        stack.store.start()
        wait_until(lambda: "x-sentinel-degraded" not in send(sentinel, "GET", PATH, token).headers)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, MESSAGES, GENERATE])
def test_every_answer_tells_what_is_left(stack: Stack, sentinel: SentinelProcess, path: str, stream: bool) -> None:
    """Of each dimension that has a quota, with this request's own reservation taken off."""
    email = f"told{path.replace('/', '-').replace(':', '-')}-{stream}@corp.test"
    _, token = stack.user(email, limits={"ai_requests": 9, "ai_output_tokens": 1000})
    body = asked(path, "[[tokens=10]]", stream=stream, **maximum(path, 300))
    assert left(post(sentinel, token, body, streaming(path, stream))) == [8, None, 700]
    assert left(post(sentinel, token, body, streaming(path, stream))) == [7, None, 690]


def test_answers_of_other_kinds_tell_it_too(stack: Stack, sentinel: SentinelProcess) -> None:
    """The provider's refusals, our own behind the limiter, and lists of models; not what passed no limiter."""
    _, token = stack.user("kinds@corp.test", limits={"ai_requests": 5})
    assert left(post(sentinel, token, chat("[[status=400]]"))) == [4, None, None]
    assert left(post(sentinel, token, chat("[[status=500]]"))) == [4, None, None]
    assert left(send(sentinel, "GET", "/v1/models", token)) == [4, None, None]
    assert left(send(sentinel, "GET", "/v1/models/none", token)) == [4, None, None]
    assert left(post(sentinel, token, b"{")) == [None] * 3
    assert left(post(sentinel, None, chat())) == [None] * 3
    assert left(send(sentinel, "GET", PATH, token)) == [None] * 3


def test_who_has_no_quota_is_told_none(sentinel: SentinelProcess, token: str) -> None:
    """Not limited is no number."""
    assert left(post(sentinel, token, chat("[[tokens=1]]"))) == [None] * 3
