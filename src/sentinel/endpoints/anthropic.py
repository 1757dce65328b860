"""What Anthropic's formats have in common: how a request is read, errors, and the headers that its SDKs look for.

Source: Anthropic's API reference, "Errors", "Rate limits" (response headers), "Versioning".
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import msgspec

from sentinel.endpoints.endpoint import Endpoint, R
from sentinel.endpoints.references import ReferenceFields
from sentinel.endpoints.strict_json import Shape
from sentinel.error import AppError
from sentinel.limits.policy import Verdict, tightest
from sentinel.proxy.meter import StreamMeter
from sentinel.timestamp import rfc3339_seconds

_INNERMOST: Shape = {"source": {}, "input": None}
_IN_SOURCE: Shape = {"source": {"content": _INNERMOST}, "input": None, "content": _INNERMOST}
_BLOCK: Shape = {"source": {"content": _IN_SOURCE}, "input": None, "content": _IN_SOURCE}
SHAPE: Shape = {
    "messages": {"content": _BLOCK},
    "system": _BLOCK,
    "tools": {"input_schema": None},
    "thinking": {},
    "output_config": None,
    "output_format": None,
}
"""The objects that are decided on, or counted (tokens/messages.py)."""

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
}
_OVERLOADED: Final = 529
"""The provider's own, which clients of this format know: they wait, or take another model."""

_DIMENSIONS: Final = (b"requests", b"input-tokens", b"output-tokens")
"""In the order of limits.policy.DIMENSIONS."""


def error_of(error: AppError, request_id: str) -> dict[str, Any]:
    """The error in Anthropic's shape; beside its own fields those of ours that say more."""
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    fields: dict[str, Any] = {"type": kind, "message": error.message, "code": error.code}
    if error.param is not None:
        fields["param"] = error.param
    if error.details:
        fields["details"] = error.details
    return {"type": "error", "error": fields, "request_id": request_id or None}


class AnthropicEndpoint(Endpoint[R]):
    """A format of Anthropic's."""

    format = "messages"
    ids = ReferenceFields({"file_id": "files", "container": "containers", "skill_id": "skills"}, defined=("input",))
    query: ClassVar[frozenset[bytes]] = frozenset((b"beta",))
    passed_statuses: ClassVar[frozenset[int]] = frozenset((_OVERLOADED,))

    def id_lines(self, request_id: bytes) -> bytes:
        """The headers that have the request's id: Sentinel's, and that of which SDKs tell."""
        return b"x-request-id: %b\r\nrequest-id: %b\r\n" % (request_id, request_id)

    def limit_lines(self, verdict: Verdict) -> bytes:
        """`anthropic-ratelimit-*`: of the tightest window of each dimension, and of the tighter one of tokens."""
        policy, windows = verdict.policy, verdict.windows
        if policy is None or not windows:
            return b""
        present = [name for bit, name in enumerate(_DIMENSIONS) if policy.dimensions & 1 << bit]
        of = {name: tightest(windows, own) for name, own in zip(present, policy.by_dimension, strict=True)}
        if tokens := [window for name, window in of.items() if name != _DIMENSIONS[0]]:
            of[b"tokens"] = tightest(windows, tokens)
        return b"".join(_lines(name, limit, *windows[place : place + 2]) for name, (place, limit) in of.items())

    def render(self, error: AppError, request_id: str) -> bytes:
        """An error as the body of an answer."""
        return msgspec.json.encode(error_of(error, request_id))

    def render_event(self, error: AppError, meter: StreamMeter | None, request_id: str) -> bytes:  # noqa: ARG002
        """An error as the last event of a stream."""
        return b"event: error\ndata: %b\n\n" % self.render(error, request_id)


def _lines(name: bytes, limit: int, remaining: int, reset_ms: int) -> bytes:
    begin = b"anthropic-ratelimit-" + name
    reset = (rfc3339_seconds(reset_ms) or "").replace("+00:00", "Z").encode()
    return b"%b-limit: %d\r\n%b-remaining: %d\r\n%b-reset: %b\r\n" % (begin, limit, begin, remaining, begin, reset)
