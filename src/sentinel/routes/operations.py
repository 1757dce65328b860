"""What operators ask: /health, /health/ready, /health/live, /metrics, and /admin."""

from __future__ import annotations

import hmac
from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sentinel.error import AccessDenied, InvalidApiKey, InvalidType, NotFound, RequestTooLarge
from sentinel.middleware import auth, refresh
from sentinel.proxy.headers import by_name
from sentinel.routes.state import AppState

_MOST_BODY_BYTES = 8 * 1024
_MOST_USERS_BYTES = 512 * 1024

_User = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class _Given(msgspec.Struct):
    """Who an object is given to."""

    user: _User


class _Changed(msgspec.Struct):
    """Who is to be refreshed."""

    users: Annotated[list[_User], msgspec.Meta(min_length=1, max_length=refresh.MOST_USERS)]


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _word(healthy: bool) -> Response:
    return _json({"status": "healthy" if healthy else "unhealthy"}, 200 if healthy else 503)


async def here(_: Request) -> Response:
    """Yes: what Claude Code asks before anything else (HEAD / and /api/hello)."""
    return Response()


async def health(request: Request) -> Response:
    """Everything: 200 while requests can be served."""
    state: AppState = request.app.state.sentinel
    report = await state.probe.report()
    return _json(report, 503 if report["status"] == "unhealthy" else 200)


async def ready(request: Request) -> Response:
    """Whether a load balancer should send requests here."""
    state: AppState = request.app.state.sentinel
    return _word(await state.probe.ready())


async def live(_: Request) -> Response:
    """Whether the process runs its loop."""
    return _word(healthy=True)


async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    state: AppState = request.app.state.sentinel
    return Response(state.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _administered(request: Request) -> AppState:
    """The state, for who has the admin key. Raises AccessDenied, MissingApiKey, InvalidApiKey."""
    state: AppState = request.app.state.sentinel
    key = state.settings.admin_key
    if key is None:
        raise AccessDenied("Administration is off: no ADMIN_KEY is set.")
    token = auth.bearer_token(by_name(request.scope["headers"]).get(b"authorization"))
    if not hmac.compare_digest(token, key.get_secret_value().encode()):
        raise InvalidApiKey("Incorrect admin key provided.")
    return state


async def object_owner(request: Request) -> Response:
    """/admin/objects/{id}/owner: whose an object of the provider is; POST {"user": ...} gives it to a user.

    For objects from before Sentinel, which are nobody's, and for those of users who have left.
    """
    ownership = _administered(request).deps.ownership
    id_ = request.path_params["object"]
    if request.method == "POST":
        try:
            given = msgspec.json.decode(await _small_body(request), type=_Given)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidType("The body must be JSON with the user's external id as `user`.", param="user") from error
        if not await ownership.give(given.user, id_):
            raise NotFound(f"This can be no object: '{id_[:64]}'.")
    owner = await ownership.owner(id_)
    if owner is None:
        raise NotFound(f"No user has the object '{id_[:64]}'.")
    return _json({"object": id_, "user": owner})


async def _small_body(request: Request, most_bytes: int = _MOST_BODY_BYTES) -> bytes:
    """The body. Raises RequestTooLarge."""
    pieces, size = [], 0
    async for piece in request.stream():
        pieces.append(piece)
        size += len(piece)
        if size > most_bytes:
            raise RequestTooLarge(f"Request body is larger than the limit of {most_bytes} bytes.")
    return b"".join(pieces)


async def refresh_user(request: Request) -> Response:
    """POST /admin/users/{external_id}/refresh: forget the user's tokens, and ask Zion for the limits at once."""
    state = _administered(request)
    user = request.path_params["user"]
    await refresh.refresh_user(user, state.deps.cache)
    return _json({"user": user, "refreshed": True})


async def refresh_users(request: Request) -> Response:
    """POST /admin/users/refresh: the same for many, {"users": [...]}; who has no account here costs next to nothing."""
    deps = _administered(request).deps
    try:
        users = msgspec.json.decode(await _small_body(request, _MOST_USERS_BYTES), type=_Changed).users
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        text = f"The body must be JSON with 1 to {refresh.MOST_USERS:,} external ids as `users`."
        raise InvalidType(text, param="users") from error
    told = await refresh.refresh_users(users, deps.cache, deps.ledger)
    fields = {"users": len(users), "known": told.known, "refreshed": told.refreshed, "errors": told.errors}
    return _json(fields)


async def revoke_user(request: Request) -> Response:
    """POST /admin/users/{external_id}/revoke: forget the user's tokens and limits; the next request must ask Zion."""
    state = _administered(request)
    user = request.path_params["user"]
    return _json({"user": user, "revoked": True, "known": await refresh.revoke_user(user, state.deps.cache)})
