"""Headers of answers, CORS, and what must stay on its side (P4)."""

from __future__ import annotations

import json
import time
from datetime import datetime
from threading import Thread

import pytest

from tests.support.client import Answer, events
from tests.support.stack import SentinelProcess, Stack, raw_connection
from tests.support.surface import CHAT, COMPLETIONS, RESPONSES, STORES, asked, chat, head, post, read_answer, send
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_faults")

RATE = ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")
NAMES = ("requests", "input-tokens", "output-tokens")
WINDOWS = "ai_requests=1000/60s,ai_input_tokens=900000/60s,ai_output_tokens=800000/1h"


@pytest.fixture(scope="module")
def sentinel(stack: Stack) -> SentinelProcess:
    return stack.sentinel(RATE_LIMITS=WINDOWS, LOG_LEVEL="debug", MAX_BODY_BYTES="100000")


# ------------------------------------------------------------------------------------------------ headers of answers


def has_rate_headers(answer: Answer) -> bool:
    limit, remaining, reset = (int(answer.headers[name]) for name in RATE)
    assert 0 <= remaining < limit
    assert time.time() < reset < time.time() + 3600 + 62
    for name, most in zip(NAMES, (1000, 900_000, 800_000), strict=True):
        assert int(answer.headers[f"x-ratelimit-limit-{name}"]) == most
        assert 0 <= int(answer.headers[f"x-ratelimit-remaining-{name}"]) <= most
        assert answer.headers[f"x-ratelimit-reset-{name}"][-1] in "smh"
    return True


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_carries_its_headers(sentinel: SentinelProcess, token: str, path: str, stream: bool) -> None:
    """Ids, our own time and the rate limits are on answers and streams alike."""
    started = time.monotonic()
    answer = post(sentinel, token, asked(path, stream=stream), path)
    took_ms = (time.monotonic() - started) * 1000
    assert answer.status == 200
    assert answer.headers["x-upstream-request-id"].startswith("req_")
    assert answer.headers["x-upstream-request-id"] != answer.headers["x-request-id"]
    assert 0 <= float(answer.headers["x-sentinel-overhead-ms"]) <= took_ms
    assert answer.headers["openai-processing-ms"] == "41"
    assert has_rate_headers(answer)
    if stream:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-accel-buffering"] == "no"
        assert "content-encoding" not in answer.headers


def test_every_request_has_an_id_of_its_own(sentinel: SentinelProcess, token: str) -> None:
    """Ids differ, whatever the client sends as its own."""
    ids = {post(sentinel, token, chat("[[tokens=1]]"), X_Request_Id="mine").headers["x-request-id"] for _ in range(5)}
    assert len(ids) == 5
    assert "mine" not in ids


def test_the_request_id_is_the_same_everywhere(stack: Stack, sentinel: SentinelProcess, token: str) -> None:
    """The client, the log and the provider know a request by one name."""
    answer = post(sentinel, token, chat("[[tokens=1]]"))
    name = answer.headers["x-request-id"]
    assert stack.simulators.openai.calls[-1].headers["x-request-id"] == name
    line = wait_until(lambda: next((line for line in sentinel.ended() if line["request_id"] == name), None))
    assert line["upstream_request_id"] == answer.headers["x-upstream-request-id"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 404, 429, 500, 401])
def test_the_providers_errors_carry_the_headers_too(
    stack: Stack, sentinel: SentinelProcess, token: str, status: int, stream: bool
) -> None:
    """What passed the limiter has rate headers, and what reached the provider has its id, whatever the outcome."""
    answer = post(sentinel, token, chat(f"[[status={status}]]", stream=stream))
    assert answer.status == (502 if status in (401, 500) else status)
    assert has_rate_headers(answer)
    assert answer.headers["x-upstream-request-id"].startswith("req_")
    assert float(answer.headers["x-sentinel-overhead-ms"]) >= 0


def test_models_carry_the_rate_limits_too(sentinel: SentinelProcess, token: str) -> None:
    """GET /v1/models passes the limiter like any other request of a caller."""
    first, second = (send(sentinel, "GET", "/v1/models", token) for _ in range(2))
    assert has_rate_headers(first)
    name = "x-ratelimit-remaining-requests"
    assert int(second.headers[name]) == int(first.headers[name]) - 1
    assert has_rate_headers(send(sentinel, "GET", "/v1/models/nope", token))


