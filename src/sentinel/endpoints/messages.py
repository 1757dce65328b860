"""Anthropic's messages: POST /v1/messages."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sentinel.endpoints import json_body, message_stream
from sentinel.endpoints.anthropic import SHAPE, AnthropicEndpoint
from sentinel.endpoints.endpoint import UNCHANGED, Changes, OutputBound
from sentinel.endpoints.message_stream import MessagesMeter
from sentinel.proxy.meter import StreamMeter
from sentinel.proxy.redaction import Redactor
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.loose import Reading
from sentinel.tokens.message_answer import read_message
from sentinel.tokens.output import hides_output
from sentinel.tokens.request import MessageRequest
from sentinel.tokens.usage import Usage

_decoder = msgspec.json.Decoder(MessageRequest)
_thinking = msgspec.json.Decoder(dict[str, msgspec.Raw])

_LEAST_BUDGET: Final = 1_024
"""Of thinking; a maximum of output must be more. Source: Anthropic's guide "Extended thinking"."""
_OFF: Final = "disabled"


class MessagesEndpoint(AnthropicEndpoint[MessageRequest]):
    """Messages: turns in, one message of several blocks out."""

    translates = True
    route = "/v1/messages"
    path = b"/messages"

    def read(self, body: bytes) -> MessageRequest:
        """The request in a body. Raises InvalidJson, InvalidType, MissingParameter."""
        return json_body.read(_decoder.decode, SHAPE, body)

    def count(self, request: MessageRequest, counter: TokenCounter) -> int:
        """The input tokens: turns, system prompt, tools, images, documents."""
        return counter.count_messages(request, request.model)

    def forget_prompt(self, request: MessageRequest) -> None:
        """Free what was read to be counted."""
        request.forget()

    def bound(self, request: MessageRequest) -> OutputBound:
        """What the request says of its output. Of thinking a summary is shown, and all of it billed."""
        thinks = request.thinking is not None and request.thinking.type != _OFF
        hides = thinks or hides_output(request.model)
        return OutputBound(1, 1, request.max_tokens, None, bool(request.stream) and not hides, True, hides)

    def changes(self, request: MessageRequest, bound: OutputBound, output_max: int | None) -> Changes:  # noqa: ARG002
        """A lower maximum, where less is left than the client allows."""
        return UNCHANGED if output_max is None else Changes(output_max=output_max)

    def changed(self, body: bytes, request: MessageRequest, changes: Changes) -> bytes:
        """The body with this maximum; the client's own bytes where it stays."""
        if changes.output_max is None or changes.output_max >= request.max_tokens:
            return body
        values: dict[str, Any] = {"max_tokens": changes.output_max}
        thinking = request.thinking
        if thinking is not None and (thinking.budget_tokens or 0) >= changes.output_max:
            values["thinking"] = _within(body, changes.output_max)
        return json_body.replaced(body, values)

    def meter(self, request: MessageRequest, redactor: Redactor) -> MessagesMeter:
        """The meter of the request's stream."""
        return MessagesMeter(request.model, redactor)

    def ending(self, request: MessageRequest, meter: StreamMeter, usage: Usage) -> bytes:  # noqa: ARG002
        """The events that end a stream at a limit: open blocks are closed, `max_tokens` and usage told."""
        assert isinstance(meter, MessagesMeter)
        return message_stream.ending(meter, usage)

    def read_answer(self, body: bytes) -> Reading | None:
        """What a whole message says; None if it cannot be read."""
        return read_message(body)

    def as_stream(self, body: bytes) -> bytes:
        """A whole message as the events of a stream."""
        return message_stream.answer(body)

    def refusal_as_stream(self, status: int, body: bytes) -> bytes:
        """A provider's refusal as the last event of a stream."""
        return message_stream.refusal(status, body)


def _within(body: bytes, output_max: int) -> dict[str, Any]:
    """The client's `thinking` for less output than its budget: a lower one, or none where there is no room for it."""
    if output_max <= _LEAST_BUDGET:
        return {"type": _OFF}
    fields: dict[str, Any] = dict(_thinking.decode(json_body.value(body, "thinking")))
    return {**fields, "budget_tokens": output_max - 1}


MESSAGES = MessagesEndpoint()
