"""What Anthropic's formats have in common: errors, and the headers that its SDKs look for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentinel import error
from sentinel.config import parse_rate_limits
from sentinel.endpoints.anthropic import AnthropicEndpoint, error_of
from sentinel.endpoints.count_tokens import COUNT_TOKENS
from sentinel.endpoints.messages import MESSAGES
from sentinel.error import AppError, InvalidType, RateLimitExceeded
from sentinel.limits.policy import Policy, Verdict
from sentinel.proxy.headers import pairs_of

NOW_MS = 1_764_000_000_000


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (error.InvalidType, "invalid_request_error"),
        (error.MethodNotAllowed, "invalid_request_error"),
        (error.RequestTimeout, "invalid_request_error"),
        (error.InvalidApiKey, "authentication_error"),
        (error.AccessDenied, "permission_error"),
        (error.UnknownUrl, "not_found_error"),
        (error.RequestTooLarge, "request_too_large"),
        (error.RateLimitExceeded, "rate_limit_error"),
        (error.InsufficientQuota, "rate_limit_error"),
        (error.InternalError, "api_error"),
        (error.UpstreamError, "api_error"),
        (error.ServiceUnavailable, "api_error"),
        (error.UpstreamTimeout, "timeout_error"),
    ],
)
def test_the_type_follows_the_status(kind: type[AppError], told: str) -> None:
    """As Anthropic's page of errors has it."""
    assert error_of(kind("It is so."), "req_1") == {
        "type": "error",
        "error": {"type": told, "message": "It is so.", "code": kind.code},
        "request_id": "req_1",
    }


def test_what_we_know_more_is_told() -> None:
    """The field, and the numbers of a limit; an id where there is one."""
    wrong = error_of(InvalidType("no", param="max_tokens"), "")
    assert (wrong["error"]["param"], wrong["request_id"]) == ("max_tokens", None)
    assert error_of(RateLimitExceeded("no", details={"limit": 5}), "")["error"]["details"] == {"limit": 5}


def test_an_error_is_an_answer_or_an_event() -> None:
    """The event has its name, without which no SDK takes it."""
    told = json.loads(MESSAGES.render(InvalidType("no"), "req_1"))
    name, data, *rest = MESSAGES.render_event(InvalidType("no"), None, "req_1").split(b"\n")
    assert (name, rest) == (b"event: error", [b"", b""])
    assert json.loads(data.removeprefix(b"data: ")) == told


@pytest.mark.parametrize("endpoint", [MESSAGES, COUNT_TOKENS])
def test_what_a_request_names_at_the_provider_is_found(endpoint: AnthropicEndpoint[Any]) -> None:
    """Files and containers; the arguments of a tool call are the application's, whatever they are called."""
    document = {"type": "document", "source": {"type": "file", "file_id": "file_1"}}
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {"file_id": "mine", "container": "mine"}}
    turns = [{"role": "assistant", "content": [call]}, {"role": "user", "content": [document]}]
    body = json.dumps({"container": {"id": "container_1", "skills": []}, "messages": turns}).encode()
    assert [(found.id, found.kind, found.param) for found in endpoint.ids.found_in(body)] == [
        ("container_1", "containers", "container.id"),
        ("file_1", "files", "messages[1].content[0].source.file_id"),
    ]


def test_the_id_has_the_name_that_sdks_know() -> None:
    """And ours."""
    assert pairs_of(MESSAGES.id_lines(b"req_1")) == [(b"x-request-id", b"req_1"), (b"request-id", b"req_1")]


def told(rates: str, windows: tuple[int, ...]) -> dict[str, str]:
    policy = Policy.of(parse_rate_limits(rates), lease_seconds=30, fresh_seconds=300, stale_seconds=3600)
    lines = MESSAGES.limit_lines(Verdict(True, NOW_MS, policy=policy, windows=windows))
    return {name.decode().removeprefix("anthropic-ratelimit-"): value.decode() for name, value in pairs_of(lines)}


def test_limits_are_those_of_the_tightest_windows() -> None:
    """`tokens` are of input or output, whichever is scarcer; a window that is whole is so since now."""
    windows = (7, NOW_MS + 500, 3, NOW_MS + 90_000, 900, NOW_MS + 60_000, 5, NOW_MS)
    found = told("ai_requests=10/60s,ai_requests=100/1h,ai_input_tokens=1000/60s,ai_output_tokens=10/60s", windows)
    assert found == {
        "requests-limit": "100", "requests-remaining": "3", "requests-reset": "2025-11-24T16:01:30Z",
        "input-tokens-limit": "1000", "input-tokens-remaining": "900", "input-tokens-reset": "2025-11-24T16:01:00Z",
        "output-tokens-limit": "10", "output-tokens-remaining": "5", "output-tokens-reset": "2025-11-24T16:00:00Z",
        "tokens-limit": "10", "tokens-remaining": "5", "tokens-reset": "2025-11-24T16:00:00Z",
    }  # fmt: skip


def test_without_windows_nothing_is_said() -> None:
    """Nor of tokens where only requests are limited."""
    assert MESSAGES.limit_lines(Verdict(True, NOW_MS)) == b""
    assert set(told("ai_requests=10/60s", (7, NOW_MS))) == {"requests-limit", "requests-remaining", "requests-reset"}
