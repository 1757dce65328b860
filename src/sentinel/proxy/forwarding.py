"""The phase `forward`: the request is sent to its provider, whose answer is whole, or a stream."""

from __future__ import annotations

import asyncio
from functools import partial

from sentinel.clock import monotonic
from sentinel.endpoints.endpoint import UNCHANGED, Changes
from sentinel.endpoints.form import is_form
from sentinel.proxy import headers as passing
from sentinel.proxy import jobs, reservation, tiers
from sentinel.proxy.array_stream import ArrayStream
from sentinel.proxy.client import ClientGone
from sentinel.proxy.provider import ProviderAnswer, ProviderRequest, ProviderStream, Room
from sentinel.proxy.registry import Target
from sentinel.proxy.relay import is_array, is_event_stream, is_whole
from sentinel.proxy.state import ExchangeState
from sentinel.tokens.counter import is_large


async def forward(exchange: ExchangeState) -> ProviderAnswer | ProviderStream:
    """Send the request on; again, without what only we added, where that is refused. Returns the provider's answer.

    From here on a client that leaves cancels the exchange, unless it begins a job. Raises ClientGone, UpstreamError,
    UpstreamTimeout.
    """
    deps, client, context = exchange.deps, exchange.client, exchange.context
    request, endpoint = exchange.request, exchange.endpoint
    begins_job = bool(endpoint.job_kind(request))
    if begins_job:
        jobs.demand_followers(exchange)
    exchange.lease = deps.leases.hold(exchange.reservation, exchange.verdict, context.identified)
    client.watch(deps.tasks)
    if client.gone:
        raise ClientGone
    if begins_job:
        # The provider goes on for who leaves now, too: until it is known with what, nothing is cancelled.
        client.unwatch()
    if request.stream:
        exchange.watched = deps.keepalive.watch(client, partial(_early_head, exchange), endpoint.comment)
    answer = await (_send(exchange) if exchange.choice is None else tiers.forward(exchange, _send))
    # A stream may go on for an hour, and its request will not be sent again.
    exchange.body = b""
    if exchange.upstream is not None:
        exchange.upstream.body = b""
    client.holds(0)
    return answer


async def _send(exchange: ExchangeState) -> ProviderAnswer | ProviderStream:
    """Send the request on; again, without what only we added, where that is refused."""
    deps, client, context = exchange.deps, exchange.client, exchange.context
    request, endpoint = exchange.request, exchange.endpoint
    target = deps.registry.targets(endpoint.format, request.model)[0]
    exchange.prices = target.prices
    most = reservation.output_max(exchange.bound, exchange.reservation, exchange.verdict)
    wanted = endpoint.changes(request, exchange.bound, most)
    changes = wanted if wanted is UNCHANGED else target.additions.allowed(request.model, wanted)
    answer: ProviderAnswer | ProviderStream
    content_type = _content_type(exchange) if endpoint.takes_forms else passing.JSON
    header_lines = passing.to_provider(client.headers, context.id.encode(), exchange.reservation.user, content_type)
    path = endpoint.path + passing.query_to_provider(client.query, endpoint.query) if client.query else endpoint.path
    room = room_of(exchange)
    context.forwarded = monotonic()
    while True:
        exchange.is_refused = False
        is_small = not is_large(len(exchange.body))
        body = endpoint.changed(exchange.body, request, changes) if is_small else await _changed(exchange, changes)
        upstream = exchange.upstream = ProviderRequest(path, header_lines, body)
        if context.streamed or endpoint.passes_bytes:
            answer = await _open_stream(exchange, target, upstream, room)
        else:
            answer = await target.provider.post(upstream, partial(_blank_came, exchange), room)
            # A whole answer may have begun with white space.
            context.provider_answered(answer.id, monotonic(), is_first=not client.started)
            exchange.is_refused = answer.status != 200
        if not exchange.is_refused:
            if changes.left_out:
                target.additions.taken(request.model, changes)
            break
        assert isinstance(answer, ProviderAnswer)
        again = target.additions.again(changes, answer.status, answer.body)
        if again is None:
            break
        changes = again
    return answer


async def _open_stream(
    exchange: ExchangeState, target: Target, upstream: ProviderRequest, room: Room
) -> ProviderAnswer | ProviderStream:
    """The answer to a request for a stream; it is whole where it is a refusal, for not all know how to stream."""
    stream = exchange.stream = await target.provider.stream(upstream, room)
    exchange.context.provider_answered(stream.id, monotonic())
    exchange.is_refused = stream.status != 200
    if exchange.endpoint.is_array and not exchange.is_refused and await is_array(stream):
        stream = exchange.stream = ArrayStream(stream)
        return stream
    return await stream.whole() if exchange.is_refused or await _is_whole(exchange, stream) else stream


async def _is_whole(exchange: ExchangeState, stream: ProviderStream) -> bool:
    """Whether an answer is none to be relayed; one whose bytes pass as they come is no stream of events any more."""
    endpoint, context = exchange.endpoint, exchange.context
    if not endpoint.marks_streams:
        return await is_whole(stream)
    if context.streamed and is_event_stream(stream):
        return False
    if not endpoint.passes_bytes or await is_whole(stream) or exchange.client.started:
        return True
    context.streamed = False
    return False


def _content_type(exchange: ExchangeState) -> bytes:
    """What the body was read as: the client's own form, or JSON."""
    given = exchange.client.headers.get(b"content-type", b"")
    return given if is_form(given) else passing.JSON


async def _changed(exchange: ExchangeState, changes: Changes) -> bytes:
    """A large body as it is sent on."""
    before = exchange.body
    body = await asyncio.to_thread(exchange.endpoint.changed, before, exchange.request, changes)
    if body is not before:
        exchange.client.holds(len(before) + len(body))
    return body


def room_of(exchange: ExchangeState) -> Room:
    """What waits until more of the answer may be in memory."""
    return partial(_room, exchange)


async def _room(exchange: ExchangeState, count: int) -> None:
    """Wait until so much more of an answer may be in memory."""
    if exchange.answer_claim is None:
        exchange.answer_claim = exchange.deps.answers.claim()
        exchange.answer_claim.belongs_to(exchange.reservation.user)
    await exchange.answer_claim.room(count)


def _early_head(exchange: ExchangeState) -> bytes:
    """The head of a stream whose provider is silent: the client is told 200, so that it goes on waiting."""
    context, now = exchange.context, monotonic()
    context.status, context.provider_seconds = 200, now - context.forwarded
    return passing.EVENT_STREAM + context.trace_lines(now) + passing.STREAM


async def _blank_came(exchange: ExchangeState, begun: ProviderAnswer) -> None:
    """Pass on what a provider sends to keep the connection alive until its whole answer is ready."""
    client, context, now = exchange.client, exchange.context, monotonic()
    if not client.started:
        context.provider_answered(begun.id, now)
        context.status = 200
        await client.start(200, begun.header_lines + context.trace_lines(now))
    await client.write(begun.body)