def test_remaining_falls_by_what_was_used(stack: Stack, sentinel: SentinelProcess) -> None:
    """One request less after each; what a request reserved and did not use is there again for the next."""
    _, token = stack.user("counting@corp.test")
    answers = [post(sentinel, token, chat("[[tokens=10]]", max_tokens=1000)) for _ in range(3)]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["999", "998", "997"]
    left = [int(answer.headers["x-ratelimit-remaining-output-tokens"]) for answer in answers]
    assert left == [799_000, 798_990, 798_980]


def test_what_did_not_pass_the_limiter_has_no_rate_headers(sentinel: SentinelProcess) -> None:
    """A 401 tells nothing about limits."""
    assert not set(RATE) & post(sentinel, None, chat()).headers.keys()


def test_without_rate_limits_there_are_no_rate_headers(stack: Stack, token: str) -> None:
    """An installation without windows invents no numbers."""
    answer = post(stack.sentinel(), token, chat("[[tokens=1]]"))
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]


# -------------------------------------------------------------------------------------------------------------- 429


def limited(answer: Answer, metric: str, limit: int, kind: str = "requests") -> dict[str, object]:
    assert answer.is_error(429, "rate_limit_exceeded", kind)
    details: dict[str, object] = answer.error["details"]
    assert details.keys() == {"limit_type", "metric", "limit", "used", "remaining", "reset_at"}
    assert (details["metric"], details["limit"]) == (metric, limit)
    assert details["limit_type"] == ("concurrency" if metric == "concurrency" else "window")
    assert answer.headers["x-sentinel-limited-by"] == details["limit_type"]
    assert int(answer.headers["retry-after"]) >= 1
    return details


def test_a_full_window_is_told_in_full(stack: Stack) -> None:
    """The third of two requests a minute: 429 with details, Retry-After and remaining 0."""
    sentinel, (_, token) = stack.sentinel(RATE_LIMITS="ai_requests=2/60s"), stack.user("eager@corp.test")
    assert [post(sentinel, token, chat("[[tokens=1]]")).status for _ in range(2)] == [200, 200]
    for _ in range(3):  # Knocking changes nothing.
        answer = post(sentinel, token, chat())
        details = limited(answer, "ai_requests", 2)
        assert (details["used"], details["remaining"]) == (2, 0)
        reset_at = datetime.fromisoformat(str(details["reset_at"]))
        assert reset_at.tzinfo is not None
        assert 0 < reset_at.timestamp() - time.time() < 62
        assert int(answer.headers["retry-after"]) <= 62
        assert (answer.headers[RATE[0]], answer.headers[RATE[1]]) == ("2", "0")
    assert post(sentinel, token, b"{").status == 400
    assert send(sentinel, "GET", "/v1/models", token).status == 429


def test_a_prompt_larger_than_the_window_says_so(stack: Stack) -> None:
    """Input that can never fit is a 429 of type tokens that SDKs do not retry."""
    sentinel, (_, token) = stack.sentinel(RATE_LIMITS="ai_input_tokens=20/60s"), stack.user("wordy@corp.test")
    answer = post(sentinel, token, chat("word " * 50))
    limited(answer, "ai_input_tokens", 20, "tokens")
    assert answer.headers["x-should-retry"] == "false"
    assert post(sentinel, token, chat("hi")).status == 200


def test_too_many_at_once_is_a_429_of_requests(stack: Stack) -> None:
    """Concurrency counts requests in flight."""
    sentinel, (_, token) = stack.sentinel(RATE_LIMITS="concurrency=1"), stack.user("parallel@corp.test")
    slow = Thread(target=post, args=(sentinel, token, chat("[[tokens=1 first_delay=1]]")))
    slow.start()
    try:
        wait_until(lambda: any(b"first_delay=1]" in call.raw for call in stack.simulators.openai.calls))
        details = limited(post(sentinel, token, chat()), "concurrency", 1)
        assert (details["used"], details["remaining"]) == (1, 0)
    finally:
        slow.join()
    assert post(sentinel, token, chat("[[tokens=1]]")).status == 200


