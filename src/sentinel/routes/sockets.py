"""WebSockets: GET /v1/responses and GET /v1/realtime.

The handshake is plain HTTP, with its errors; what follows is a session's affair. Who does not ask for a WebSocket gets
426. The provider's side is opened first, so that what is wrong with it is told by a status; the handshake itself costs
nothing.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Protocol, cast
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from websockets.utils import accept_key

from sentinel.cache.client_secrets import SecretOwner
from sentinel.clock import monotonic
from sentinel.endpoints.references import Reference
from sentinel.endpoints.response_create import RESPONSE_CREATE
from sentinel.error import (
    AccessDenied,
    AppError,
    InvalidApiKey,
    InvalidJson,
    ModelNotFound,
    UnknownUrl,
    UpgradeRequired,
    UpstreamError,
)
from sentinel.governance.port import AuthenticatedUser
from sentinel.memory_budget import Claim
from sentinel.middleware import auth, model_check
from sentinel.proxy import outcome
from sentinel.proxy.headers import by_name, lines_of, pairs_of, query_to_provider
from sentinel.proxy.logging import RequestContext
from sentinel.proxy.provider import ProviderAnswer, Socket, SocketRefused, SocketRequest
from sentinel.proxy.realtime_response import FORMAT
from sentinel.proxy.realtime_session import RealtimeSession, look_for_rest
from sentinel.proxy.registry import Target
from sentinel.proxy.responses_session import NOT_SPOKEN, ResponsesSession
from sentinel.proxy.state import Dependencies
from sentinel.proxy.transport.websocket import WebSocket, server_side
from sentinel.routes.state import AppState

RESPONSES = "/v1/responses"
REALTIME = "/v1/realtime"
CALLS = "/v1/realtime/calls"

_PASSING = (b"user-agent", b"openai-beta")
_KEY_BYTES = 16
_KEY, _BETA, _SECRET = "openai-insecure-api-key.", "openai-beta.realtime-v1", b"ek_"
_QUERY = frozenset((b"model", b"call_id", b"intent"))


class Connection(Protocol):
    """What our own server gives beside ASGI, as far as an upgrade needs it (server/request.py)."""

    on_shutdown: Callable[[], None] | None

    @property
    def can_upgrade(self) -> bool:
        """Whether the connection can go on in the protocol that the request asks for."""

    def accept_upgrade(self, header_lines: bytes, protocol: asyncio.Protocol) -> bool:
        """Answer 101, and give the connection to `protocol`."""

    def claim_for(self, user: str) -> Claim:
        """What is held of the request, as this user's."""


class Session(Protocol):
    """What serves a client's socket."""

    def stop(self) -> None:
        """The server shuts down."""

    async def run(self, socket: Socket, upstream: Socket) -> None:
        """Serve the client until one of the two sides leaves."""


class Upgraded(Response):
    """The answer to a request whose connection has gone on as a WebSocket: nothing is left to be sent."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send nothing."""


