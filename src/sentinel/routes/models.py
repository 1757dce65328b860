"""GET /v1/models and /v1/models/{id}: from the provider, counted by the rate limiter, charged nothing.

What the caller's plan does not have is not listed, and not found.

HEAD is not even counted, and knows the models that the provider lists.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from sentinel.endpoints.objects import page_of
from sentinel.governance.port import AuthenticatedUser
from sentinel.limits.policy import FREE, Reservation
from sentinel.middleware import auth, rate_limiter
from sentinel.proxy.catalog import no_such
from sentinel.proxy.headers import by_name, pairs_of
from sentinel.proxy.logging import RequestContext
from sentinel.routes.state import AppState


async def models(request: Request) -> Response:
    """The list."""
    user = await admit(request)
    state: AppState = request.app.state.sentinel
    listing = await state.catalog.listing(request.scope["request_id"])
    if user.allowed_models is not None:
        page = page_of(listing)
        assert page is not None  # or else the catalog would not have taken it
        page.only({id_ for id_ in page.ids() if user.may_use(id_)}, nameless=False)
        listing = page.encoded()
    return Response(listing, media_type="application/json")


async def model(request: Request) -> Response:
    """One model."""
    user = await admit(request)
    state: AppState = request.app.state.sentinel
    name, request_id = request.path_params["model"], request.scope["request_id"]
    if not user.may_use(name):
        raise no_such(name)
    body = await state.catalog.one(name, request_id, listed_only=request.method == "HEAD")
    return Response(body, media_type="application/json")


async def admit(request: Request) -> AuthenticatedUser:
    """Count a request that costs nothing else; returns the caller. Raises what stands in its way."""
    deps = request.app.state.sentinel.deps
    context: RequestContext = request.scope["context"]
    user = context.user = await auth.identify(by_name(request.scope["headers"]), deps.cache, context.client)
    if request.method == "HEAD":
        # It asks whether there is something, and costs nothing: so it does not reach the provider either.
        return user
    reservation = Reservation(request.scope["request_id"], user.id, user.email, "", 0, 0, 0)
    verdict = await rate_limiter.reserve(reservation, deps.ledger, deps.cache)
    request.scope["common"] += pairs_of(rate_limiter.lines_of(verdict))
    if not verdict.admitted:
        raise rate_limiter.refusal_of(verdict)
    await deps.tracker.settle(reservation, FREE, verdict.now_ms)
    return user
