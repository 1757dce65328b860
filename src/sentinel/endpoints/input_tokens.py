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
    """A request in, the number of its input tokens out: the provider's, or our count where it has no such path."""

    format = "responses"
    ids = ResponsesEndpoint.ids
    route = "/v1/responses/input_tokens"
    path = b"/responses/input_tokens"
    is_free = True

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

    def own_answer(self, status: int, body: bytes, model: str, counted_input: int) -> bytes | None:
        """Our count, where the provider has no such path (404, 405). A 404 that names the model is about that."""
        if status == 405 or (status == 404 and model.encode() not in body):
            return msgspec.json.encode({"object": "response.input_tokens", "input_tokens": counted_input})
        return None


INPUT_TOKENS = InputTokensEndpoint()
