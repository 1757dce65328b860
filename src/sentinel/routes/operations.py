"""What operators ask: /health, /health/ready, /health/live, /metrics, and /admin."""

from __future__ import annotations

import hmac

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sentinel.error import AccessDenied, InvalidApiKey, UserNotFound
from sentinel.middleware import auth
from sentinel.proxy.headers import by_name
from sentinel.routes.state import AppState


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


async def refresh_user(request: Request) -> Response:
    """POST /admin/users/{external_id}/refresh: forget the user's tokens, and ask Zion for the limits at once."""
    state: AppState = request.app.state.sentinel
    key = state.settings.admin_key
    if key is None:
        raise AccessDenied("Administration is off: no ADMIN_KEY is set.")
    token = auth.bearer_token(by_name(request.scope["headers"]).get(b"authorization"))
    if not hmac.compare_digest(token, key.get_secret_value().encode()):
        raise InvalidApiKey("Incorrect admin key provided.")
    user = request.path_params["user"]
    await state.deps.cache.forget_user(user)
    try:
        await state.deps.cache.refresh_limits(user, -1)
    except AccessDenied as error:
        # For a caller that is a refusal; the operator is told what it is about.
        raise UserNotFound(f"No limits are known for the user '{user[:96]}'.") from error
    return _json({"user": user, "refreshed": True})