@pytest.mark.parametrize("metric", ["ai_requests", "ai_input_tokens", "ai_output_tokens"])
@pytest.mark.parametrize("shape", ["A", "C"])
def test_a_used_up_subscription_is_insufficient_quota(
    stack: Stack, sentinel: SentinelProcess, metric: str, shape: str
) -> None:
    """The subscription's 429 tells SDKs not to come back, whichever way Zion words its limits."""
    zion = stack.simulators.zion
    zion.limit_shape = shape  # type: ignore[assignment]
    try:
        _, token = stack.user(f"poor-{metric}-{shape}@corp.test", limits={metric: 100}, used={metric: 100})
        answer = post(sentinel, token, chat())
    finally:
        zion.limit_shape = "C"
    assert answer.is_error(429, "insufficient_quota", "insufficient_quota")
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
    details = answer.error["details"]
    assert details["limit_type"] == answer.headers["x-sentinel-limited-by"] == "quota"
    # The window is as good as new, and nobody shall take it for what is left.
    assert int(answer.headers["x-ratelimit-remaining"]) > 0
    assert answer.headers[f"x-sentinel-quota-remaining-{metric.removeprefix('ai_').replace('_', '-')}"] == "0"
    assert (details["metric"], details["limit"], details["used"], details["remaining"]) == (metric, 100, 100, 0)


# ------------------------------------------------------------------------------------------------------------- CORS


@pytest.mark.parametrize("path", [CHAT, STORES, "/v1/models", "/v1/none", "/health", "/metrics", "/", "/no/where"])
def test_a_preflight_needs_no_token(stack: Stack, sentinel: SentinelProcess, path: str) -> None:
    """Browsers ask before they send a token; any path answers."""
    answer = send(
        sentinel,
        "OPTIONS",
        path,
        Origin="https://app.test",
        Access_Control_Request_Method="POST",
        Access_Control_Request_Headers="authorization, content-type, x-stainless-os",
    )
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == "authorization, content-type, x-stainless-os"


@pytest.mark.parametrize("asked", [("POST", CHAT), ("GET", "/v1/models"), ("GET", "/health"), ("GET", "/nope")])
def test_scripts_may_read_our_headers(sentinel: SentinelProcess, token: str, asked: tuple[str, str]) -> None:
    """Answers and errors allow every origin by default, and expose ids and rate limits."""
    method, path = asked
    for given in (token, None):
        body = chat("[[tokens=1]]") if method == "POST" else None
        answer = send(sentinel, method, path, given, body, Origin="https://app.test")
        assert answer.headers["access-control-allow-origin"] == "*"
        exposed = answer.headers["access-control-expose-headers"].split(", ")
        ours = ("x-ratelimit", "x-request", "x-upstream", "x-sentinel", "retry")
        sent = {name for name in answer.headers if name.startswith(ours)}
        assert sent <= set(exposed)


def test_named_origins_alone_are_allowed(stack: Stack, token: str) -> None:
    """With CORS_ORIGINS set, other origins get no permission, and caches are told that answers differ."""
    sentinel = stack.sentinel(CORS_ORIGINS="https://a.test, http://b.test:3000")
    for origin in ("https://a.test", "http://b.test:3000"):
        for method, path in (("GET", "/v1/models"), ("OPTIONS", CHAT)):
            answer = send(sentinel, method, path, token, Origin=origin)
            assert answer.headers["access-control-allow-origin"] == origin
            assert answer.headers["vary"] == "origin"
    for origin in ("https://evil.test", "null", "", "https://a.test.evil.test", "HTTPS://A.TEST"):
        for method, path in (("GET", "/v1/models"), ("OPTIONS", CHAT)):
            answer = send(sentinel, method, path, token, Origin=origin)
            assert "access-control-allow-origin" not in answer.headers
            assert answer.headers["vary"] == "origin"
    assert "access-control-allow-origin" not in send(sentinel, "GET", "/v1/models", token).headers


# ---------------------------------------------------------------------------------------------------------- secrets


