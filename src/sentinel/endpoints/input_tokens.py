"""OpenAI's count of a response's input: POST /v1/responses/input_tokens. It generates nothing, and costs nothing."""

from __future__ import annotations

import msgspec

from sentinel.endpoints import json_body
from sentinel.endpoints.endpoint import NO_OUTPUT, OutputBound, WholeEndpoint
from sentinel.endpoints.responses import RESPONSES, SHAPE, ResponsesEndpoint, ResponsesRequest
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.loose import Reading
from sentinel.tokens.responses_input import read_body


class InputTokensEndpoint(WholeEndpoint[ResponsesRequest]):
    """A request in, the number of its input tokens out: the provider's, or our count where none has such a path."""

    format = "responses"
    ids = ResponsesEndpoint.ids
    route = "/v1/responses/input_tokens"
    path = b"/responses/input_tokens"
    is_free = True
    translates = True

    def read(self, body: bytes) -> ResponsesRequest:
        """The request in a body. Raises InvalidJson, InvalidType, MissingParameter."""
        fields, chat = json_body.read(read_body, SHAPE, body)
        return ResponsesRequest(fields.model, None, None, chat)

    def count(self, request: ResponsesRequest, counter: TokenCounter) -> int:
        """Our own answer: of what can be seen."""
        return counter.count_chat(request.chat, request.model)

    def forget_prompt(self, request: ResponsesRequest) -> None:
        """Free what was read to be counted."""
        RESPONSES.forget_prompt(request)

    def bound(self, request: ResponsesRequest) -> OutputBound:  # noqa: ARG002 (it is the same for all)
        """No output."""
        return NO_OUTPUT

    def read_answer(self, body: bytes) -> Reading | None:
        """Never asked: it costs nothing, whatever it says."""
        raise NotImplementedError

    def own_answer(self, counted_input: int) -> bytes:
        """Our count."""
        return msgspec.json.encode({"object": "response.input_tokens", "input_tokens": counted_input})


INPUT_TOKENS = InputTokensEndpoint()
