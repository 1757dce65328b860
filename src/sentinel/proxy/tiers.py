"""What an exchange does whose client names a tier: a model is chosen, and once another one where that fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from sentinel.error import UpstreamError, UpstreamTimeout
from sentinel.middleware.tier_router import Choice
from sentinel.proxy import outcome
from sentinel.proxy.provider import ProviderAnswer, ProviderStream
from sentinel.proxy.state import ExchangeState
from sentinel.tokens.counter import is_large

Answer = ProviderAnswer | ProviderStream


async def choose(exchange: ExchangeState) -> None:
    """Choose the model, and count the input in its tokens. Raises InvalidType, ModelNotAllowed, ServiceUnavailable."""
    deps, context, request, count = exchange.deps, exchange.context, exchange.request, exchange.endpoint.count
    assert context.user is not None
    tier, conversation = exchange.endpoint.tier_of(request)
    _use(exchange, await deps.tiers.choose(context.user, tier, conversation))
    large = is_large(len(exchange.body))
    exchange.counted = await deps.beside(count, request, deps.counter) if large else count(request, deps.counter)
    context.counted_input = deps.input_ratio.corrected(request.model, exchange.counted)


async def forward(exchange: ExchangeState, send: Callable[[ExchangeState], Awaitable[Answer]]) -> Answer:
    """Send the request on; a whole one once more, to another model of the tier, where the first one fails."""
    choice = exchange.choice
    assert choice is not None
    try:
        answer = await _sent(exchange, choice, send)
    except (UpstreamError, UpstreamTimeout):
        if not _use_another(exchange, choice):
            raise
    else:
        if not _has_failed(answer) or not _use_another(exchange, choice):
            return answer
    assert exchange.choice is not None
    return await _sent(exchange, exchange.choice, send)


async def _sent(exchange: ExchangeState, choice: Choice, send: Callable[[ExchangeState], Awaitable[Answer]]) -> Answer:
    """The answer, whose provider is known to be well or not from now on."""
    router = exchange.deps.tiers
    try:
        answer = await send(exchange)
    except (UpstreamError, UpstreamTimeout):
        router.failed(choice)
        raise
    if _has_failed(answer):
        router.failed(choice)
    else:
        router.served(choice)
    return answer


def _has_failed(answer: Answer) -> bool:
    """Whether its provider did. What is wrong with a request is its client's fault, but for a limit of ours there."""
    return answer.status == 429 or (answer.status != 200 and not outcome.concerns_the_client(answer.status))


def _use_another(exchange: ExchangeState, choice: Choice) -> bool:
    if exchange.context.streamed or exchange.client.started:
        return False
    assert exchange.context.user is not None
    another = exchange.deps.tiers.another(choice, exchange.context.user)
    if another is None:
        return False
    _use(exchange, another)
    exchange.reservation = exchange.lease.reservation = replace(exchange.reservation, model=another.model.model)
    return True


def _use(exchange: ExchangeState, choice: Choice) -> None:
    """From now on the request is to this model, and its answer says so."""
    client, before = exchange.client, exchange.choice
    if before is not None:
        client.header_lines = client.header_lines.replace(_lines(before), b"")
    client.header_lines += _lines(choice)
    exchange.choice = choice
    exchange.endpoint.choose(exchange.request, choice.model.model)
    exchange.context.model = choice.model.model


def _lines(choice: Choice) -> bytes:
    model = choice.model.model.encode("ascii", "replace")
    return b"x-sentinel-model: %b\r\nx-sentinel-tier: %b\r\n" % (model, choice.tier.encode())
