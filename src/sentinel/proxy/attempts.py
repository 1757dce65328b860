"""A request is tried at its targets, one after the other, until one of them has answered it. Conducts.

What leads on: no connection, a provider that is limited (429), busy (408), broken (5xx), or does not take our key (401,
402, 403); never once the client has a byte of an answer. All attempts have one reservation, and what was refused costs
nothing. Source: DESIGN section 9.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from sentinel.clock import monotonic
from sentinel.error import AppError, UpstreamError, UpstreamTimeout
from sentinel.observability.logs import log_name
from sentinel.proxy import outcome
from sentinel.proxy.breaker import Breaker
from sentinel.proxy.logging import Attempt
from sentinel.proxy.provider import ProviderAnswer, ProviderStream
from sentinel.proxy.registry import MOST_ATTEMPTS, Route, Target, all_away
from sentinel.proxy.state import ExchangeState

log = structlog.get_logger()

Answer = ProviderAnswer | ProviderStream
Failure = UpstreamError | UpstreamTimeout
Send = Callable[[ExchangeState, Target], Awaitable[Answer]]
A = TypeVar("A", bound=Answer)

_FULL_SECONDS = 1.0
"""After which there may be room at a target that has as many requests as it may."""
_RETRY_AFTER = re.compile(rb"^retry-after: *(\d{1,6})\r\n", re.IGNORECASE | re.MULTILINE)
_RETRY_AFTER_MS = re.compile(rb"^retry-after-ms: *(\d{1,9})(?:\.\d*)?\r\n", re.IGNORECASE | re.MULTILINE)


async def answer_of(exchange: ExchangeState, targets: Sequence[Target], send: Send) -> Answer:
    """The answer of the first target that has one for the client; else what the last one said.

    Raises what the last attempt did, ServiceUnavailable where nobody takes requests now.
    """
    registry, context, client = exchange.deps.registry, exchange.context, exchange.client
    registry.earned()
    waits: list[float] = []
    last: Answer | Failure | None = None
    waiting = list(reversed(targets))
    while waiting:
        target = waiting.pop()
        assert target.route is not None
        breaker = target.route.breaker(_what(exchange, target.route))
        if (wait := _FULL_SECONDS if target.route.is_full else breaker.wait_seconds(monotonic())) > 0:
            waits.append(wait)
            continue
        if last is not None and not (len(context.attempts) < MOST_ATTEMPTS and registry.may_retry()):
            break
        last = await _attempt(exchange, target, breaker, send)
        if not isinstance(last, Failure) and not outcome.leads_on(last.status):
            return last
        # White space of a whole answer may have begun it.
        if client.started and not context.streamed:
            break
        if _has_another_key(target, last):
            exchange.goes_to(None)
            waiting.append(target)
    if last is None:
        raise all_away(waits)
    if isinstance(last, Failure):
        raise last
    return last


async def traced(exchange: ExchangeState, target: Target, send: Callable[[], Awaitable[A]]) -> A:
    """The answer to one request to this target, noted in the trace where there is one. Raises what `send` does."""
    trace = exchange.context.trace
    if trace is None:
        return await send()
    is_translated, model = target.translator is not None, exchange.priced_model
    sent = trace.goes_to(target.place, target.name, model, monotonic(), is_translated=is_translated)
    try:
        answer = await send()
    except BaseException as error:
        sent.failed(error.code if isinstance(error, AppError) else None, monotonic())
        raise
    sent.answered(answer.status, _retry_after_seconds(answer) if answer.status >= 400 else None, monotonic())
    return answer


def _has_another_key(target: Target, last: Answer | Failure) -> bool:
    """Whether it was the key that was refused or limited, and the same target has one that may do."""
    about_the_key = not isinstance(last, Failure) and last.status in (401, 403, 429)
    return about_the_key and target.pool is not None and target.pool.has_another()


def _what(exchange: ExchangeState, route: Route) -> str:
    """What of a route a breaker is for: a format, or what is free of it, and a model."""
    kind = f"{exchange.endpoint.format}, free" if exchange.endpoint.is_free else exchange.endpoint.format
    return f"{kind} {route.model or exchange.request.model}"


async def _attempt(exchange: ExchangeState, target: Target, breaker: Breaker, send: Send) -> Answer | Failure:
    """What this target answers, or how it failed; its breaker knows."""
    began = monotonic()
    probe = breaker.enter(began)
    exchange.goes_to(target)
    try:
        answer = await send(exchange, target)
    except (UpstreamError, UpstreamTimeout) as error:
        _note(exchange, target, began, error.code)
        _failed(exchange, target, breaker, probe, None)
        return error
    except BaseException:
        breaker.left(probe)
        raise
    _note(exchange, target, began, str(answer.status))
    if _has_another_key(target, answer):
        # The key rests, not the target.
        breaker.left(probe)
    elif outcome.leads_on(answer.status):
        _failed(exchange, target, breaker, probe, _retry_after_seconds(answer))
    else:
        breaker.succeeded(probe)
    return answer


def _note(exchange: ExchangeState, target: Target, began: float, result: str) -> None:
    took_ms = round((monotonic() - began) * 1000, 1)
    model = (target.route.model if target.route is not None else None) or exchange.context.model
    exchange.context.attempts.append(Attempt(target.name, model, result, took_ms))


def _failed(
    exchange: ExchangeState, target: Target, breaker: Breaker, probe: int, retry_after_seconds: float | None
) -> None:
    route = target.route
    if breaker.failed(monotonic(), retry_after_seconds, probe) and route is not None:
        seconds, what = round(breaker.wait_seconds(monotonic()), 1), _what(exchange, route)
        log.warning("a target is left alone", provider=target.name, target=log_name(what), seconds=seconds)
        exchange.deps.registry.on_opened(route.name, what, seconds)


def _retry_after_seconds(answer: Answer) -> float | None:
    """What an answer says of when to come again; a date is as good as nothing here."""
    if (found := _RETRY_AFTER_MS.search(answer.header_lines)) is not None:
        return int(found[1]) / 1000
    found = _RETRY_AFTER.search(answer.header_lines)
    return None if found is None else float(found[1])
