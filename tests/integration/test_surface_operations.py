"""What operators see: health, metrics, the log line of a request; and the list of models.

About: `proxy/catalog.py`, `routes/models.py`, `routes/operations.py`, `routes/probe.py`, `routes/state.py`.
"""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest

from sentinel import __version__
from tests.support.scripted import Script, ScriptedProvider
from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import CHAT, COMPLETIONS, chat, post, send
from tests.support.waiting import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.usefixtures("no_faults")


@pytest.fixture(scope="module")
def sentinel(stack: Stack) -> SentinelProcess:
    return stack.sentinel(REDIS_DOWN="refuse")


# ----------------------------------------------------------------------------------------------------------- health


def test_health_tells_all(sentinel: SentinelProcess) -> None:
    """The JSON of the older implementation, with a check for each dependency."""
    answer = send(sentinel, "GET", "/health")
    report = answer.json
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert report.keys() == {"status", "version", "uptime_seconds", "timestamp", "checks", "warnings", "stats"}
    assert (report["status"], report["version"]) == ("healthy", __version__)
    assert "." in report["version"]
    assert report["uptime_seconds"] == report["stats"]["uptime_seconds"] >= 0
    assert datetime.fromisoformat(report["timestamp"]).utcoffset() == timedelta(0)
    assert report["timestamp"].endswith("+00:00")
    assert report["checks"].pop("tasks") == {"status": "healthy", "failing": []}
    assert report["warnings"] == []
    assert report["checks"].keys() == {"redis", "zion", "provider"}
    for check in report["checks"].values():
        assert check["status"] == "healthy"
        assert isinstance(check["latency_ms"], int)


@pytest.mark.parametrize("path", ["/health", "/health/ready", "/health/live", "/metrics"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic x"}])
def test_operators_need_no_token(sentinel: SentinelProcess, path: str, headers: dict[str, Any]) -> None:
    """Health and metrics look at no token, be it absent or wrong."""
    assert send(sentinel, "GET", path, **headers).status == 200
    assert send(sentinel, "HEAD", path, **headers).status == 200


def states(sentinel: SentinelProcess) -> dict[str, Any]:
    answer = send(sentinel, "GET", "/health")
    checks = {name: check["status"] for name, check in answer.json["checks"].items() if name != "tasks"}
    return {"code": answer.status, "status": answer.json["status"], **checks}


@pytest.mark.parametrize("how", ["gone", "hung", "broken"])
def test_health_is_degraded_while_zion_and_the_provider_are_away(stack: Stack, how: str) -> None:
    """We still serve what we can, so 200, but the report says at once what is missing."""
    simulators = stack.simulators
    servers = (simulators.zion_server, simulators.openai_server)
    for server, faults in zip(servers, (simulators.zion.faults, simulators.openai.faults), strict=True):
        match how:
            case "gone":
                server.stop()
            case "hung":
                faults.set(hang=True)
            case "broken":
                faults.set(status=503)
    try:
        sentinel = stack.sentinel()
        away = {"code": 200, "status": "degraded", "redis": "healthy", "zion": "unhealthy", "provider": "unhealthy"}
        # An answer of any kind comes although they give none.
        wait_until(lambda: states(sentinel) == away, "the report")
        assert send(sentinel, "GET", "/health/ready").status == 200
    finally:
        if how == "gone":
            simulators.zion_server.start()
            simulators.openai_server.start()
    sentinel.kill()


def test_a_crowd_of_health_checks_asks_each_dependency_once(stack: Stack) -> None:
    """However often /health is called, Zion and the provider are asked once in a few seconds."""
    sentinel = stack.sentinel()
    provider = stack.simulators.openai.calls
    before = len(provider)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: send(sentinel, "GET", "/health").status, range(60)))
    assert set(answers) == {200}
    assert len(provider) - before <= 1
    sentinel.kill()


