"""The phase `forward`: the request is sent to its provider, whose answer is whole, or a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial

from sentinel.clock import monotonic, now_ms
from sentinel.endpoints.endpoint import UNCHANGED, Changes
from sentinel.endpoints.form import is_form
from sentinel.proxy import adaptation, attempts, jobs, reservation, tiers
from sentinel.proxy import headers as passing
from sentinel.proxy.array_stream import ArrayStream
from sentinel.proxy.client import ClientGone
from sentinel.proxy.provider import ProviderAnswer, ProviderRequest, ProviderStream, Room
from sentinel.proxy.registry import Target
from sentinel.proxy.relay import is_array, is_event_stream, is_whole
from sentinel.proxy.state import ExchangeState
from sentinel.proxy.translated import TranslatedStream, told_of, translated_answer
from sentinel.proxy.translation.pair import Translation
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


def _send(exchange: ExchangeState) -> Awaitable[ProviderAnswer | ProviderStream]:
    """Send the request to its target, or to its targets in turns."""
    plain = exchange.deps.registry.plain
    if plain is None:
        return _send_in_turns(exchange)
    exchange.goes_to(plain)
    return _send_to(exchange, plain)


async def _send_in_turns(exchange: ExchangeState) -> ProviderAnswer | ProviderStream:
    registry, references = exchange.deps.registry, exchange.references
    place = await exchange.deps.ownership.place(references, registry.home) if references and registry.is_many else ""
    endpoint = exchange.endpoint
    targets = registry.targets(endpoint.format, exchange.request.model, place, may_translate=endpoint.translates)
    if targets[0].translator is not None and endpoint.is_free:
        # It has no such path: what counts there is what is counted here.
        return exchange.own_answer(told_of(targets[0].translator))
    if targets[0].route is None:
        exchange.goes_to(targets[0])
        return await _send_to(exchange, targets[0])
    return await attempts.answer_of(exchange, targets, _send_to)


async def _send_to(exchange: ExchangeState, target: Target) -> ProviderAnswer | ProviderStream:
    """Send the request to this target; again, without what only we added, where that is refused."""
    request, endpoint, route, context = exchange.request, exchange.endpoint, target.route, exchange.context
    most = reservation.output_max(exchange.bound, exchange.reservation, exchange.verdict)
    wanted = endpoint.changes(request, exchange.bound, most)
    if route is not None:
        wanted = adaptation.within_habits(wanted, route, is_chat=endpoint.format == adaptation.CHAT)
    changes = wanted if wanted is UNCHANGED else target.additions.allowed(request.model, wanted)
    # Once: what failed attempts took is none of our own time.
    context.forwarded = context.forwarded or monotonic()
    while True:
        if is_large(len(exchange.body)):
            body, translation = await _adapted_beside(exchange, target, changes)
        else:
            body, translation = _adapted(exchange, target, endpoint.changed(exchange.body, request, changes))
        exchange.is_refused = False
        ask = partial(_asked, exchange, target, body, translation)
        answer = await (ask() if context.trace is None else attempts.traced(exchange, target, ask))
        if exchange.stream is None:
            answer = _whole(exchange, target, translation, answer)
        if not exchange.is_refused:
            if changes.left_out:
                target.additions.taken(request.model, changes)
            return answer
        assert isinstance(answer, ProviderAnswer)
        again = target.additions.again(changes, answer.status, answer.body)
        if again is None:
            return answer
        changes = again


def _asked(
    exchange: ExchangeState, target: Target, body: bytes, translation: Translation | None
) -> Awaitable[ProviderAnswer | ProviderStream]:
    """The answer to this body, once it is awaited; `exchange.stream` is there where it was asked for as a stream."""
    client, context, route, endpoint = exchange.client, exchange.context, target.route, exchange.endpoint
    name, path = exchange.request.model, endpoint.path
    if route is not None and route.model is not None:
        name, path = route.model, endpoint.path_of(route.model)
    if translation is not None:
        path = translation.path
    elif client.query:
        path += passing.query_to_provider(client.query, endpoint.query)
    content_type = _content_type(exchange)
    header_lines = passing.to_provider(client.headers, context.id.encode(), exchange.reservation.user, content_type)
    if context.trace is not None:
        header_lines += context.trace.header_lines()
    upstream = exchange.upstream = ProviderRequest(path, header_lines, body, model=name)
    if context.streamed or endpoint.passes_bytes:
        return _open_stream(exchange, target, upstream, translation)
    return target.provider.post(upstream, partial(_blank_came, exchange), room_of(exchange))


def _whole(
    exchange: ExchangeState, target: Target, translation: Translation | None, answer: ProviderAnswer | ProviderStream
) -> ProviderAnswer:
    """An answer that was asked for as a whole, in the client's format."""
    assert isinstance(answer, ProviderAnswer)
    if translation is not None and target.translator is not None:
        answer = translated_answer(answer, target.translator, translation)
    # It may have begun with white space.
    exchange.context.provider_answered(answer.id, monotonic(), is_first=not exchange.client.started)
    exchange.is_refused = answer.status != 200
    return answer


def _adapted(exchange: ExchangeState, target: Target, body: bytes) -> tuple[bytes, Translation | None]:
    """A body as this target wants it, and what translates the answer, if anything must."""
    route = target.route
    if route is None:
        return body, None
    body = adaptation.adapted(body, _content_type(exchange), exchange.request.model, route, exchange.endpoint)
    if target.translator is None:
        return body, None
    translation = target.translator.request(body, now_ms() // 1000)
    if target.translator.provider_format == adaptation.CHAT:
        translation.body = adaptation.with_habits(translation.body, route)
    return translation.body, translation


async def _adapted_beside(
    exchange: ExchangeState, target: Target, changes: Changes
) -> tuple[bytes, Translation | None]:
    """The same of a large body, which is changed first."""
    body = await _changed(exchange, changes)
    return (body, None) if target.route is None else await asyncio.to_thread(_adapted, exchange, target, body)


async def _open_stream(
    exchange: ExchangeState, target: Target, upstream: ProviderRequest, translation: Translation | None
) -> ProviderAnswer | ProviderStream:
    """The answer to a request for a stream; it is whole where it is a refusal, for not all know how to stream."""
    stream = exchange.stream = await target.provider.stream(upstream, room_of(exchange))
    if translation is not None and target.translator is not None:
        # Not all know how to stream.
        if stream.status == 200 and await is_whole(stream):
            exchange.context.provider_answered(stream.id, monotonic())
            return translated_answer(await stream.whole(), target.translator, translation)
        counted = exchange.context.counted_input
        stream = exchange.stream = TranslatedStream(stream, target.translator, translation, counted)
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
    if not exchange.endpoint.takes_forms:
        return passing.JSON
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
