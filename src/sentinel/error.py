"""One tree of errors, and the one function that renders them as OpenAI errors.

Each class knows its HTTP status, its OpenAI `type` and `code`, and whose side failed: the client, Sentinel itself,
the provider or Zion (`side`, a metric label). Adapters turn every library error into one of these at the call, cause
kept. No message may hold a secret, a prompt, or what Zion or a library said: those go to the log at most.
Source of the table: DESIGN section 7.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any, ClassVar, Literal

import msgspec

Side = Literal["client", "sentinel", "provider", "zion", "redis"]
Header = tuple[bytes, bytes]
Renderer = Callable[["AppError", str], bytes]
"""The body of an error's answer, as JSON, for the request with this id; empty where it has none."""


class AppError(Exception):
    """Anything that ends a request with an error of ours.

    param: the request field at fault. details: more for a machine to read. headers: extra answer headers.
    retry_after_seconds: when a retry can help; rendered as `Retry-After`, rounded up, at least 1.
    another_target: whether another target of the same model may serve the request, as long as the client has no byte of
    an answer (DESIGN section 9).
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    side: ClassVar[Side] = "sentinel"
    another_target: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        details: dict[str, Any] | None = None,
        retry_after_seconds: float | None = None,
        headers: tuple[Header, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.details = details
        self.retry_after_seconds = retry_after_seconds
        self.headers = headers

    @property
    def error_type(self) -> str:
        """OpenAI's `type`; a property, since for one class it depends on the case."""
        return self.type


class InternalError(AppError):
    """A bug of ours; its story is in the log only."""


class _ClientError(AppError):
    status = 400
    type = "invalid_request_error"
    side: ClassVar[Side] = "client"


class MissingApiKey(_ClientError):
    """No bearer token in the request."""

    status, code = 401, "missing_api_key"


class InvalidApiKey(_ClientError):
    """Zion does not know the token."""

    status, code = 401, "invalid_api_key"


class AccessDenied(_ClientError):
    """Zion knows the caller and says no."""

    status, code = 403, "access_denied"


class ModelNotAllowed(_ClientError):
    """The caller's plan does not have this model."""

    status, code = 403, "model_not_allowed"


class InvalidJson(_ClientError):
    """The body is not JSON, or not UTF-8."""

    code = "invalid_json"


class InvalidForm(_ClientError):
    """The body is no form in multipart/form-data, or one that could be read in two ways."""

    code = "invalid_form"


class InvalidType(_ClientError):
    """A field has a wrong type or an impossible value."""

    code = "invalid_type"


class MissingParameter(_ClientError):
    """A required field is absent."""

    code = "missing_required_parameter"


class UnsupportedParameter(_ClientError):
    """A field asks for something that this proxy does not do."""

    code = "unsupported_parameter"


class UnknownUrl(_ClientError):
    """No such route."""

    status, code = 404, "unknown_url"


class ModelNotFound(_ClientError):
    """The provider has no such model."""

    status, code = 404, "model_not_found"


class NotFound(_ClientError):
    """An object of a provider that is another user's, or nobody's."""

    status, code = 404, "not_found"


class UserNotFound(_ClientError):
    """An operator named a user who is not there."""

    status, code = 404, "user_not_found"


class MethodNotAllowed(_ClientError):
    """The route exists, but not for this method."""

    status, code = 405, "method_not_allowed"


class UpgradeRequired(_ClientError):
    """The path is for a protocol that this connection does not speak (RFC 9110, 15.5.22)."""

    status, code = 426, "upgrade_required"


class ResponseInProgress(_ClientError):
    """Over this connection one response at a time is made, and one is."""

    status, code = 409, "response_in_progress"


class RequestTimeout(_ClientError):
    """The client sends its request too slowly."""

    status, code = 408, "request_timeout"


class RequestTooLarge(_ClientError):
    """The body is larger than MAX_BODY_BYTES."""

    status, code = 413, "request_too_large"


