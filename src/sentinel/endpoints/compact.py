"""OpenAI's compactions: POST /v1/responses/compact. Items in, fewer out, of which one is sealed.

A provider cannot be told a maximum. A compaction is no longer than what it is made of: so much is reserved, or it is
refused; of what lies at the provider nobody here sees the length, so all that the model can answer is.
"""

from __future__ import annotations

from sentinel.endpoints import json_body
from sentinel.endpoints.endpoint import OutputBound, WholeEndpoint
from sentinel.endpoints.responses import RESPONSES, SHAPE, ResponsesEndpoint, ResponsesRequest
from sentinel.error import MissingParameter
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.loose import Reading
from sentinel.tokens.output import hides_output, output_ceiling
from sentinel.tokens.responses_answer import read_answer
from sentinel.tokens.responses_input import read_body

_LEAST_TOKENS = 1_024
"""What a model may say of next to nothing."""


class CompactRequest(ResponsesRequest, gc=False):
    """What is decided on of a request. most: the output tokens that it can have."""

    sees_all: bool = True
    most: int = 0


class CompactEndpoint(WholeEndpoint[CompactRequest]):
    """Compactions: a conversation in, a shorter one out."""

    format = "responses"
    ids = ResponsesEndpoint.ids
    creates = True
    route = "/v1/responses/compact"
    path = b"/responses/compact"

    def read(self, body: bytes) -> CompactRequest:
        """The request in a body. Raises InvalidJson, InvalidType, MissingParameter."""
        fields, chat = json_body.read(read_body, SHAPE, body)
        if not fields.has_input:
            raise MissingParameter("Missing required parameter: 'input'.", param="input")
        return CompactRequest(fields.model, None, None, chat, sees_all=fields.is_all_here)

    def count(self, request: CompactRequest, counter: TokenCounter) -> int:
        """The input tokens that can be seen."""
        tokens = counter.count_chat(request.chat, request.model)
        ceiling = output_ceiling(request.model, tokens)
        request.most = min(ceiling, max(_LEAST_TOKENS, tokens)) if request.sees_all else ceiling
        return tokens

    def forget_prompt(self, request: CompactRequest) -> None:
        """Free what was read to be counted."""
        RESPONSES.forget_prompt(request)

    def bound(self, request: CompactRequest) -> OutputBound:
        """No longer than the input."""
        return OutputBound(1, 1, None, request.most, False, True, hides_output(request.model), request.most)

    def read_answer(self, body: bytes) -> Reading | None:
        """What an answer says; None if it cannot be read."""
        return read_answer(body)

    def created(self, told: bytes) -> tuple[str, ...]:
        """The compaction and its items."""
        return RESPONSES.created(told)


COMPACT = CompactEndpoint()
