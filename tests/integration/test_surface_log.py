"""Every request of every route leaves one log line, which tells what was asked for and by whom, and no secret."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.scripted import ScriptedProvider
from tests.support.stack import SentinelProcess, Stack, raw_connection
from tests.support.surface import CHAT, COMPLETIONS, chat, head, is_closed, post, read_answer, send
from tests.support.waiting import PATIENCE_SECONDS, wait_until

ADMIN_KEY = "operators-own"
PASSED = "/v1/{path}"
"""The route of what is passed through."""


@pytest.fixture(scope="module")
def sentinel(stack: Stack) -> SentinelProcess:
    return stack.sentinel(ADMIN_KEY=ADMIN_KEY, LOG_LEVEL="debug", REQUEST_HEADER_TIMEOUT_SECONDS="0.5")


def line_of(sentinel: SentinelProcess, request_id: str) -> dict[str, Any]:
    """The one line of this request, once all that came after it has been logged, too."""
    marker = send(sentinel, "GET", "/nowhere").headers["x-request-id"]

    def logged() -> list[dict[str, Any]] | None:
        lines = sentinel.ended(1)
        return lines if any(line["request_id"] == marker for line in lines) else None

    lines = [line for line in wait_until(logged) if line["request_id"] == request_id]
    assert len(lines) == 1
    found: dict[str, Any] = lines[0]
    return found


@pytest.mark.parametrize(
    ("method", "path", "who", "expected"),
    [
        ("POST", CHAT, "user", {"route": CHAT, "status": 200, "outcome": "ok"}),
        ("POST", "/v1//chat/completions/?api-version=1", "user", {"route": CHAT, "status": 200, "path": None}),
        ("POST", COMPLETIONS, None, {"route": COMPLETIONS, "status": 401, "error": "missing_api_key"}),
        ("PUT", CHAT, "user", {"route": CHAT, "status": 405, "error": "method_not_allowed", "outcome": "refused"}),
        ("PUT", CHAT, None, {"route": CHAT, "status": 401, "error": "missing_api_key", "user_id": None}),
        ("GET", CHAT, "user", {"route": PASSED, "path": CHAT, "status": 200, "outcome": "ok", "tokens_from": "none"}),
        ("GET", "/v1/files/file-0a1", "user", {"path": "/v1/files/*", "status": 404, "error": "not_found"}),
        ("GET", "/v1/models", "user", {"route": "/v1/models", "status": 200, "outcome": "ok", "path": None}),
        ("HEAD", "/v1/models", "user", {"route": "/v1/models", "status": 200, "outcome": "ok"}),
        ("GET", "/v1/models/gpt-4o", "user", {"route": "/v1/models/{model}", "status": 200, "path": None}),
        ("GET", "/v1/models/no", "user", {"status": 404, "error": "model_not_found", "outcome": "refused"}),
        ("GET", "/v1/models", None, {"route": "/v1/models", "status": 401, "user_id": None}),
        ("OPTIONS", CHAT, None, {"route": CHAT, "status": 200, "outcome": "ok", "level": "info"}),
        ("OPTIONS", "/v1/nope", None, {"route": None, "path": "/v1/nope", "status": 200, "outcome": "ok"}),
        ("POST", "/v1/chat/completion", "user", {"route": PASSED, "path": "/v1/chat/completion", "status": 404}),
        ("GET", "/v1/nope?key=s3cret", None, {"route": PASSED, "path": "/v1/nope", "status": 401}),
        ("GET", "/v1/organization", "user", {"route": None, "path": "/v1/organization", "status": 404}),
        ("DELETE", "/nope/", None, {"route": None, "path": "/nope", "status": 404, "error": "unknown_url"}),
        ("GET", "/health", None, {"route": "/health", "status": 200, "level": "debug"}),
        ("GET", "/health/ready", None, {"route": "/health/ready", "level": "debug"}),
        ("GET", "/health/live/", None, {"route": "/health/live", "level": "debug"}),
        ("GET", "/metrics", None, {"route": "/metrics", "status": 200, "level": "debug"}),
        ("POST", "/admin/users/ana/refresh", "admin", {"route": "/admin/users/{user}/refresh", "status": 200}),
        ("POST", "/admin/users/ana/refresh", "user", {"status": 401, "error": "invalid_api_key", "user_id": None}),
    ],
)
def test_each_request_leaves_one_line(
    sentinel: SentinelProcess, token: str, method: str, path: str, who: str | None, expected: dict[str, Any]
) -> None:
    """What was asked for, by whom and how it ended; of level debug where machines ask every few seconds."""
    key = {"user": token, "admin": ADMIN_KEY, None: None}[who]
    body = {**chat("[[tokens=1]]"), "prompt": "hi"} if method == "POST" and "/v1/" in path else None
    answer = send(sentinel, method, path, key, body, User_Agent="tests/1.0")
    line = line_of(sentinel, answer.headers["x-request-id"])
    assert {name: line[name] for name in expected} == expected
    assert (line["method"], line["client"], line["user_agent"]) == (method, "127.0.0.1", "tests/1.0")
    assert line["status"] == answer.status
    assert line["total_ms"] > 0
    if answer.status == 200 and who == "user":
        assert line["user_id"] == "ana"


def test_health_is_not_logged_at_info(stack: Stack) -> None:
    """Probes do not fill the log."""
    sentinel = stack.sentinel()
    for path in ("/health", "/health/ready", "/health/live", "/metrics"):
        assert send(sentinel, "GET", path).status == 200
    answer = send(sentinel, "GET", "/nowhere")
    line_of(sentinel, answer.headers["x-request-id"])
    assert {line["route"] for line in sentinel.ended()} == {None}
    sentinel.kill()


@pytest.mark.parametrize(
    ("sent", "status", "code", "path"),
    [
        (b"NONSENSE\r\n\r\n", 400, "invalid_json", None),
        (head("/v1/nope?key=s3cret", "GET", [f"large: {'x' * 70_000}"]), 431, "request_headers_too_large", "/v1/nope"),
        (b"GET /v1/sk-12345 HTTP/1.1\r\nuser-agent: slow/1\r\naccept: x\r\n", 408, "request_timeout", "/v1/*"),
    ],
    ids=["no-http", "large", "slow"],
)
def test_what_was_refused_before_it_was_a_request_has_the_same_line(
    sentinel: SentinelProcess, sent: bytes, status: int, code: str, path: str | None
) -> None:
    """With the fields of all others, and counted like all errors."""
    errors = f'sentinel_errors_total{{code="{code}"}}'
    before = sentinel.metric(errors)
    with raw_connection(sentinel) as connection:
        connection.sendall(sent)
        answer = read_answer(connection)
    assert answer.status == status
    line = line_of(sentinel, answer.headers["x-request-id"])
    told = (line["status"], line["error"], line["outcome"], line["client"], line["route"], line["path"])
    assert told == (status, code, "refused", "127.0.0.1", None, path)
    assert line["user_agent"] == ("slow/1" if status == 408 else None)
    assert sentinel.metric(errors) == before + 1


def test_a_body_that_breaks_off_leaves_one_line(sentinel: SentinelProcess, token: str) -> None:
    """The answer's id is that of the line, and the line has the answer's status."""
    with raw_connection(sentinel) as connection:
        connection.sendall(head(headers=[f"authorization: Bearer {token}", "transfer-encoding: chunked"]) + b"zz\r\n")
        answer = read_answer(connection)
        assert is_closed(connection)
    line = line_of(sentinel, answer.headers["x-request-id"])
    assert (answer.status, line["status"], line["error"]) == (400, 400, "invalid_json")
    assert line["outcome"] == "refused"
    assert [other["request_id"] for other in sentinel.ended()].count(line["request_id"]) == 1


def test_headers_that_name_another_client_are_not_read(sentinel: SentinelProcess) -> None:
    """Anybody can write X-Forwarded-For."""
    answer = send(
        sentinel, "GET", "/nowhere", X_Forwarded_For="10.1.2.3", Forwarded="for=10.1.2.3", X_Real_Ip="1.2.3.4"
    )
    assert line_of(sentinel, answer.headers["x-request-id"])["client"] == "127.0.0.1"


def test_no_secret_reaches_the_log_by_a_path(stack: Stack, sentinel: SentinelProcess) -> None:
    """Whatever was pasted into a URL: tokens, keys, addresses, prompts; plain, encoded, cut, or after a `?`."""
    _, token = stack.user("pasted@corp.test", external_id="ext-pasted")
    forms = (
        *(f"/v1/{token}", f"/{token}/chat/completions", f"/v1/chat/completions/{token}", f"/v1/models/{token}"),
        *(f"/v1/x?api_key={token}", f"/{ADMIN_KEY}", f"/v1/{ADMIN_KEY}/x", f"/{stack.simulators.openai_key}"),
        *(
            f"/{stack.simulators.zion_key}",
            "/users/pasted@corp.test",
            "/users/pasted%40corp.test",
            "/my%20prompt%20here",
        ),
        *(
            "/" + "a/" * 95 + token,
            "/v1//" + token + "/",
            "/%2F" + token.replace(".", "%2e"),
            "/v1/models/" + "x" * 9_000,
        ),
    )
    ids = []
    for path in forms:
        for method in ("GET", "POST", "OPTIONS"):
            for key in (None, token):
                ids.append(send(sentinel, method, path, key).headers["x-request-id"])  # noqa: PERF401
    send(sentinel, "GET", "/nowhere", User_Agent=f"me (pasted@corp.test) {token}")
    line_of(sentinel, ids[-1])
    assert {line["request_id"] for line in sentinel.ended()} >= set(ids)
    written = "".join((sentinel.folder / name).read_text() for name in ("stdout", "stderr"))
    secrets = [token, *token.split("."), ADMIN_KEY, stack.simulators.openai_key, stack.simulators.zion_key]
    secrets += ["pasted@", "%40corp", "prompt", "xxxxxxxx", token[:12]]
    assert [secret for secret in secrets if secret in written] == []


def test_a_failure_of_ours_has_its_line(stack: Stack, token: str) -> None:
    """Redis is gone: the line of a list of models tells what its answer told."""
    with Stack() as other:
        sentinel = other.sentinel()
        _, token = other.user("ana@corp.test")
        assert send(sentinel, "GET", "/v1/models", token).status == 200
        other.store.kill()
        answer = wait_until(
            lambda: found if (found := send(sentinel, "GET", "/v1/models", token)).status == 503 else None
        )
        line = line_of(sentinel, answer.headers["x-request-id"])
        assert (line["status"], line["error"], line["outcome"]) == (503, "service_unavailable", "error")
        assert (line["user_id"], line["route"]) == ("ana", "/v1/models")


def test_a_request_that_the_shutdown_ends_has_its_line(stack: Stack, token: str) -> None:
    """A caller who waits for a model gets an answer that says why, and the line says it, too."""
    sentinel = stack.sentinel(SHUTDOWN_GRACE_SECONDS="1")
    assert send(sentinel, "GET", "/v1/models", token).status == 200
    simulator = stack.simulators.openai
    simulator.faults.set(hang=True)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(send, sentinel, "GET", "/v1/models/unlisted", token)
        wait_until(lambda: any("unlisted" in call.path for call in list(simulator.calls)))
        assert sentinel.stop() == 0
        answer = waiting.result()
    simulator.faults.clear()
    assert answer.is_error(503, "service_unavailable", "server_error")
    (line,) = (line for line in sentinel.ended() if line["request_id"] == answer.headers["x-request-id"])
    assert (line["status"], line["outcome"], line["user_id"]) == (503, "shutdown", "ana")


def test_an_escape_sequence_does_not_reach_a_terminal(sentinel: SentinelProcess) -> None:
    """A user agent with control characters of both kinds is written with none."""
    with raw_connection(sentinel) as connection:
        connection.sendall(b"GET /nowhere HTTP/1.1\r\nhost: a\r\nuser-agent: a\x9b2J\tb\xff\r\n\r\n")
        answer = read_answer(connection)
    assert line_of(sentinel, answer.headers["x-request-id"])["user_agent"] == "a?2J?bÿ"
    assert all(char >= 0x20 for char in (sentinel.folder / "stdout").read_bytes() if char != 0x0A)


def test_a_chat_has_the_fields_of_all_lines(stack: Stack, sentinel: SentinelProcess, token: str) -> None:
    """Hot and other routes have lines of one shape."""
    lines = [
        line_of(sentinel, answer.headers["x-request-id"])
        for answer in (post(sentinel, token, chat("[[tokens=1]]")), send(sentinel, "GET", "/health"))
    ]
    assert list(lines[0]) == list(lines[1])
    assert [line["finish_reason"] for line in lines] == ["stop", None]


def test_a_failure_of_the_provider_has_its_line(stack: Stack, token: str) -> None:
    """It is told apart from ours."""
    with ScriptedProvider() as provider:
        provider.__exit__()
        sentinel = stack.sentinel(OPENAI_API_URL=provider.url)
        answer = send(sentinel, "GET", "/v1/models", token)
        line = line_of(sentinel, answer.headers["x-request-id"])
        assert (line["status"], line["error"], line["outcome"]) == (502, "upstream_error", "upstream_error")
        sentinel.kill()
        provider.__enter__()


def test_connections_that_say_nothing_leave_no_line(sentinel: SentinelProcess) -> None:
    """They are no requests."""
    marker = send(sentinel, "GET", "/nowhere").headers["x-request-id"]
    line_of(sentinel, marker)
    before = len(sentinel.ended())
    with socket.create_connection(("127.0.0.1", sentinel.port), timeout=PATIENCE_SECONDS):
        pass
    with raw_connection(sentinel) as connection:
        connection.sendall(b"\r\n")
    line_of(sentinel, send(sentinel, "GET", "/nowhere").headers["x-request-id"])
    assert len(sentinel.ended()) == before + 2