def test_health_is_unhealthy_without_redis() -> None:
    """Without Redis nothing is admitted: 503 from /health and /health/ready, though not from /health/live."""
    with Stack() as stack:
        sentinel = stack.sentinel()
        local = stack.sentinel(REDIS_DOWN="local", SPOOL_DIR=str(stack.folder / "spool-2"))
        stack.store.kill()
        wait_until(lambda: send(sentinel, "GET", "/health").status == 503)
        report = send(sentinel, "GET", "/health").json
        assert (report["status"], report["checks"]["redis"]["status"]) == ("unhealthy", "unhealthy")
        ready = send(sentinel, "GET", "/health/ready")
        assert (ready.status, ready.json) == (503, {"status": "unhealthy"})
        live = send(sentinel, "GET", "/health/live")
        assert (live.status, live.json) == (200, {"status": "healthy"})
        wait_until(lambda: states(local)["redis"] == "unhealthy")
        assert (states(local)["code"], states(local)["status"]) == (200, "degraded")
        assert send(local, "GET", "/health/ready").status == 200
        assert send(sentinel, "GET", "/metrics").status == 200
        stack.store.start()
        wait_until(lambda: send(sentinel, "GET", "/health/ready").status == 200)
        assert states(sentinel)["redis"] == "healthy"


# ---------------------------------------------------------------------------------------------------------- metrics


def test_metrics_have_the_names_that_dashboards_know(sentinel: SentinelProcess, token: str) -> None:
    """After one answer, one stream and one without usage, every metric of the older implementation has its sample."""
    assert post(sentinel, token, chat("[[tokens=3]]")).status == 200
    assert post(sentinel, token, chat("[[tokens=3]]", stream=True)).status == 200
    assert post(sentinel, token, chat("[[tokens=3 no_usage=1]]")).status == 200
    assert post(sentinel, token, chat("[[status=500]]")).status == 502
    assert post(sentinel, token, b"{").status == 400
    answer = send(sentinel, "GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    expected = {
        'sentinel_requests_total{model="gpt-4o-mini",status="success"} 2.0',
        'sentinel_requests_total{model="gpt-4o-mini",status="streaming"} 1.0',
        'sentinel_requests_total{model="gpt-4o-mini",status="error"} 1.0',
        'sentinel_requests_total{model="other",status="refused"} 1.0',
        'sentinel_tokens_processed_total{model="gpt-4o-mini",type="completion"} 9.0',
        'sentinel_token_estimation_fallback_total{model="gpt-4o-mini"} 1.0',
        'sentinel_request_duration_seconds_count{model="gpt-4o-mini"} 4.0',
        'sentinel_request_duration_seconds_bucket{le="+Inf",model="gpt-4o-mini"} 4.0',
        'sentinel_token_estimation_diff_count{model="gpt-4o-mini"} 2.0',
        'sentinel_token_estimation_diff_pct_count{model="gpt-4o-mini"} 2.0',
        'sentinel_errors_total{code="upstream_error"} 1.0',
        'sentinel_errors_total{code="invalid_json"} 1.0',
    }

    def missing() -> set[str]:
        return expected - set(send(sentinel, "GET", "/metrics").body.decode().splitlines())

    wait_until(lambda: not missing(), "all samples")
    text = send(sentinel, "GET", "/metrics").body.decode()
    assert re.search(r'sentinel_tokens_processed_total\{model="gpt-4o-mini",type="prompt"\} [1-9]', text)
    assert len(re.findall(r'sentinel_request_duration_seconds_bucket\{le="[0-9.]+",model="gpt-4o-mini"\}', text)) > 5


def test_the_model_label_is_bounded(sentinel: SentinelProcess, token: str) -> None:
    """Names that the provider does not list share one label, however many clients invent."""
    for index in range(30):
        post(sentinel, token, chat(model=f"invented-{index}"))
    wait_until(lambda: sentinel.metric('sentinel_requests_total{model="other",status="error"}') >= 30, "30 errors")
    assert b"invented" not in send(sentinel, "GET", "/metrics").body


def test_gauges_tell_what_goes_on(sentinel: SentinelProcess, token: str) -> None:
    """Requests in flight are counted while they are."""
    thread = threading.Thread(target=post, args=(sentinel, token, chat("[[tokens=1 first_delay=1.5]]")))
    thread.start()
    wait_until(lambda: sentinel.metric("sentinel_requests_in_flight ") == 1, "one request in flight")
    thread.join()
    wait_until(lambda: sentinel.metric("sentinel_requests_in_flight ") == 0, "none in flight")
    for name in ("sentinel_outbox_depth ", "sentinel_outbox_age_seconds ", "sentinel_degraded "):
        assert any(line.startswith(name) for line in send(sentinel, "GET", "/metrics").body.decode().splitlines())


# ---------------------------------------------------------------------------------------------------- administration


