"""The route table: path and method to handler, and what every answer has in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sentinel.clock import monotonic
from sentinel.error import AppError, Header, InternalError, MethodNotAllowed, UnknownUrl, body_of, headers_of
from sentinel.middleware import auth
from sentinel.proxy.client import ClientSide, Message, Receive, Scope, Send
from sentinel.proxy.exchange import CHAT, COMPLETION, Exchange
from sentinel.proxy.headers import EXPOSED, by_name, lines_of
from sentinel.proxy.logging import RequestContext, new_request_id
from sentinel.routes import models, operations
from sentinel.routes.state import AppState

log = structlog.get_logger()

_HOT = {kind.route: kind for kind in (CHAT, COMPLETION)}
_METHODS = b"GET, POST, PUT, PATCH, DELETE, OPTIONS"


def rest(state: AppState) -> Starlette:
    """Everything that is not hot, in Starlette."""
    app = Starlette(
        routes=[
            Route("/v1/models", models.models, methods=["GET"]),
            Route("/v1/models/{model:path}", models.model, methods=["GET"]),
            Route("/health", operations.health, methods=["GET"]),
            Route("/health/ready", operations.ready, methods=["GET"]),
            Route("/health/live", operations.live, methods=["GET"]),
            Route("/metrics", operations.metrics, methods=["GET"]),
            Route("/admin/users/{user:path}/refresh", operations.refresh_user, methods=["POST"]),
            *(Route(path, _never, methods=["POST"]) for path in _HOT),
        ],
        exception_handlers={AppError: _app_error, HTTPException: _http_error, Exception: _unknown_error},
    )
    app.router.redirect_slashes = False
    app.state.sentinel = state
    return app


async def _never(_: Request) -> Response:
    raise AssertionError("served before Starlette is asked")


def _render(request: Request, error: AppError, more: list[Header] | None = None) -> Response:
    state: AppState = request.app.state.sentinel
    state.metrics.errors.labels(error.code).inc()
    response = Response(body_of(error), error.status)
    response.raw_headers += headers_of(error) + (more or [])
    return response


async def _app_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AppError)
    return _render(request, error)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's 404 and 405. Under /v1 strangers learn nothing about routes: they get their 401 first."""
    assert isinstance(error, HTTPException)
    path, method = request.scope["path"], request.method
    if path.startswith("/v1/") or path == "/v1":
        try:
            await auth.identify(by_name(request.scope["headers"]), request.app.state.sentinel.parts.cache)
        except AppError as refused:
            return _render(request, refused)
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        return _render(request, MethodNotAllowed(f"Not allowed: {method} {path[:200]}."), [(b"allow", allow.encode())])
    return _render(request, UnknownUrl(f"Unknown request URL: {method} {path[:200]}."))


async def _unknown_error(request: Request, error: Exception) -> Response:
    log.error("request failed", request_id=request.scope["request_id"], path=request.scope["path"], exc_info=error)
    return _render(request, InternalError("The server had an error while processing your request."))


class Cors:
    """The CORS headers for `CORS_ORIGINS`: `*`, or origins parted by commas."""

    def __init__(self, origins: str) -> None:
        self._allowed = frozenset(origin.strip().encode() for origin in origins.split(","))
        self._any = b"*" in self._allowed
        self._of_no_browser = lines_of(self.headers({}))

    def headers(self, request: Mapping[bytes, bytes]) -> list[Header]:
        """The headers of an answer to a request with these; what scripts may read is only of interest to browsers."""
        origin = request.get(b"origin")
        if self._any:
            headers: list[Header] = [(b"access-control-allow-origin", b"*")]
        elif origin and origin in self._allowed:
            headers = [(b"access-control-allow-origin", origin), (b"vary", b"origin")]
        else:
            return [(b"vary", b"origin")]
        if origin is not None:
            headers.append((b"access-control-expose-headers", EXPOSED))
        return headers

    def lines(self, request: Mapping[bytes, bytes]) -> bytes:
        """The same as lines; most callers are no browser, so theirs are ready."""
        return lines_of(self.headers(request)) if b"origin" in request else self._of_no_browser

    def preflight(self, request: Mapping[bytes, bytes]) -> list[Header]:
        """The headers of an answer to a preflight; it needs no token."""
        asked = request.get(b"access-control-request-headers") or b"*"
        return [
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", asked),
            (b"access-control-max-age", b"86400"),
            (b"content-length", b"0"),
        ]


class Routes:
    """The ASGI application for requests."""

    def __init__(self, state: AppState) -> None:
        self._parts = state.parts
        self._rest: Callable[[Scope, Receive, Send], Awaitable[None]] = rest(state)
        self._cors = Cors(state.settings.cors_origins)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request."""
        request_id, headers = new_request_id(), by_name(scope["headers"])
        kind = _HOT.get(scope["path"])
        if kind is not None and scope["method"] == "POST":
            lines = b"%bx-request-id: %b\r\n" % (self._cors.lines(headers), request_id.encode())
            client = ClientSide(scope, receive, send, headers, lines)
            return Exchange(self._parts, kind, client, RequestContext(request_id, kind.route, monotonic())).run()
        common = [*self._cors.headers(headers), (b"x-request-id", request_id.encode())]
        if scope["method"] == "OPTIONS":
            return _empty([*self._cors.preflight(headers), *common], send)
        scope["request_id"], scope["common"] = request_id, common
        return self._rest(scope, receive, _adding(common, send))


async def _empty(headers: list[Header], send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _adding(common: list[Header], send: Send) -> Send:
    """`send` with the common headers, which handlers may add to until the answer starts."""

    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *common]
        await send(message)

    return wrapped
