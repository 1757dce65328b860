"""Refusals of requests that the application is not asked about: what they look like on the wire and in the log.

The shape of an error depends on the path. The application says in its lifespan state, as `error_renderer`, which
function renders the errors of a path; without it, and for paths that it does not know, an error has OpenAI's shape.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from sentinel.clock import monotonic
from sentinel.error import AppError, Header, Renderer, body_of, headers_of
from sentinel.proxy.headers import by_name, lines_of
from sentinel.proxy.logging import RequestContext, new_request_id, secrets_of
from sentinel.server.head import path_in

_PHRASES = {status.value: status.phrase for status in HTTPStatus}
STATUS_LINES = {status: f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode() for status in range(100, 600)}


class Refusal(Exception):
    """Raised inside a callback of the parser: the request is refused with `error`."""

    def __init__(self, error: AppError) -> None:
        super().__init__(error.code)
        self.error = error


def renderer_for(state: dict[str, Any], path: str) -> Renderer:
    """Who renders the errors of this path. state: of the application. path: decoded; empty where it is not known."""
    choose: Callable[[str], Renderer | None] | None = state.get("error_renderer")
    return (choose(path) if choose is not None else None) or body_of


def answer_of(error: AppError, request_id: str, render: Renderer) -> bytes:
    """The whole answer, which is the last one of its connection."""
    body = render(error, request_id)
    headers = [
        *headers_of(error),
        (b"x-request-id", request_id.encode()),
        (b"connection", b"close"),
        (b"content-length", b"%d" % len(body)),
    ]
    return STATUS_LINES[error.status] + lines_of(headers) + b"\r\n" + body


def context_of(error: AppError, url: bytes, headers: list[Header], client: tuple[str, int] | None) -> RequestContext:
    """What the log says of a refused head. url, headers: as far as they have come."""
    named = by_name(headers)
    context = RequestContext(new_request_id(), None, monotonic(), method=None, path=path_in(url) or None)
    context.client, context.agent = client[0] if client else None, named.get(b"user-agent", b"")
    context.secrets = secrets_of(named)
    context.status, context.error_code, context.outcome = error.status, error.code, "refused"
    return context
