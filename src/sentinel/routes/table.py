"""The route table: path and method to handler, and what every answer has in common."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from sentinel.clock import monotonic
from sentinel.endpoints.chat import CHAT
from sentinel.endpoints.client_secrets import CLIENT_SECRETS, SESSIONS, TRANSCRIPTION_SESSIONS
from sentinel.endpoints.compact import COMPACT
from sentinel.endpoints.completions import COMPLETIONS
from sentinel.endpoints.count_tokens import COUNT_TOKENS
from sentinel.endpoints.embeddings import EMBEDDINGS
from sentinel.endpoints.endpoint import Endpoint
from sentinel.endpoints.families import ObjectPath
from sentinel.endpoints.images import IMAGE_EDITS, IMAGE_GENERATIONS, IMAGE_VARIATIONS
from sentinel.endpoints.input_tokens import INPUT_TOKENS
from sentinel.endpoints.messages import MESSAGES
from sentinel.endpoints.moderations import MODERATIONS
from sentinel.endpoints.native import NATIVE
from sentinel.endpoints.responses import RESPONSES
from sentinel.endpoints.speech import SPEECH
from sentinel.endpoints.transcriptions import TRANSCRIPTIONS, TRANSLATIONS
from sentinel.error import (
    AppError,
    Header,
    InternalError,
    MethodNotAllowed,
    Renderer,
    ServiceUnavailable,
    UnknownUrl,
    body_of,
    headers_of,
)
from sentinel.middleware import auth
from sentinel.proxy import outcome
from sentinel.proxy.array_client import ArrayClientSide
from sentinel.proxy.client import ClientRequest, ClientSide, Message, Receive, Scope, Send
from sentinel.proxy.exchange import Exchange
from sentinel.proxy.headers import EXPOSED, by_name, lines_of
from sentinel.proxy.logging import RequestContext, new_request_id, secrets_of
from sentinel.proxy.passthrough import Passthrough
from sentinel.routes import gemini, openapi, operations, passthrough, quota, sockets
from sentinel.routes.state import AppState

log = structlog.get_logger()

ENDPOINTS: dict[str, Endpoint[Any]] = {
    endpoint.route: endpoint
    for endpoint in (
        *(CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, INPUT_TOKENS, COMPACT, MESSAGES, COUNT_TOKENS, NATIVE),
        *(MODERATIONS, IMAGE_GENERATIONS, IMAGE_EDITS, IMAGE_VARIATIONS, TRANSCRIPTIONS, TRANSLATIONS, SPEECH),
        *(CLIENT_SECRETS, SESSIONS, TRANSCRIPTION_SESSIONS),
    )
}
"""The metered formats, by their routes."""
SOCKETS = {sockets.RESPONSES: sockets.responses, sockets.REALTIME: sockets.realtime}
"""What is served over WebSockets, by its path."""
_QUIET = ("/health", "/health/ready", "/health/live", "/metrics")
"""Asked every few seconds by machines: their log lines are of level debug."""
_SLASHES = re.compile("/{2,}")
_DOUBLED = re.compile(r"((?:/v1(?:beta)?)*)(/v1(?:beta)?)(?=/|\Z)")
_TWICE = ("/v1/v1", "/v1beta/v1")
_MOST_PATH = 200
"""So much of a path is compared with ours, and told back."""
_CLOSE = 0.4
"""So much alike `/v1/chat` and `/v1/chat/completions` are, and `/nope` and none of ours."""
_METHODS = b"GET, POST, PUT, PATCH, DELETE, OPTIONS"


def rest(state: AppState) -> Starlette:
    """Everything that is not hot, in Starlette."""
    app = Starlette(
        routes=[
            Route("/v1/models", gemini.any_listing, methods=["GET"]),
            Route("/v1/models/{model:path}", gemini.any_model, methods=["GET"]),
            Route("/sentinel/quota", quota.own_quota, methods=["GET"]),
            Route("/health", operations.health, methods=["GET"]),
            Route("/health/ready", operations.ready, methods=["GET"]),
            Route("/health/live", operations.live, methods=["GET"]),
            Route("/metrics", operations.metrics, methods=["GET"]),
            Route("/openapi.json", openapi.openapi, methods=["GET"]),
            Route("/admin/users/refresh", operations.refresh_users, methods=["POST"]),
            Route("/admin/users/{user:path}/refresh", operations.refresh_user, methods=["POST"]),
            Route("/admin/users/{user:path}/revoke", operations.revoke_user, methods=["POST"]),
            *(Route(path, operations.here, methods=["HEAD"]) for path in ("/", "/api/hello")),
            Route("/admin/objects/{object:path}/owner", operations.object_owner, methods=["GET", "POST"]),
            *(Route(path, _never, methods=["POST"]) for path in ENDPOINTS),
            *(Route(path, serve, methods=["GET"]) for path, serve in SOCKETS.items()),
            Route(sockets.CALLS, sockets.calls, methods=["POST"]),
            *gemini.ROUTES,
            passthrough.ROUTE,
        ],
        exception_handlers={AppError: _app_error, HTTPException: _http_error, Exception: _unknown_error},
    )
    app.router.redirect_slashes = False
    app.state.sentinel = state
    return app


async def _never(_: Request) -> Response:
    raise AssertionError("served before Starlette is asked")


def served_path(path: str) -> str:
    """The path that is meant where a client has put a base URL and a path together with a slash or a `/v1` too many."""
    # To the patterns of routes a line feed at the end is none.
    path = path.replace("\n", "\r")
    if "//" in path:
        path = _SLASHES.sub("/", path)
    if path.endswith("/"):
        path = path.rstrip("/") or "/"
    if path.startswith(_TWICE) and (doubled := _DOUBLED.match(path)) is not None:
        # The last is that of the client's library.
        path = path[doubled.end(1) :]
    return path


def takes_upgrade(scope: Scope) -> bool:
    """Whether a request may go on as a WebSocket."""
    return (
        scope["method"] == "GET"
        and served_path(scope["path"]) in SOCKETS
        and sockets.may_upgrade(by_name(scope["headers"]))
    )


def renderer_of(path: str) -> Renderer | None:
    """What renders the errors of this path, and of what would be below it; None for one without a format of its own."""
    path = served_path(path)
    if gemini.is_its(path):
        return gemini.render
    render = None
    for route, endpoint in ENDPOINTS.items():
        if path == route:
            return endpoint.render
        if path.startswith(f"{route}/"):
            render = endpoint.render
    return render


def _render(request: Request, error: AppError, more: Iterable[Header] = ()) -> Response:
    return _answer_of(error, request.scope["context"], request.scope["path"], more)


def _answer_of(error: AppError, context: RequestContext, path: str, more: Iterable[Header] = ()) -> Response:
    """The answer that an error is, in the format of the path; noted in the context."""
    context.error_code = error.code
    context.outcome = outcome.of_error(error, "error", has_begun=False)
    response = Response((renderer_of(path) or body_of)(error, context.id), error.status)
    response.raw_headers += [*headers_of(error), *more]
    return response


async def _app_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AppError)
    return _render(request, error)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's 404 and 405. Under /v1 strangers learn nothing about routes: they get their 401 first."""
    assert isinstance(error, HTTPException)
    path, method = request.scope["path"], request.method
    if path.startswith("/v1/") or path == "/v1" or gemini.is_below(path):
        try:
            context: RequestContext = request.scope["context"]
            context.user = await auth.identify(
                by_name(request.scope["headers"]), request.app.state.sentinel.deps.cache, context.client
            )
        except AppError as refused:
            return _render(request, refused)
    asked = f"{method} {request.scope['asked_path'].partition('?')[0][:_MOST_PATH]}"
    allow = (error.headers or {}).get("Allow", "")
    # What answers HEAD alone is there for those who look whether anybody is; to others it is no route.
    # Nor is a model's, to who asks for work that no model does.
    if error.status_code == 405 and allow != "HEAD" and not gemini.asks_for_work(path, allow):
        return _render(request, MethodNotAllowed(f"Not allowed: {asked}."), [(b"allow", allow.encode())])
    served = ", ".join(_closest_first(path, request.app.routes))
    return _render(request, UnknownUrl(f"Unknown request URL: {asked}. Sentinel serves {served}."))