def test_administration_is_off_without_a_key(sentinel: SentinelProcess, token: str) -> None:
    """Nobody is an operator where no ADMIN_KEY is set."""
    answer = send(sentinel, "POST", "/admin/users/ext-1/refresh", token)
    assert answer.is_error(403, "access_denied")


def test_administration_wants_its_key(stack: Stack, token: str) -> None:
    """A caller's token is not enough; the key refreshes a user."""
    sentinel = stack.sentinel(ADMIN_KEY="operators-key")
    path = "/admin/users/ana/refresh"
    assert send(sentinel, "POST", path).is_error(401, "missing_api_key")
    for wrong in (token, "operators-ke", "operators-key-"):
        assert send(sentinel, "POST", path, wrong).is_error(401, "invalid_api_key")
    assert send(sentinel, "POST", path, "operators-key").json == {"user": "ana", "refreshed": True}
    for nobody in ("nobody", "%2E%2E", "."):
        answer = send(sentinel, "POST", f"/admin/users/{nobody}/refresh", "operators-key")
        assert answer.is_error(404, "user_not_found")
    asked = [call.path for call in stack.simulators.zion.calls if call.path.startswith("/api/v1/limits")]
    assert asked[-1].endswith("/nobody")
    assert send(sentinel, "GET", path, "operators-key").is_error(405, "method_not_allowed")
    sentinel.kill()


# ------------------------------------------------------------------------------------------------------ the log line


FIELDS = {
    *("request_id", "upstream_request_id", "user_id", "model", "route", "stream", "status", "outcome", "error"),
    *("input_tokens", "output_tokens", "tokens_from", "total_ms", "provider_ms", "overhead_ms", "first_byte_ms"),
    *("timestamp", "event", "level"),
}


def line_of(sentinel: SentinelProcess, request_id: str) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        lines = [line for line in sentinel.log() if line.get("event") == "request" and line["request_id"] == request_id]
        assert len(lines) <= 1
        return lines[0] if lines else None

    line: dict[str, Any] = wait_until(found, "the log line")
    return line


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_leaves_one_line_with_everything(stack: Stack, sentinel: SentinelProcess, stream: bool) -> None:
    """Who, what, how much, where the numbers come from, and where the time went."""
    _, token = stack.user("logged@corp.test", external_id="ext-logged")
    answer = post(sentinel, token, chat("[[tokens=4 first_delay=0.3 delay=0.1]]", stream=stream))
    line = line_of(sentinel, answer.headers["x-request-id"])
    assert line.keys() >= FIELDS
    assert line["upstream_request_id"] == answer.headers["x-upstream-request-id"]
    assert (line["user_id"], line["model"], line["route"]) == ("ext-logged", "gpt-4o-mini", CHAT)
    assert (line["status"], line["outcome"], line["error"], line["stream"]) == (200, "ok", None, stream)
    assert (line["output_tokens"], line["tokens_from"]) == (4, "provider")
    assert line["input_tokens"] > 0
    assert 500 < line["provider_ms"] <= line["total_ms"] < 3000
    assert 0 <= line["overhead_ms"] < 250
    assert 0 < line["first_byte_ms"] <= line["total_ms"]
    assert datetime.fromisoformat(line["timestamp"]).utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (chat("[[tokens=2 no_usage=1]]"), {"status": 200, "outcome": "ok", "tokens_from": "count", "output_tokens": 2}),
        (chat("[[status=500]]"), {"status": 502, "outcome": "upstream_error", "error": "upstream_error"}),
        (chat("[[status=404]]"), {"status": 404, "outcome": "upstream_error", "tokens_from": "none"}),
        (chat("[[tokens=9 break_after=3]]", stream=True), {"status": 200, "outcome": "broken", "output_tokens": 3}),
        (b"{", {"status": 400, "outcome": "refused", "error": "invalid_json", "tokens_from": "none", "model": ""}),
    ],
    ids=["counted", "500", "404", "broken", "bad"],
)
def test_a_line_tells_how_it_ended(
    sentinel: SentinelProcess, token: str, body: bytes | dict[str, Any], expected: dict[str, Any]
) -> None:
    """Each kind of end has its outcome, its status and the source of its numbers."""
    line = line_of(sentinel, post(sentinel, token, body).headers["x-request-id"])
    assert {name: line[name] for name in expected} == expected


