"""The phase `reserve`: the ledger admits a request, or refuses it and changes nothing."""

from __future__ import annotations

import asyncio

from sentinel.limits.policy import Reservation, Verdict
from sentinel.middleware import rate_limiter
from sentinel.proxy.billing import SPENT_NOTHING
from sentinel.proxy.logging import RequestContext
from sentinel.proxy.reservation import least
from sentinel.proxy.state import ExchangeState


async def reserve(exchange: ExchangeState, reservation: Reservation) -> Verdict:
    """The verdict that admits this request. Raises the refusal, AccessDenied, ZionUnavailable, RedisUnavailable."""
    deps = exchange.deps
    try:
        verdict = await deps.ledger.reserve(reservation)
        if verdict.refresh or not verdict.quota_known:
            patience = _patience(exchange.context)
            verdict = await rate_limiter.with_limits(verdict, reservation, deps.ledger, deps.cache, patience)
    except asyncio.CancelledError:
        # What was asked may yet be done.
        deps.tracker.withdraw(reservation)
        raise
    return _admitted(exchange, verdict)


async def peek(exchange: ExchangeState) -> None:
    """Refuse a large request of a user who has nothing left before it is read, with the refusal it would get."""
    deps, context = exchange.deps, exchange.context
    assert context.user is not None
    smallest = least(context.id, context.user)
    try:
        verdict = await rate_limiter.peek(smallest, deps.ledger, deps.cache, _patience(context))
    except asyncio.CancelledError:
        deps.tracker.withdraw(smallest)
        raise
    if verdict is not None and verdict.admitted:
        await deps.tracker.settle(smallest, SPENT_NOTHING.cost, verdict.now_ms)
    elif verdict is not None:
        _admitted(exchange, verdict)


def _patience(context: RequestContext) -> float:
    """So long governance may take for limits, after what it took for the token."""
    return rate_limiter.ZION_SECONDS - (context.identified - context.started)


def _admitted(exchange: ExchangeState, verdict: Verdict) -> Verdict:
    """Note the verdict for the log line and the answer's headers. Raises a refusal."""
    exchange.context.verdict = verdict
    exchange.client.header_lines += rate_limiter.lines_of(verdict) + exchange.endpoint.limit_lines(verdict)
    if not verdict.admitted:
        exchange.context.outcome = "refused"
        raise rate_limiter.refusal_of(verdict)
    return verdict
