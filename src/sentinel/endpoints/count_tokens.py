"""Anthropic's count of a request's tokens: POST /v1/messages/count_tokens. It generates nothing, and costs nothing."""

from __future__ import annotations

import msgspec

from sentinel.endpoints import json_body
from sentinel.endpoints.anthropic import SHAPE, AnthropicEndpoint
from sentinel.endpoints.endpoint import NO_OUTPUT, OutputBound, WholeEndpoint
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.loose import Reading
from sentinel.tokens.request import CountRequest

_decoder = msgspec.json.Decoder(CountRequest)


class CountTokensEndpoint(AnthropicEndpoint[CountRequest], WholeEndpoint[CountRequest]):
    """A request in, the number of its input tokens out: the provider's, or our estimate where none has such a path."""

    route = "/v1/messages/count_tokens"
    path = b"/messages/count_tokens"
    is_free = True
    translates = True

    def read(self, body: bytes) -> CountRequest:
        """The request in a body. Raises InvalidJson, InvalidType, MissingParameter."""
        return json_body.read(_decoder.decode, SHAPE, body)

    def count(self, request: CountRequest, counter: TokenCounter) -> int:
        """Our estimate of the answer."""
        return counter.count_messages(request, request.model)

    def forget_prompt(self, request: CountRequest) -> None:
        """Free what was read to be counted."""
        request.forget()

    def bound(self, request: CountRequest) -> OutputBound:  # noqa: ARG002 (it is the same for all)
        """No output."""
        return NO_OUTPUT

    def read_answer(self, body: bytes) -> Reading | None:
        """Never asked: it costs nothing, whatever it says."""
        raise NotImplementedError

    def own_answer(self, counted_input: int) -> bytes:
        """Our estimate."""
        return msgspec.json.encode({"input_tokens": counted_input})


COUNT_TOKENS = CountTokensEndpoint()
