"""GET /sentinel/quota: the caller's own limits, as the ledger has them. It costs nothing and counts nowhere."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sentinel.config import DIMENSIONS
from sentinel.limits.policy import NOT_LIMITED, View
from sentinel.middleware import auth, rate_limiter
from sentinel.proxy.headers import by_name, pairs_of
from sentinel.proxy.logging import RequestContext
from sentinel.routes.state import AppState
from sentinel.timestamp import rfc3339_seconds


async def own_quota(request: Request) -> Response:
    """What the caller may spend and has spent."""
    state: AppState = request.app.state.sentinel
    context: RequestContext = request.scope["context"]
    user = context.user = await auth.identify(by_name(request.scope["headers"]), state.deps.cache, context.client)
    view = await rate_limiter.look(user.id, state.deps.ledger, state.deps.cache)
    if view.degraded:
        request.scope["common"] += pairs_of(rate_limiter.DEGRADED)
    body = msgspec.json.encode({"user": user.id, **told(view)})
    return Response(body, media_type="application/json", headers={"cache-control": "no-store"})


def told(view: View) -> dict[str, Any]:
    """The view as the answer has it; null for what is not limited, and for a period whose end is not known."""
    policy = view.policy
    return {
        "quota": {
            metric: {
                "limit": None if limit == NOT_LIMITED else limit,
                "used": used,
                "remaining": None if limit == NOT_LIMITED else max(0, limit - used),
                "resets_at": rfc3339_seconds(ends_ms),
            }
            for metric, limit, used, ends_ms in zip(DIMENSIONS, view.limit, view.used, view.ends_ms, strict=True)
        },
        "windows": [
            {
                "metric": window.metric,
                "limit": window.limit,
                "window_seconds": window.window_ms // 1000,
                "remaining": remaining,
                "resets_at": rfc3339_seconds(reset_ms),
            }
            for window, remaining, reset_ms in zip(policy.windows, view.windows[::2], view.windows[1::2], strict=True)
        ],
        "concurrency": {"limit": policy.concurrency, "in_flight": view.in_flight},
    }
