"""OpenAI's embeddings: POST /v1/embeddings. Texts in, vectors out: it costs input alone, and is never a stream."""

from __future__ import annotations

import msgspec

from sentinel.endpoints import json_body
from sentinel.endpoints.endpoint import NO_OUTPUT, OutputBound, WholeEndpoint
from sentinel.endpoints.strict_json import Shape
from sentinel.error import MissingParameter
from sentinel.tokens.answer import read_answer
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.loose import Reading
from sentinel.tokens.request import EmbeddingRequest
from sentinel.tokens.usage import Usage

_decoder = msgspec.json.Decoder(EmbeddingRequest)
_SHAPE: Shape = {}
_VECTORS = [(0, "")]
"""Vectors have no reason to end; that there are any is enough for the input to be spent."""


class EmbeddingsEndpoint(WholeEndpoint[EmbeddingRequest]):
    """Embeddings: a text or several, or their token ids, in; a vector for each out."""

    format = "embeddings"
    route = "/v1/embeddings"
    path = b"/embeddings"

    def read(self, body: bytes) -> EmbeddingRequest:
        """The request in a body. Raises InvalidJson, InvalidType, MissingParameter."""
        request = json_body.read(_decoder.decode, _SHAPE, body)
        if request.input is None:
            raise MissingParameter("Missing required parameter: 'input'.", param="input")
        return request

    def count(self, request: EmbeddingRequest, counter: TokenCounter) -> int:
        """The tokens of all texts."""
        return counter.count_prompt(request.input, request.model)

    def forget_prompt(self, request: EmbeddingRequest) -> None:
        """Free what was read to be counted."""
        request.input = None

    def bound(self, request: EmbeddingRequest) -> OutputBound:  # noqa: ARG002 (it is the same for all)
        """No output: nothing of that is reserved, and a used-up limit on output is in nobody's way."""
        return NO_OUTPUT

    def read_answer(self, body: bytes) -> Reading | None:
        """What an answer says; None if it cannot be read. `prompt_tokens` may be missing beside `total_tokens`."""
        reading = read_answer(body)
        if reading is None or reading.failed:
            return reading
        usage = reading.usage
        return Reading([], Usage(usage.prompt_tokens or usage.total_tokens, details=usage.details), _VECTORS)


EMBEDDINGS = EmbeddingsEndpoint()