def may_upgrade(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request asks for a WebSocket."""
    return b"websocket" in (word.strip() for word in headers.get(b"upgrade", b"").lower().split(b","))


async def responses(request: Request) -> Response:
    """Responses over a WebSocket."""
    headers, state, context, connection = _asked(request)
    context.user = await auth.identify(headers, state.deps.cache, context.client)
    accepted = _handshake(request, headers, connection)
    try:
        target = state.deps.registry.with_sockets(RESPONSE_CREATE.format, "")
    except ModelNotFound as nobody:
        # A request over HTTP names its model, and may be translated.
        raise _upgrade_required(request, "no model provider speaks them") from nobody
    context.provider = target.name
    asked = SocketRequest(RESPONSE_CREATE.path, [*_passing(headers), (b"x-request-id", context.id.encode())])
    try:
        upstream = await _open(target, asked, context)
    except SocketRefused as refused:
        if refused.answer.status < 300 or refused.answer.status in NOT_SPOKEN:
            raise _upgrade_required(request, "the model provider does not speak them") from refused
        return _refusal(refused.answer)

    def session(claim: Claim) -> ResponsesSession:
        return ResponsesSession(state.deps, target, headers, context, claim, lambda to: _open(to, asked, context))

    return await _serve(request, accepted, session, upstream)


async def realtime(request: Request) -> Response:
    """A realtime session, of a user or with a client secret of theirs."""
    headers, state, context, connection = _asked(request)
    deps = state.deps
    headers = {**headers, **_browsers_token(headers)}
    user, secret = await _identify(headers, deps, context)
    context.user = user
    accepted = _handshake(request, headers, connection)
    if "realtime" in _subprotocols(headers):
        accepted += b"sec-websocket-protocol: realtime\r\n"
    query = request.query_params
    place = user.place if isinstance(user, SecretOwner) else ""
    if (call := query.get("call_id")) is not None:
        references = [Reference(call, "calls", "call_id")]
        await deps.ownership.check(user.id, references)
        place = await deps.ownership.place(references, deps.registry.home) if deps.registry.is_many else ""
    model = query.get("model", "")
    named = dict.fromkeys(query.getlist("model"), "model")
    if not named and call is None and secret is None and query.get("intent") != "transcription":
        # Of the others the model is named elsewhere, or they only transcribe.
        named[""] = "model"
    model_check.check(user, named)
    named_model = model or (user.model if isinstance(user, SecretOwner) else "")
    await look_for_rest(deps, user)
    target = deps.registry.with_sockets(FORMAT, named_model, place)
    context.provider = target.name
    passing = [*_passing(headers), (b"x-request-id", context.id.encode())]
    if _BETA in _subprotocols(headers) and b"openai-beta" not in headers:
        passing.append((b"openai-beta", b"realtime=v1"))
    asked = request.scope["query_string"]
    if target.route is not None and target.route.model is not None and model:
        # Its name there.
        asked = urlencode([*((name, value) for name, value in query.multi_items() if name != "model"),
                           ("model", target.route.model)]).encode()  # fmt: skip
    path = b"/realtime" + query_to_provider(asked, _QUERY)
    try:
        upstream = await _open(target, SocketRequest(path, passing, secret), context)
    except SocketRefused as refused:
        if secret is not None and refused.answer.status == 401:
            raise InvalidApiKey("Incorrect API key provided: this client secret has ended.") from refused
        return _refusal(refused.answer)

    async def identify() -> AuthenticatedUser | None:
        # A secret opens sessions for a while; one that it has opened lasts longer.
        return await auth.identify(headers, deps.cache, context.client) if secret is None else None

    def session(_: Claim) -> RealtimeSession:
        judges_told = not model and secret is None
        return RealtimeSession(deps, user, context, named_model, target, identify, judges_told=judges_told)

    return await _serve(request, accepted, session, upstream)


async def calls(request: Request) -> Response:
    """WebRTC: its sound goes past us, so that nobody here could see what is said, or end it."""
    _, state, context, _ = _asked(request)
    context.user = await auth.identify(by_name(request.scope["headers"]), state.deps.cache, context.client)
    raise UnknownUrl(
        f"Sentinel does not serve {request.method} {request.scope['path']}: WebRTC goes past it, so limits could not "
        f"hold. Use a WebSocket: GET {REALTIME}."
    )


def _subprotocols(headers: Mapping[bytes, bytes]) -> list[str]:
    offered = headers.get(b"sec-websocket-protocol", b"").decode("latin-1")
    return [word.strip() for word in offered.split(",")]


def _browsers_token(headers: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """The token as browsers send it, which may set no header for a WebSocket: as a subprotocol that nobody speaks."""
    token = next((word[len(_KEY) :] for word in _subprotocols(headers) if word.startswith(_KEY)), None)
    if token is None or b"authorization" in headers:
        return {}
    return {b"authorization": b"Bearer " + token.encode("latin-1")}


async def _identify(
    headers: Mapping[bytes, bytes], deps: Dependencies, context: RequestContext
) -> tuple[AuthenticatedUser, bytes | None]:
    """The caller, and the client secret where they came with one: the provider knows what session it is for."""
    token = auth.token_of(headers)
    if token.startswith(_SECRET) and deps.secrets is not None:
        user = await deps.secrets.user_of(token)
        if user is not None:
            return user, token
    return await auth.identify(headers, deps.cache, context.client), None


def _asked(request: Request) -> tuple[Mapping[bytes, bytes], AppState, RequestContext, Connection]:
    connection = request.scope.get("extensions", {}).get("sentinel.connection")
    context: RequestContext = request.scope["context"]
    return (
        by_name(request.scope["headers"]),
        request.app.state.sentinel,
        context,
        cast("Connection", connection),
    )


def _handshake(request: Request, headers: Mapping[bytes, bytes], connection: Connection | None) -> bytes:
    """The headers of the 101 (RFC 6455, 4.2.2). Raises UpgradeRequired, InvalidJson, AccessDenied."""
    if connection is None or not may_upgrade(headers) or not connection.can_upgrade:
        raise _upgrade_required(request, "")
    key = headers.get(b"sec-websocket-key", b"")
    if headers.get(b"sec-websocket-version") != b"13":
        raise _upgrade_required(request, "it must be of version 13")
    try:
        is_key = len(base64.b64decode(key, validate=True)) == _KEY_BYTES
    except binascii.Error:
        is_key = False
    if not is_key:
        raise InvalidJson("The handshake of a WebSocket needs a Sec-WebSocket-Key.", param="sec-websocket-key")
    origin, allowed = headers.get(b"origin"), request.app.state.sentinel.settings.cors_origins
    if origin is not None and not {"*", origin.decode("latin-1")} & {each.strip() for each in allowed.split(",")}:
        raise AccessDenied("Browsers may not call from this origin.")
    accept = accept_key(key.decode()).encode()
    return lines_of([(b"upgrade", b"websocket"), (b"sec-websocket-accept", accept), *request.scope["common"]])


def _upgrade_required(request: Request, why: str) -> UpgradeRequired:
    path = request.scope["path"]
    text = f"GET {path} is for WebSockets{f': {why}' if why else ''}."
    instead = f" Use POST {path}." if path == RESPONSES else ""
    return UpgradeRequired(text + instead, headers=((b"upgrade", b"websocket"), (b"sec-websocket-version", b"13")))


def _passing(headers: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    return [(name, headers[name]) for name in _PASSING if name in headers]


async def _open(target: Target, asked: SocketRequest, context: RequestContext) -> Socket:
    """A socket to the provider. Raises SocketRefused, UpstreamError, UpstreamTimeout, ServiceUnavailable."""
    if target.sockets is None:
        raise SocketRefused(ProviderAnswer(426, b"", None, b""))
    trace = context.trace
    if trace is None:
        return await target.sockets.open(asked)
    sent = trace.goes_to(target.place, target.name, "", monotonic(), is_translated=False)
    headers = [*asked.headers, *pairs_of(trace.header_lines())]
    try:
        socket = await target.sockets.open(SocketRequest(asked.path, headers, asked.key))
    except SocketRefused as refused:
        sent.answered(refused.answer.status, None, monotonic())
        raise
    except BaseException as error:
        sent.failed(error.code if isinstance(error, AppError) else None, monotonic())
        raise
    sent.answered(101, None, monotonic())
    return socket


def _refusal(answer: ProviderAnswer) -> Response:
    """A provider's refusal of a handshake, as far as it concerns the client. Raises UpstreamError."""
    if not outcome.concerns_the_client(answer.status):
        raise UpstreamError("The model provider failed to process the request.")
    response = Response(answer.body, answer.status)
    response.raw_headers += pairs_of(answer.header_lines)
    return response


async def _serve(request: Request, accepted: bytes, make: Callable[[Claim], Session], upstream: Socket) -> Response:
    """Accept the client's side, and have a session serve it to its end. make: one that counts what it holds so."""
    _, state, context, connection = _asked(request)
    assert context.user is not None
    socket: WebSocket = server_side(state.settings.max_body_bytes, state.settings.stream_keepalive_seconds)
    if not connection.accept_upgrade(accepted, socket):
        upstream.abort()
        # It has left meanwhile.
        context.outcome = "client_gone"
        return Upgraded()
    context.status, context.first_byte = 101, monotonic()
    claim = socket.claim = connection.claim_for(context.user.id)
    session = make(claim)
    connection.on_shutdown = session.stop
    try:
        await session.run(socket, upstream)
    finally:
        upstream.close()
        await _closed(socket)
    return Upgraded()


_LAST_SECONDS = 3.0


async def _closed(socket: WebSocket) -> None:
    """Wait until what was sent is out and the client has answered the close frame: the end of the task cuts it off."""
    news = asyncio.Event()
    socket.on_news = news.set
    try:
        async with asyncio.timeout(_LAST_SECONDS):
            while not socket.is_over:
                await news.wait()
                news.clear()
    except TimeoutError:
        socket.abort()
