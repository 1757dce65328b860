"""One tree of errors, and the one way they are rendered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentinel import error as errors
from sentinel.error import AppError, RateLimitExceeded, ServiceUnavailable, body_of, event_of, headers_of


def every(kind: type[AppError] = AppError) -> list[type[AppError]]:
    """All classes of the tree that are raised; rooms may refine them for their own use."""
    subclasses = [found for found in kind.__subclasses__() if found.__module__ == kind.__module__]
    return [kind, *(found for sub in subclasses for found in every(sub))] if subclasses else [kind]


# DESIGN section 7; 500 and 431 are ours.
TABLE = {
    "MissingApiKey": (401, "invalid_request_error", "missing_api_key"),
    "InvalidApiKey": (401, "invalid_request_error", "invalid_api_key"),
    "AccessDenied": (403, "invalid_request_error", "access_denied"),
    "InvalidJson": (400, "invalid_request_error", "invalid_json"),
    "InvalidType": (400, "invalid_request_error", "invalid_type"),
    "MissingParameter": (400, "invalid_request_error", "missing_required_parameter"),
    "UnknownUrl": (404, "invalid_request_error", "unknown_url"),
    "ModelNotFound": (404, "invalid_request_error", "model_not_found"),
    "UpgradeRequired": (426, "invalid_request_error", "upgrade_required"),
    "ResponseInProgress": (409, "invalid_request_error", "response_in_progress"),
    "MethodNotAllowed": (405, "invalid_request_error", "method_not_allowed"),
    "RequestTimeout": (408, "invalid_request_error", "request_timeout"),
    "RequestTooLarge": (413, "invalid_request_error", "request_too_large"),
    "UnsupportedEncoding": (415, "invalid_request_error", "unsupported_encoding"),
    "HeadersTooLarge": (431, "invalid_request_error", "request_headers_too_large"),
    "RateLimitExceeded": (429, "requests", "rate_limit_exceeded"),
    "InsufficientQuota": (429, "insufficient_quota", "insufficient_quota"),
    "UpstreamError": (502, "server_error", "upstream_error"),
    "UpstreamTimeout": (504, "server_error", "upstream_timeout"),
    "ServiceUnavailable": (503, "server_error", "service_unavailable"),
    "ZionUnavailable": (503, "server_error", "service_unavailable"),
    "RedisUnavailable": (503, "server_error", "service_unavailable"),
    "InternalError": (500, "server_error", "internal_error"),
}


@pytest.mark.parametrize(("name", "row"), TABLE.items())
def test_each_error_has_its_row(name: str, row: tuple[int, str, str]) -> None:
    """Status, type and code are those of the table."""
    error: AppError = getattr(errors, name)("It is so.")
    assert (error.status, error.error_type, error.code) == row


@pytest.mark.parametrize("kind", every(), ids=lambda kind: kind.__name__)
def test_every_error_has_openais_shape(kind: type[AppError]) -> None:
    """Four fields, also where they are null; nothing else."""
    fields = json.loads(body_of(kind("It is so.")))
    assert fields.keys() == {"error"}
    assert list(fields["error"]) == ["message", "type", "param", "code"]


@pytest.mark.parametrize(
    ("metric", "kind"),
    [
        ("ai_requests", "requests"),
        ("concurrency", "requests"),
        ("ai_input_tokens", "tokens"),
        ("ai_output_tokens", "tokens"),
    ],
)
def test_the_type_of_a_rate_limit_depends_on_its_metric(metric: str, kind: str) -> None:
    """OpenAI tells requests from tokens."""
    error = RateLimitExceeded("Full.", details={"metric": metric})
    assert json.loads(body_of(error))["error"]["type"] == kind


@pytest.mark.parametrize(("seconds", "header"), [(0.0, b"1"), (0.2, b"1"), (1.0, b"1"), (1.01, b"2"), (60, b"60")])
def test_retry_after_is_rounded_up(seconds: float, header: bytes) -> None:
    """Whole seconds, never too early, never 0."""
    assert dict(headers_of(ServiceUnavailable("Away.", retry_after_seconds=seconds)))[b"retry-after"] == header


@pytest.mark.parametrize("kind", every(), ids=lambda kind: kind.__name__)
def test_a_401_brings_its_challenge(kind: type[AppError]) -> None:
    """RFC 9110, 15.5.2: a 401 has WWW-Authenticate; nothing else has."""
    assert ((b"www-authenticate", b"Bearer") in headers_of(kind("No."))) == (kind.status == 401)
    assert ((b"x-should-retry", b"false") in headers_of(kind("No."))) == (kind.status == 401)


def test_an_event_is_the_same_error_in_a_stream() -> None:
    """One data line, one blank line."""
    error: Any = errors.UpstreamError("It\nbroke.")
    assert event_of(error) == b"data: " + body_of(error) + b"\n\n"
    assert event_of(error).count(b"\n") == 2