def _closest_first(path: str, routes: list[BaseRoute]) -> list[str]:
    """The routes that there are, such as `GET /v1/models/{model}`, and first of them what the caller may have meant."""
    known: dict[str, set[str]] = {}
    for route in routes:
        if isinstance(route, Route) and route not in gemini.TWICE:
            known.setdefault(route.path_format, set()).update(route.methods or ())
    begun = [name for name in known if name.startswith(f"{path[:_MOST_PATH].lower()}/")]
    close = begun[:1] or get_close_matches(path[:_MOST_PATH].lower(), known, n=1, cutoff=_CLOSE)
    return [
        f"{method} {name}"
        for name in [*close, *(name for name in known if name not in close)]
        for method in sorted(known[name] - {"HEAD"})
    ]


async def _unknown_error(request: Request, error: Exception) -> Response:
    context: RequestContext = request.scope["context"]
    log.error("request failed", request_id=context.id, route=context.route, exc_info=error)
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

    def header_lines(self, request: Mapping[bytes, bytes]) -> bytes:
        """The same as lines for a head; most callers are no browser, so theirs are ready."""
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
        self._on_end = state.on_end
        self._begin_trace = state.begin_trace
        self._deps = state.deps
        app = rest(state)
        self._rest: Callable[[Scope, Receive, Send], Awaitable[None]] = app
        routes = [route for route in app.routes if isinstance(route, Route) and route is not passthrough.ROUTE]
        self._names = [(route.path_regex, route.path_format) for route in routes]
        self._cors = Cors(state.settings.cors_origins)
        keys = state.settings.openai_api_key, state.settings.zion_api_key, state.settings.admin_key
        self._secrets = tuple(key.get_secret_value() for key in keys if key is not None)

    def serve_at_once(self, request: ClientRequest) -> Awaitable[None] | None:
        """Serve a request to a metered endpoint, as nearly all are; None for others, which are served in ASGI."""
        endpoint = ENDPOINTS.get(request.path)
        if endpoint is None or request.method != "POST":
            return None
        query = request.target[2]
        return self._exchange(endpoint, request, request.receive, request.send, request.headers, query, request.client)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request."""
        connection: ClientRequest | None = scope.get("extensions", {}).get("sentinel.connection")
        client, path = scope.get("client"), served_path(scope["path"])
        scope["asked_path"], scope["path"] = scope["path"], path
        endpoint = ENDPOINTS.get(path)
        if endpoint is None and gemini.takes_key(path):
            scope["headers"] = gemini.with_key(scope["headers"], scope["query_string"])
            endpoint = gemini.endpoint_of(path, scope["query_string"])
        headers, address = by_name(scope["headers"]), client[0] if client else None
        if endpoint is not None and scope["method"] == "POST":
            return self._exchange(endpoint, connection, receive, send, headers, scope["query_string"], address)
        # Some providers take a path in any case, so in another one it is no other path.
        is_route = any(pattern.match(path) or pattern.match(path.lower()) for pattern, _ in self._names)
        passed = passthrough.passed_path(scope["method"], scope["path"], is_route=is_route)
        if passed is not None:
            return self._pass_on(*passed, scope, receive, send, headers)
        route = None if endpoint is None else endpoint.route
        context = scope["context"] = self._context(route, address, headers)
        if connection is not None:
            connection.context = context
        return self._beside(context, headers, scope, receive, send)

    def _context(self, route: str | None, address: str | None, headers: Mapping[bytes, bytes]) -> RequestContext:
        agent = headers.get(b"user-agent", b"")
        if self._begin_trace is None:
            return RequestContext(new_request_id(), route, monotonic(), address, agent)
        trace = self._begin_trace(route, headers)
        return RequestContext(new_request_id(), route, monotonic(), address, agent, trace=trace)

    def _exchange(
        self,
        endpoint: Endpoint[Any],
        connection: ClientRequest | None,
        receive: Receive,
        send: Send,
        headers: Mapping[bytes, bytes],
        query: bytes,
        address: str | None,
    ) -> Awaitable[None]:
        context = self._context(endpoint.route, address, headers)
        if connection is not None:
            connection.context = context
        header_lines = self._cors.header_lines(headers) + endpoint.id_lines(context.id.encode())
        side = ArrayClientSide if endpoint.is_array else ClientSide
        client = side(connection, receive, send, headers, header_lines, query)
        return Exchange(self._deps, endpoint, client, context).run()

    def _pass_on(
        self, about: ObjectPath, sent: bytes, scope: Scope, receive: Receive, send: Send, headers: Mapping[bytes, bytes]
    ) -> Awaitable[None]:
        """Serve a request that is passed through."""
        connection: ClientRequest | None = scope.get("extensions", {}).get("sentinel.connection")
        speaks, address = passthrough.spoken_at(scope["path"], ENDPOINTS), scope.get("client")
        context = self._context(passthrough.PATH, address[0] if address else None, headers)
        context.method, context.path = scope["method"], scope["path"]
        context.secrets = (*secrets_of(headers), *self._secrets)
        if connection is not None:
            connection.context = context
        header_lines = self._cors.header_lines(headers) + speaks.id_lines(context.id.encode())
        client = ClientSide(connection, receive, send, headers, header_lines, scope["query_string"])
        return Passthrough(self._deps, speaks, client, context, about, sent).run()

    async def _beside(
        self, context: RequestContext, headers: Mapping[bytes, bytes], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Serve what is no exchange, and log it."""
        path, context.method = scope["path"], scope["method"]
        context.route = next((name for pattern, name in self._names if pattern.match(path)), None)
        if context.route is None:
            context.path, context.secrets = path, (*secrets_of(headers), *self._secrets)
        common = [*self._cors.headers(headers), (b"x-request-id", context.id.encode())]
        scope["request_id"], scope["common"] = context.id, common
        answer = _adding(context, common, send)
        try:
            if context.method == "OPTIONS":
                await _empty(self._cors.preflight(headers), answer)
            else:
                await self._rest(scope, receive, answer)
            if context.error_code is None and context.status < 500:
                context.outcome = "ok"
        except asyncio.CancelledError:
            # As in an exchange it ends here, with an answer where none has begun.
            if not context.status:
                error = ServiceUnavailable("The server is shutting down.", retry_after_seconds=1)
                await _answer_of(error, context, path)(scope, receive, answer)
            context.outcome = "shutdown"
        finally:
            self._on_end(context, "debug" if context.route in _QUIET else "info")


async def _empty(headers: list[Header], send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _adding(context: RequestContext, common: list[Header], send: Send) -> Send:
    """`send` with the common headers, which handlers may add to until the answer starts; its status is noted."""

    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            context.status = context.status or message["status"]
            message["headers"] = [*message["headers"], *common]
        await send(message)

    return wrapped
