"""docs/openapi.yaml, served by `routes/openapi.py`, against a running Sentinel.

Schemathesis sends what the page allows and what it forbids, and holds the answers against it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
import yaml
from hypothesis import HealthCheck, settings
from schemathesis.checks import CheckContext, not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.stack import SentinelProcess, Stack
from tests.support.surface import (
    CHAT,
    COMPACT,
    COMPLETIONS,
    COUNT_TOKENS,
    EMBEDDINGS,
    FORMS,
    INPUT_TOKENS,
    MESSAGES,
    NATIVE,
    OF_MEDIA,
    RESPONSES,
    chat,
    encoded,
)
from tests.support.waiting import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
DOCUMENT: dict[str, Any] = yaml.safe_load((ROOT / "docs/openapi.yaml").read_text())
CODES = {
    (int(status), code)
    for status, codes in re.findall(r"^\| (\d{3}) \| (.*?) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    for code in re.findall(r"`(\w+)`", codes)
}
"""The table of errors: which code comes with which status."""
ADMIN_KEY = "operators-key"
SECRETS = [f"/v1/realtime/{name}" for name in ("client_secrets", "sessions", "transcription_sessions")]
MODELS = {
    CHAT: "gpt-4o-mini",
    COMPLETIONS: "davinci-002",
    EMBEDDINGS: "text-embedding-3-small",
    RESPONSES: "gpt-4o-mini",
    MESSAGES: "claude-sonnet-5-5",
    COUNT_TOKENS: "claude-sonnet-5-5",
    INPUT_TOKENS: "gpt-4o-mini",
    COMPACT: "gpt-4o-mini",
    **{path: fields["model"] for path, fields in OF_MEDIA.items()},
}

schema = schemathesis.openapi.from_dict(
    DOCUMENT,
    # The same cases in every run. Tokens are ours to send.
    config=SchemathesisConfig.from_dict(
        {"seed": 1, "generation": {"deterministic": True, "database": "none", "with-security-parameters": False}}
    ),
)


def code_of(error: dict[str, Any]) -> str:
    """Our code of an error; in Google's shape it is a reason."""
    return str(error["details"][0]["reason"]).lower() if "status" in error else str(error["code"])


def our_errors_are_in_the_readme(ctx: CheckContext, response: Response, case: schemathesis.Case[Any]) -> None:
    """What the provider had no part in has a code of the table, whatever else the page allows the provider."""
    if response.status_code >= 400 and "x-upstream-request-id" not in response.headers and "/health" not in case.path:
        error = response.json()["error"]
        if "status" in error and "details" not in error:
            # Google's answers have no id.
            return
        assert (response.status_code, code_of(error)) in CODES


AS_DOCUMENTED = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    our_errors_are_in_the_readme,
]


@pytest.fixture(scope="module")
def sentinel(stack: Stack) -> SentinelProcess:
    return stack.sentinel(
        ADMIN_KEY=ADMIN_KEY,
        RATE_LIMITS="ai_requests=1000000/60s,ai_input_tokens=900000000/60s,ai_output_tokens=900000000/1h",
        MAX_BODY_BYTES="100000",
    )


def please_the_provider(body: dict[str, Any], model: str) -> None:
    """Change what fits the page, but would get no further than a 400 of the provider; most of the time."""
    if isinstance(name := body.get("model"), str) and len(name) % 4:
        body["model"] = model
    given = [name for name in ("max_tokens", "max_completion_tokens") if type(body.get(name)) is int]
    if all(0 <= body[name] < 2**31 for name in given):
        body.update({name: body[name] or 1 for name in given})
        if len(given) == 2:
            del body["max_tokens"]
    if isinstance(body.get("messages"), list):
        for message in body["messages"]:
            if isinstance(message, dict) and isinstance(message.get("role"), str):
                message["role"] = "assistant"


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
def whatever_is_sent(case: schemathesis.Case[Any], sentinel: SentinelProcess, token: str) -> None:
    """No 5xx; status, type, body and headers are on the page; what the page forbids is refused."""
    if isinstance(case.body, dict):
        please_the_provider(case.body, MODELS.get(case.path, MODELS[CHAT]))
    key = ADMIN_KEY if case.path.startswith("/admin") else token
    response = case.call(base_url=sentinel.url, headers={"Authorization": f"Bearer {key}"})
    case.validate_response(response, checks=[not_a_server_error, negative_data_rejection, *AS_DOCUMENTED])


# A test for each operation. Those of a single parametrized one share a node id, and pytest-xdist would run one of them.
for _path, _item in DOCUMENT["paths"].items():
    # Gemini's paths are the same below both versions; these are looked at by the tests further down.
    for _operation in () if _path.startswith("/v1/models/{model}:") else _item.values():
        _schema = schema.include(operation_id=_operation["operationId"])
        globals()[f"test_{_operation['operationId']}"] = _schema.parametrize()(whatever_is_sent)


LOCKED = [
    (method.upper(), path)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
    if operation["security"]
]
WITHOUT_ZION = ("/admin/objects", "/admin/users/refresh", "/admin/users/{external_id}/revoke")
"""Whose an object is, Redis knows alone; who has no account is not asked about, and nobody who is revoked."""


