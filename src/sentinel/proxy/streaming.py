"""The phase `relay` for a stream: all but its last event is passed on as it comes, metered, and held to the limits."""

from __future__ import annotations

import asyncio
from functools import partial

from sentinel.clock import monotonic
from sentinel.proxy import billing, jobs, outcome, reservation
from sentinel.proxy import headers as passing
from sentinel.proxy.binary import relay_binary
from sentinel.proxy.meter import StreamMeter
from sentinel.proxy.provider import ProviderStream
from sentinel.proxy.relay import MOST_DRAINS, Relay, drain_seconds
from sentinel.proxy.state import ExchangeState
from sentinel.proxy.whole import Complete
from sentinel.tokens.usage import Usage


async def relay_stream(exchange: ExchangeState, stream: ProviderStream) -> Complete:
    """Relay a stream up to its last event. Raises UpstreamError, UpstreamTimeout, ServiceUnavailable, PlaceTaken."""
    if not exchange.context.streamed:
        return await relay_binary(exchange, stream)
    deps, client, context, bound = exchange.deps, exchange.client, exchange.context, exchange.bound
    if monotonic() > exchange.lease.ends:
        # While there is a status to say it by. The relay looks again before it delivers anything.
        await deps.leases.take_up(exchange.lease)
    if kind := exchange.endpoint.job_kind(exchange.request):
        stream = exchange.stream = await jobs.follow_stream(exchange, kind, stream)
        client.watch(deps.tasks)
    meter = exchange.endpoint.meter(exchange.request, stream.redactor)
    relay = exchange.relay = _relay(exchange, meter)
    exchange.lease.delivered, exchange.lease.roughly = relay.delivered, relay.roughly
    context.status = 200
    try:
        if not client.started:
            await client.start(200, stream.header_lines + context.trace_lines(monotonic()) + passing.STREAM)
        await relay.run(stream)
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError):
            await _drain(exchange, relay, stream)
        stream.close()
        raise
    finally:
        exchange.spent = _spent(exchange, relay)
        exchange.job_is_over = relay.ended and meter.usage_is_final
    context.outcome = outcome.of_stream(at_limit=relay.at_limit, is_broken=meter.is_broken)
    endpoint = exchange.endpoint
    if endpoint.creates and not relay.at_limit and endpoint.creates_with(exchange.request):
        await exchange.note_created(endpoint.telling(meter))
    is_open = reservation.has_open_end(bound, exchange.reservation, exchange.verdict)
    if context.outcome == "ok" and (is_open or exchange.spent.cost.output < exchange.verdict.granted_output):
        reservation.learn(deps.estimator, exchange.reservation, bound, exchange.spent)
    return partial(_complete, exchange, relay, stream)


def _relay(exchange: ExchangeState, meter: StreamMeter) -> Relay:
    deps = exchange.deps
    claim = exchange.answer_claim = deps.answers.claim()
    # Also where the provider was told a maximum: not all know the field.
    is_limited = exchange.verdict.output_is_limited and exchange.bound.shows_its_cost
    return Relay(exchange.client, meter, deps.leases, exchange.lease, deps.threads, claim, is_limited=is_limited)


async def _drain(exchange: ExchangeState, relay: Relay, stream: ProviderStream) -> None:
    """Learn the usage of a stream that is relayed no more, where that is worth waiting for (ADR 0005)."""
    drains, bound, meter = exchange.deps.drains, exchange.bound, relay.meter
    meter.count()
    seconds = drain_seconds(
        left=exchange.client.gone,
        has_finished=meter.has_finished(bound.shown_choices),
        hides_output=bound.hides_output,
        drain_abandoned=exchange.deps.drain_abandoned,
    )
    if not seconds or drains.now >= MOST_DRAINS:
        return
    drains.now += 1
    try:
        await relay.drain(stream, seconds)
    finally:
        drains.now -= 1


def _spent(exchange: ExchangeState, relay: Relay) -> billing.Spent:
    """What the stream has cost so far; notes in the context how it went."""
    meter, context, delivered, left = relay.meter, exchange.context, relay.delivered(), exchange.client.gone
    context.provider_seconds = monotonic() - context.forwarded
    context.malformed_events = meter.malformed
    context.finish_reason = "length" if relay.at_limit else meter.finish_reason
    if relay.at_limit:
        return billing.at_limit(meter.usage, context.counted_input, delivered)
    # Some tell usage all along: then it lags behind what was delivered, or tells of the input alone.
    return billing.streamed(
        meter.usage,
        context.counted_input,
        delivered,
        is_final=(relay.ended or meter.is_done) and meter.usage_is_final,
        ended_well=relay.ended and not meter.is_broken,
        left=left,
        unseen=unseen(exchange) if left else 0,
    )


def unseen(exchange: ExchangeState) -> int:
    """The most output tokens that a model may have thought unseen for a client that left."""
    if not exchange.bound.hides_output:
        return 0
    return billing.unseen(monotonic() - exchange.context.forwarded, exchange.bound.choices, exchange.lease.output)


async def _complete(exchange: ExchangeState, relay: Relay, stream: ProviderStream) -> None:
    last = relay.meter.done
    if relay.at_limit:
        _, prompt, completion = exchange.spent.cost
        last = exchange.endpoint.ending(exchange.request, relay.meter, Usage(prompt, completion))
    # All is done for this client: if it leaves from here on, it leaves content.
    exchange.client.unwatch()
    await exchange.client.end(last)
    if not relay.at_limit:
        await relay.finish(stream)