class UnsupportedEncoding(_ClientError):
    """The body is in a content coding that nobody undoes here; `headers` says in Accept-Encoding which would do."""

    status, code = 415, "unsupported_encoding"


class HeadersTooLarge(_ClientError):
    """The request line and headers are larger than any real client's."""

    status, code = 431, "request_headers_too_large"


class RateLimitExceeded(AppError):
    """A sliding window or the concurrency limit is full. OpenAI's `type` says which: requests or tokens."""

    status, code = 429, "rate_limit_exceeded"
    side: ClassVar[Side] = "client"

    @property
    def error_type(self) -> str:
        """`tokens` where a token window is full, else `requests`."""
        return "tokens" if str((self.details or {}).get("metric", "")).endswith("tokens") else "requests"


class InsufficientQuota(AppError):
    """The Zion subscription is used up. OpenAI SDKs obey `x-should-retry`."""

    status, type, code = 429, "insufficient_quota", "insufficient_quota"
    side: ClassVar[Side] = "client"


class UpstreamError(AppError):
    """The provider failed: 5xx, 401/403 for our key, a broken answer, or no connection."""

    status, code = 502, "upstream_error"
    side: ClassVar[Side] = "provider"
    another_target: ClassVar[bool] = True


class UpstreamNotReached(UpstreamError):
    """There was no connection, so the provider has never heard of the request."""


class UpstreamTimeout(AppError):
    """The provider did not answer in time."""

    status, code = 504, "upstream_timeout"
    side: ClassVar[Side] = "provider"
    another_target: ClassVar[bool] = True


class ServiceUnavailable(AppError):
    """Something that we need is away and has no declared fallback."""

    status, code = 503, "service_unavailable"


class ZionUnavailable(ServiceUnavailable):
    """Zion is away and its last answer is unknown or too old."""

    side: ClassVar[Side] = "zion"


class RedisUnavailable(ServiceUnavailable):
    """Redis is away, hung, full or read-only; whether it has carried out the call is unknown."""

    side: ClassVar[Side] = "redis"


class NotSent(RedisUnavailable):
    """Redis is away and has never heard of the call."""


class RedisRefused(RedisUnavailable):
    """Redis is there, and refuses this one call for what its keys hold; others may well pass."""


class PlaceTaken(AppError):
    """A request was held up for longer than its lease, and others were admitted in its place."""

    status, code = 503, "service_unavailable"

    def __init__(
        self,
        message: str = "The request was held up for longer than its reservation lasts, and its place under the limits "
        "is taken by now. Nothing is charged. Please try again.",
    ) -> None:
        super().__init__(message, retry_after_seconds=1)


class ForeignStore(RedisUnavailable):
    """This Redis belongs to another installation, or to a version that cannot share it; the message says what to do."""


def body_of(error: AppError, _request_id: str = "") -> bytes:
    """The error in OpenAI's shape, as JSON bytes; it has no place for the request's id, which is in a header."""
    fields: dict[str, Any] = {
        "message": error.message,
        "type": error.error_type,
        "param": error.param,
        "code": error.code,
    }
    if error.details:
        fields["details"] = error.details
    return msgspec.json.encode({"error": fields})


def whole_seconds(seconds: float) -> int:
    """When to come again, as `Retry-After` tells it: rounded up, at least 1."""
    return max(1, ceil(seconds))


def headers_of(error: AppError) -> list[Header]:
    """The headers that this error brings along, without content-length."""
    headers: list[Header] = [(b"content-type", b"application/json"), *error.headers]
    if error.status == 401:
        # Claude Code asks again and again, unless it is told that this is of no use.
        headers += (b"www-authenticate", b"Bearer"), (b"x-should-retry", b"false")
    if error.retry_after_seconds is not None:
        headers.append((b"retry-after", b"%d" % whole_seconds(error.retry_after_seconds)))
    return headers


def event_of(error: AppError, _request_id: str = "") -> bytes:
    """The error as the last event of a stream that broke; no `[DONE]` follows it."""
    return b"data: " + body_of(error) + b"\n\n"