def ask(
    sentinel: SentinelProcess, method: str, path: str, key: str, text: str = "hi", **headers: str
) -> requests.Response:
    """A good request to this path, its answer held against the page."""
    names = {name: name for name in re.findall(r"{(.*?)}", path)}
    content = {"parts": [{"text": text}]}
    body: dict[str, Any] = {}
    if path in FORMS:
        sent, headers["Content-Type"] = encoded(path, text)
        body = {"data": sent}
    elif path in MODELS:
        body = {"json": {**chat(text), "prompt": text, "input": text, "max_tokens": 5}}
    elif method == "POST" and "{model}:" in path:
        body = {"json": {"contents": [content], "content": content, "requests": [{"content": content}]}}
    if path == NATIVE:
        body = {"json": {"messages": chat(text)["messages"]}}
    if path in SECRETS:
        body = {"json": {}}
    headers = {"Authorization": key, **headers}
    response = requests.request(
        method, sentinel.url + path.format(**names), **body, headers=headers, timeout=PATIENCE_SECONDS
    )
    schema[path][method].Case(path_parameters=names).validate_response(response, checks=AS_DOCUMENTED)
    return response


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("[[tokens=3]]", 200),
        ("[[status=400]]", 400),
        ("[[status=409]]", 409),
        ("[[status=422]]", 422),
        ("[[status=429 retry_after=7]]", 429),
        ("[[status=401]]", 502),
        ("[[status=500]]", 502),
        ("[[tokens=9 break_after=3]]", 502),
        ("much " * 30_000, 413),
    ],
    ids=lambda value: str(value)[:20].strip(),
)
def test_what_the_provider_does(sentinel: SentinelProcess, token: str, text: str, status: int) -> None:
    """Its answers and failures, as the page says."""
    assert ask(sentinel, "POST", CHAT, f"Bearer {token}", text).status_code == status


def test_a_provider_that_says_nothing(stack: Stack, token: str) -> None:
    """It has its own status."""
    sentinel = stack.sentinel(UPSTREAM_IDLE_TIMEOUT_SECONDS="0.5")
    assert ask(sentinel, "POST", CHAT, f"Bearer {token}", "[[hang_after=0]]").status_code == 504
    sentinel.kill()


WITHOUT_QUOTA = {
    ("GET", "/v1/responses"): (426, "upgrade_required"),
    ("GET", "/v1/realtime"): (426, "upgrade_required"),
    ("POST", "/v1/realtime/calls"): (404, "unknown_url"),
}
"""What is asked in plain HTTP costs nothing here, so that no subscription is looked at."""


@pytest.mark.parametrize(("method", "path"), LOCKED)
@pytest.mark.parametrize("key", ["", "Basic YTpi", "Bearer unknown"])
def test_strangers(sentinel: SentinelProcess, method: str, path: str, key: str) -> None:
    """Each path with a lock refuses who has no key."""
    assert ask(sentinel, method, path, key).status_code == 401


@pytest.mark.parametrize(("method", "path"), [operation for operation in LOCKED if "/v1" in operation[1]])
def test_refusals(stack: Stack, sentinel: SentinelProcess, method: str, path: str) -> None:
    """Who is forbidden, has used up what they had, or sends too large a head."""

    def answer(token: str, **headers: str) -> tuple[int, str]:
        response = ask(sentinel, method, path, f"Bearer {token}", **headers)
        return response.status_code, code_of(response.json()["error"])

    assert answer(stack.user("forbidden@corp.test", status="forbidden")[1]) == (403, "access_denied")
    refused = WITHOUT_QUOTA.get((method, path), (429, "insufficient_quota"))
    assert answer(stack.user("poor@corp.test", limits={"ai_requests": 0})[1]) == refused
    assert answer("x", Large="x" * 70_000) == (431, "request_headers_too_large")


def test_without_zion(stack: Stack) -> None:
    """All paths that need it say so, and when to come back."""
    sentinel = stack.sentinel(ADMIN_KEY=ADMIN_KEY)
    _, token = stack.user("unseen@corp.test")
    stack.simulators.zion.faults.set(status=503)
    try:
        for method, path in LOCKED:
            if path.startswith(WITHOUT_ZION):
                continue
            answer = ask(sentinel, method, path, f"Bearer {ADMIN_KEY if path.startswith('/admin') else token}")
            assert (answer.status_code, "retry-after" in answer.headers) == (503, True), path
    finally:
        stack.simulators.zion.faults.clear()
    sentinel.kill()


def test_at_a_rate_limit(stack: Stack) -> None:
    """Limits and what is left of them, on the last answer and on the refusal."""
    sentinel = stack.sentinel(RATE_LIMITS="ai_requests=1/60s")
    _, token = stack.user("busy@corp.test")
    for status in (200, 429):
        answer = ask(sentinel, "GET", "/v1/models", f"Bearer {token}")
        assert (answer.status_code, answer.headers["x-ratelimit-remaining"]) == (status, "0")
    sentinel.kill()