def test_a_slow_body_is_not_our_time(sentinel: SentinelProcess, token: str) -> None:
    """x-sentinel-overhead-ms is without the wait for the client."""
    body = json.dumps(chat("[[tokens=1]]")).encode()
    with raw_connection(sentinel) as connection:
        connection.sendall(head(headers=[f"authorization: Bearer {token}", f"content-length: {len(body)}"]))
        time.sleep(0.6)  # What the client does, not what the test waits for.
        started = time.monotonic()
        connection.sendall(body)
        answer = read_answer(connection)
        took_ms = (time.monotonic() - started) * 1000
    assert answer.status == 200
    # What is done before the body comes takes less than half of the wait for it.
    assert float(answer.headers["x-sentinel-overhead-ms"]) < took_ms + 300


def test_nothing_of_the_client_but_the_allowed_reaches_the_provider(
    stack: Stack, sentinel: SentinelProcess, token: str
) -> None:
    """The provider sees our key, the allow-listed headers and our request id; no token, cookie or other header."""
    answer = post(
        sentinel,
        token,
        chat("[[tokens=1]]"),
        Cookie="session=cookie-secret",
        X_Custom="custom-secret",
        X_Forwarded_For="10.1.2.3",
        X_Api_Key="other-secret",
        OpenAI_Organization="org-client",
        OpenAI_Beta="assistants=v2",
        Idempotency_Key="key-1",
        User_Agent="caf\xe9/1.0",
        Accept="application/json",
        Accept_Encoding="gzip, br",
        Proxy_Authorization="Basic cHc=",
    )
    assert answer.status == 200
    seen = stack.simulators.openai.calls[-1].headers
    assert seen.keys() == {
        *("authorization", "content-type", "accept", "user-agent", "openai-beta", "idempotency-key", "x-request-id"),
        *("host", "content-length", "accept-encoding"),
    }
    assert seen["accept-encoding"] == "identity"
    assert seen["authorization"] == f"Bearer {stack.simulators.openai_key}"
    assert seen["openai-beta"] == "assistants=v2"
    assert seen["content-type"] == "application/json"


def test_users_do_not_share_idempotency_keys(stack: Stack, sentinel: SentinelProcess, token: str) -> None:
    """At the provider all are one account; so a user's key is told as the user's own, the same each time."""

    def told(token: str, key: str) -> str:
        assert post(sentinel, token, chat("[[tokens=1]]"), Idempotency_Key=key).status == 200
        return str(stack.simulators.openai.calls[-1].headers["idempotency-key"])

    _, other = stack.user("bob@corp.test")
    mine = told(token, "1")
    assert mine == told(token, "1")
    assert len({mine, told(other, "1"), told(token, "2"), "1"}) == 4


@pytest.mark.parametrize("given", [None, "application/json; charset=utf-8", "text/plain", "multipart/form-data"])
def test_what_was_read_as_json_is_sent_as_json(
    stack: Stack, sentinel: SentinelProcess, token: str, given: str | None
) -> None:
    """Whatever the client calls its body, the provider reads what we have read."""
    headers = {} if given is None else {"Content-Type": given}
    assert post(sentinel, token, chat("[[tokens=1]]"), **headers).status == 200
    assert stack.simulators.openai.calls[-1].headers["content-type"] == "application/json"


@pytest.mark.parametrize("text", ["[[tokens=1]]", "[[status=429]]", "[[status=500]]", "[[status=401]]"])
@pytest.mark.parametrize("stream", [False, True])
def test_nothing_of_the_providers_account_reaches_the_client(
    stack: Stack, sentinel: SentinelProcess, token: str, text: str, stream: bool
) -> None:
    """No organisation, project, cookie, edge or rate limit header of the provider passes, nor its key."""
    answer = post(sentinel, token, chat(text, stream=stream))
    assert not {name for name in answer.headers if name.startswith(("openai-org", "openai-proj", "set-cookie", "cf-"))}
    assert not {"server", "strict-transport-security", "x-ratelimit-limit-tokens"} & answer.headers.keys()
    assert answer.headers["x-ratelimit-limit-requests"] == "1000"
    everything = f"{answer.headers}{answer.body!r}"
    for secret in (stack.simulators.openai_key, stack.simulators.zion_key, "org-simulator", "__cf_bm", "sk-sim"):
        assert secret not in everything


