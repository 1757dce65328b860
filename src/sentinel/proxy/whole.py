"""The phase `relay` for a whole answer: what it has cost is learned before the client gets any of it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from sentinel.clock import monotonic
from sentinel.error import PlaceTaken, UpstreamError
from sentinel.proxy import billing, jobs, outcome, reservation
from sentinel.proxy.provider import ProviderAnswer
from sentinel.proxy.relay import LARGE_EVENT_BYTES
from sentinel.proxy.state import ExchangeState
from sentinel.tokens.counter import is_large
from sentinel.tokens.usage import NOTHING

log = structlog.get_logger()

_HTML = re.compile(rb"^content-type: *text/html\b", re.IGNORECASE | re.MULTILINE)

Complete = Callable[[], Awaitable[None] | None]
"""Sends what is left of an answer, once its usage is durable; None where nothing needs to be waited for."""


async def relay_whole(exchange: ExchangeState, answer: ProviderAnswer) -> Complete:
    """Learn what a whole answer has cost. Raises PlaceTaken, and UpstreamError for one that is not for the client."""
    context, deps, endpoint = exchange.context, exchange.deps, exchange.endpoint
    if endpoint.is_free or answer.status != 200:
        return _without_cost(exchange, answer)
    body, read_answer = answer.body, endpoint.read_answer
    if (kind := endpoint.job_kind(exchange.request)) and await jobs.follow_whole(exchange, kind, body):
        context.outcome = "ok"
        return partial(_complete, exchange, answer)
    if exchange.answer_claim is not None:
        exchange.answer_claim.keep(len(body))
    reading = read_answer(body) if len(body) <= LARGE_EVENT_BYTES else await deps.beside(read_answer, body)
    if reading is None or _is_page(answer):
        raise UpstreamError("The model provider gave a broken answer.")
    # An error that comes with status 200 costs no tokens, nor does an answer that says nothing.
    if not reading.is_generated and (reading.failed or reading.usage == NOTHING):
        context.outcome = "upstream_error"
        return partial(_complete, exchange, answer)
    counted = 0
    if reading.texts:
        count = partial(deps.counter.count_generated, reading.texts, context.model)
        counted = await deps.beside(count) if is_large(len(body)) else count()
    spent = billing.spent(reading.usage, context.counted_input, counted)
    if monotonic() > exchange.lease.ends:
        await _take_up(exchange, spent.cost.output)
    exchange.spent = spent
    if endpoint.creates and endpoint.creates_with(exchange.request):
        await exchange.note_created(body)
    context.outcome = "ok"
    context.finish_reason = reading.finished[0][1] if reading.finished else None
    if exchange.spent.cost.output < exchange.verdict.granted_output:
        reservation.learn(deps.estimator, exchange.reservation, exchange.bound, exchange.spent)
    return partial(_complete, exchange, _rewritten(exchange, answer) if endpoint.rewrites else answer)


def _is_page(answer: ProviderAnswer) -> bool:
    """Whether it is a gateway's page; formats whose answers are any text, or any bytes, would take it for an answer."""
    return answer.body[:64].lstrip()[:1] == b"<" and _HTML.search(answer.header_lines) is not None


def _rewritten(exchange: ExchangeState, answer: ProviderAnswer) -> ProviderAnswer:
    body = exchange.endpoint.rewritten(answer.body)
    return ProviderAnswer(answer.status, answer.header_lines, answer.id, body)


def _without_cost(exchange: ExchangeState, answer: ProviderAnswer) -> Complete:
    """What is free, or was refused. Raises UpstreamError for a refusal that is not for the client."""
    if exchange.endpoint.is_free and (instead := _free(exchange, answer)) is not None:
        return partial(_complete, exchange, instead)
    return _refused(exchange, answer)


def _refused(exchange: ExchangeState, answer: ProviderAnswer) -> Complete:
    """What the provider has refused. Raises UpstreamError where that is not for the client."""
    exchange.context.outcome = "upstream_error"
    if not outcome.concerns_the_client(answer.status) and answer.status not in exchange.endpoint.passed_statuses:
        log.warning("provider refuses", request_id=exchange.context.id, status=answer.status)
        raise UpstreamError("The model provider failed to process the request.")
    return partial(_complete_refusal, exchange, answer)


def _free(exchange: ExchangeState, answer: ProviderAnswer) -> ProviderAnswer | None:
    """The answer to what costs nothing, the provider's or our own; None for what the provider has refused."""
    if answer.status != 200:
        if not _is_no_path(exchange, answer):
            return None
        answer = exchange.own_answer()
    exchange.context.outcome = "ok"
    return answer


def _is_no_path(exchange: ExchangeState, answer: ProviderAnswer) -> bool:
    """Whether the provider has no such path (404, 405). A 404 that names the model is about that."""
    name = exchange.priced_model.encode()
    return answer.status == 405 or (answer.status == 404 and name not in answer.body)


async def _take_up(exchange: ExchangeState, output: int) -> None:
    """We were held up for longer than a lease. Raises PlaceTaken where others have what this answer needs."""
    await exchange.deps.leases.take_up(exchange.lease)
    # A provider that generates more than it was told to is no reason: that was reserved for nobody.
    needed = min(output, exchange.verdict.granted_output)
    if exchange.verdict.output_is_limited and exchange.lease.output < needed:
        raise PlaceTaken


def _complete(exchange: ExchangeState, answer: ProviderAnswer) -> Awaitable[None] | None:
    client, context, body = exchange.client, exchange.context, answer.body
    context.status = 200
    if client.started:
        return client.end(exchange.endpoint.as_stream(body) if context.streamed else body)
    header_lines = answer.header_lines + context.trace_lines(monotonic())
    return None if client.answer_at_once(200, header_lines, body) else client.answer(200, header_lines, body)


async def _complete_refusal(exchange: ExchangeState, answer: ProviderAnswer) -> None:
    client, context = exchange.client, exchange.context
    if client.started:
        log.info("provider refuses what was told to be a stream", request_id=context.id, status=answer.status)
        await client.end(exchange.endpoint.refusal_as_stream(answer.status, answer.body))
        return
    context.status = answer.status
    await client.answer(answer.status, answer.header_lines + context.trace_lines(monotonic()), answer.body)
