"""The phases before the reservation: the body is received, parsed, and its input counted.

A body is bounded in size, in time and in memory. A small one is handled right here; a large one beside the event loop.
"""

from __future__ import annotations

from collections.abc import Mapping

from sentinel.clock import monotonic
from sentinel.endpoints.endpoint import Request
from sentinel.endpoints.form import is_form
from sentinel.error import InvalidJson, RequestTooLarge, UnsupportedEncoding
from sentinel.governance.port import AuthenticatedUser
from sentinel.memory_budget import SMALL_BYTES
from sentinel.middleware import model_check
from sentinel.proxy import content_coding
from sentinel.proxy.admission import peek
from sentinel.proxy.state import ExchangeState

_LEAST_DECODED_BYTES, _USUALLY_DECODED = 64 * 1024, 8
"""So many bytes, and times as many as came, text has for the most part once it is decoded."""


async def receive(exchange: ExchangeState) -> bytes:
    """The body, without its content codings, held as this user's.

    Raises UnsupportedEncoding, InvalidJson, RequestTooLarge, RequestTimeout, ServiceUnavailable, ClientGone, and the
    refusal of a large one whose user has nothing left.
    """
    client, context, deps = exchange.client, exchange.context, exchange.deps
    assert context.user is not None
    user, most_bytes, seconds = context.user.id, deps.max_body_bytes, deps.body_timeout_seconds
    codings = codings_of(client.headers)
    if codings or client.is_sending_much:
        await peek(exchange)
    try:
        body = await client.read_body(most_bytes, seconds, user)
    finally:
        context.body_seconds = monotonic() - context.identified
    if codings:
        # As much as text usually holds, and all that is allowed for the rare one that holds more.
        usual = min(most_bytes, max(_LEAST_DECODED_BYTES, _USUALLY_DECODED * len(body)))
        body = await _decoded(exchange, body, codings, usual) or await _decoded(exchange, body, codings, most_bytes)
    client.holds(len(body))
    return body


async def _decoded(exchange: ExchangeState, body: bytes, codings: tuple[str, ...], most_bytes: int) -> bytes:
    """The body without its codings; nothing where more comes out, but not more than may. Raises what is wrong."""
    deps, context = exchange.deps, exchange.context
    assert context.user is not None
    # What comes out is in memory twice: in pieces, and as one.
    await exchange.client.make_room(2 * most_bytes, deps.body_timeout_seconds, context.user.id)
    try:
        # Whatever its size: a few bytes can hold megabytes.
        return await deps.beside(decoded, body, codings, most_bytes)
    except RequestTooLarge:
        if most_bytes == deps.max_body_bytes:
            raise
        return b""


def parse(exchange: ExchangeState) -> Request:
    """What is decided on of the body; its input tokens are in the context. Raises what is wrong with it."""
    endpoint, context = exchange.endpoint, exchange.context
    request: Request
    if endpoint.takes_forms:
        content_type = exchange.client.headers.get(b"content-type", b"")
        request, exchange.references = endpoint.read_typed(exchange.body, content_type)
    else:
        request = endpoint.read(exchange.body)
        exchange.references = endpoint.ids.found_in(exchange.body)
    context.model, context.streamed = request.model, bool(request.stream)
    assert context.user is not None
    if context.user.allowed_models is not None:
        _check_models(exchange, context.user, request)
    exchange.counted = endpoint.count(request, exchange.deps.counter)
    context.counted_input = exchange.deps.input_ratio.corrected(request.model, exchange.counted)
    return request


def _check_models(exchange: ExchangeState, user: AuthenticatedUser, request: Request) -> None:
    """Raises ModelNotAllowed, InvalidJson. Of a tier a model is chosen that the plan has (tiers.py)."""
    endpoint = exchange.endpoint
    if not endpoint.chooses_model:
        has_form = endpoint.takes_forms and is_form(exchange.client.headers.get(b"content-type", b""))
        model_check.check(user, endpoint.named_models(request, b"" if has_form else exchange.body))


async def parse_large(exchange: ExchangeState) -> Request:
    """The same beside the event loop; of the largest, which are in memory several times meanwhile, few at once."""

    def parse_and_forget() -> Request:
        request = parse(exchange)
        # A megabyte of tiny objects takes up to 14 ms to free: here, not in the loop's thread at the request's end.
        exchange.endpoint.forget_prompt(request)
        return request

    if len(exchange.body) <= SMALL_BYTES:
        return await exchange.deps.beside(parse_and_forget)
    async with exchange.deps.large:
        return await exchange.deps.beside(parse_and_forget)


def codings_of(headers: Mapping[bytes, bytes]) -> tuple[str, ...]:
    """The content codings of a request's body, mostly none. Raises UnsupportedEncoding."""
    value = headers.get(b"content-encoding")
    if value is None:
        return ()
    try:
        return content_coding.codings_of(value)
    except content_coding.UnknownCoding as error:
        raise UnsupportedEncoding(
            "The request body must be sent as it is, or in gzip, deflate, br or zstd.",
            param="content-encoding",
            headers=((b"accept-encoding", content_coding.ACCEPTED),),
        ) from error


def decoded(body: bytes, codings: tuple[str, ...], most_bytes: int) -> bytes:
    """The body without its content codings; not for the event loop. Raises InvalidJson, RequestTooLarge."""
    try:
        return content_coding.decode(body, codings, most_bytes)
    except content_coding.Undecodable as error:
        named = ", ".join(reversed(codings))
        raise InvalidJson(
            f"We could not decode the body of your request: it is not, or not wholly, in {named}, "
            "as its Content-Encoding header says.",
            param="content-encoding",
        ) from error
    except content_coding.Oversized as error:
        raise RequestTooLarge(f"Request body is larger, once decoded, than the limit of {most_bytes} bytes.") from error