def test_zion_sees_the_token_or_our_key_never_both(stack: Stack, sentinel: SentinelProcess) -> None:
    """users/me gets the caller's token alone, everything else our key alone."""
    _, token = stack.user("both@corp.test")
    assert post(sentinel, token, chat("[[tokens=1]]")).status == 200
    stack.booked(1, "both@corp.test")
    for call in list(stack.simulators.zion.calls):
        if call.path.endswith("/users/me"):
            assert call.headers["authorization"].startswith("Bearer ")
            assert "x-api-key" not in call.headers
        elif call.path.startswith("/api/"):
            assert call.headers["x-api-key"] == stack.simulators.zion_key
            assert "authorization" not in call.headers


def test_logs_hold_no_secret(stack: Stack, sentinel: SentinelProcess) -> None:
    """Whatever happens, at the most talkative level: no prompt, answer, token, key, e-mail or word of Zion's."""
    _, token = stack.user("private.person@corp.test", external_id="ext-1")
    prompt = "my-prompt-is-a-secret"
    for text in (
        "",
        "[[tokens=9]]",
        "[[status=500]]",
        "[[status=400]]",
        "[[tokens=9 break_after=3]]",
        "[[bad_line=1]]",
    ):
        for stream in (False, True):
            post(sentinel, token, chat(f"{prompt} {text}", stream=stream), Cookie="my-cookie-secret")
    post(sentinel, token, b'{"model":"m","messages":[{"role":"my-prompt-is-a-secret')
    post(sentinel, token, chat(messages=[{"role": prompt, "content": 5}]))
    send(sentinel, "GET", f"/v1/models/nope?key={prompt}", token)
    send(sentinel, "GET", "/v1/x", "forged-token-secret")
    stack.simulators.zion.faults.set(status=500, path_prefix="/api/v1/users/me")
    _, other = stack.user("other.person@corp.test", external_id="ext-2")
    assert post(sentinel, other, chat(prompt)).status == 503
    stack.simulators.zion.faults.set(status=500, path_prefix="/api/v1/usage")
    post(sentinel, token, chat("[[tokens=1]]"))
    reports = stack.simulators.zion.calls
    before = len(reports)
    wait_until(lambda: any("/usage/" in call.path for call in list(reports)[before:]), "a failed report")
    stack.simulators.zion.faults.clear()
    stack.booked(5, "private.person@corp.test")
    # Any of the processes on this store may have sent that report.
    files = [process.folder / name for process in stack.sentinels for name in ("stdout", "stderr")]
    written = "".join(file.read_text() for file in files)
    assert '"event":"request"' in written
    secrets = (
        *("my-prompt", "my-cookie", "forged-token", "zion-db-7.internal", "@corp.test", "private.person"),
        *(token, token.split(".")[1], other, stack.simulators.openai_key, stack.simulators.zion_key),
        *("simulated model", "river bends", "org-simulator", "Bearer"),
    )
    assert [secret for secret in secrets if secret in written] == []
    for line in written.splitlines():
        json.loads(line)


def test_zions_words_reach_no_client(stack: Stack, sentinel: SentinelProcess) -> None:
    """What Zion says about itself stays with us, for look-ups of tokens and of limits."""
    for prefix in ("/api/v1/users/me", "/api/v1/limits"):
        for status in (400, 401, 403, 404, 429, 500, 503):
            _, token = stack.user(f"words-{prefix[-6:].replace('/', '')}-{status}@corp.test")
            stack.simulators.zion.faults.set(status=status, path_prefix=prefix)
            answer = post(sentinel, token, chat())
            assert answer.status in (401, 403, 503)
            assert answer.error["message"]
            assert b"zion-db-7.internal" not in answer.body
            assert "retry-after" in answer.headers or answer.status < 500


def test_an_event_of_a_broken_stream_tells_nothing(stack: Stack, sentinel: SentinelProcess, token: str) -> None:
    """The error that ends a stream has our words alone."""
    answer = post(sentinel, token, chat("[[tokens=9 break_after=3]]", stream=True))
    message = json.loads(events(answer.body)[-1])["error"]["message"]
    assert stack.simulators.openai_url not in message
    assert "127.0.0.1" not in message