def test_a_stranger_leaves_a_line_without_a_user(sentinel: SentinelProcess) -> None:
    """A 401 is logged, too."""
    line = line_of(sentinel, post(sentinel, None, chat()).headers["x-request-id"])
    assert (line["status"], line["outcome"], line["error"], line["user_id"]) == (
        401,
        "refused",
        "missing_api_key",
        None,
    )


def test_a_client_that_leaves_is_logged_as_gone(stack: Stack, sentinel: SentinelProcess, token: str) -> None:
    """Its line has what it was charged."""
    connection = http.client.HTTPConnection("127.0.0.1", sentinel.port, timeout=PATIENCE_SECONDS)
    body = json.dumps(chat("[[tokens=500 delay=0.05]]", stream=True))
    connection.request("POST", CHAT, body, {"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    assert answer.readline().startswith(b"data: ")
    request_id = answer.headers["x-request-id"]
    answer.close()
    connection.close()
    line = line_of(sentinel, request_id)
    assert (line["status"], line["outcome"], line["tokens_from"]) == (200, "client_gone", "count")
    assert 0 <= line["output_tokens"] < 500


def test_a_long_model_name_does_not_fill_the_log(sentinel: SentinelProcess, token: str) -> None:
    """A model name of 256 characters is cut in the log, and refused by the provider; a longer one by us."""
    answer = post(sentinel, token, chat(model="m" * 256))
    assert answer.status == 404
    assert len(line_of(sentinel, answer.headers["x-request-id"])["model"]) < 200
    assert post(sentinel, token, chat(model="m" * 10_000)).status == 400


# ----------------------------------------------------------------------------------------------------------- models


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as provider:
        yield provider


def test_models_come_from_the_provider_and_are_kept(stack: Stack, provider: ScriptedProvider, token: str) -> None:
    """Its list byte for byte, asked for once a minute; and the last one while the provider is away."""
    sentinel = stack.sentinel(OPENAI_API_URL=provider.url)
    listed = [send(sentinel, "GET", "/v1/models", token) for _ in range(5)]
    assert {(answer.status, answer.body) for answer in listed} == {(200, provider.models.writes[0])}
    assert len(provider.calls) == 1
    one = send(sentinel, "GET", "/v1/models/gpt-4o-mini", token)
    assert one.json == {"id": "gpt-4o-mini", "object": "model", "created": 1, "owned_by": "system"}
    provider.__exit__()
    assert send(sentinel, "GET", "/v1/models", token).body == provider.models.writes[0]
    sentinel.kill()


def test_models_of_a_provider_that_was_never_there_are_502(
    stack: Stack, provider: ScriptedProvider, token: str
) -> None:
    """No list was ever had: an error, again and again, until the provider comes."""
    provider.__exit__()
    sentinel = stack.sentinel(OPENAI_API_URL=provider.url)
    for _ in range(3):
        assert send(sentinel, "GET", "/v1/models", token).is_error(502, "upstream_error", "server_error")
        assert send(sentinel, "GET", "/v1/models/gpt-4o-mini", token).status == 502
    provider.__enter__()
    assert send(sentinel, "GET", "/v1/models", token).status == 200
    sentinel.kill()


def test_a_broken_list_of_models_is_502(stack: Stack, provider: ScriptedProvider, token: str) -> None:
    """What is no list is not passed on as one."""
    sentinel = None
    for body in (
        b"",
        b"[]",
        b'{"data":5}',
        b'{"data":[1]}',
        b'{"data":[{"id":"\xff"}]}',
        b"<html>",
        b'{"data":' + b"[" * 10_000,
    ):
        provider.models = Script([body])
        sentinel = sentinel or stack.sentinel(OPENAI_API_URL=provider.url)
        assert send(sentinel, "GET", "/v1/models", token).is_error(502, "upstream_error", "server_error")
    assert sentinel is not None
    sentinel.kill()


def test_legacy_completions_are_served_like_chats(stack: Stack, sentinel: SentinelProcess) -> None:
    """Prompts of every form are answered, streamed or whole, and charged the provider's numbers."""
    _, token = stack.user("legacy@corp.test")
    forms: list[Any] = ["hi [[tokens=2]]", ["hi [[tokens=2]]"], [1, 2, 3], [[1, 2], [3]]]
    for prompt in forms:
        for stream in (False, True):
            body = {"model": "davinci-002", "prompt": prompt, "stream": stream}
            assert post(sentinel, token, body, COMPLETIONS).status == 200
    assert stack.booked(8, "legacy@corp.test")["ai_requests"] == 8
