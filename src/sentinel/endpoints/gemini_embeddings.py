"""Gemini's embeddings: POST /v1beta/models/{model}:embedContent, and :batchEmbedContents for many at once.

They cost input alone, and are never a stream.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from sentinel.endpoints import json_body
from sentinel.endpoints.endpoint import NO_OUTPUT, OutputBound, WholeEndpoint
from sentinel.endpoints.gemini import CONTENT, GeminiEndpoint
from sentinel.endpoints.strict_json import Shape
from sentinel.error import MissingParameter
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.gemini_answer import read_embedded
from sentinel.tokens.gemini_request import BatchBody, EmbedBody
from sentinel.tokens.loose import Reading


class EmbedRequest(msgspec.Struct, gc=False):
    """A request for vectors. bodies: one for each."""

    model: str
    bodies: list[EmbedBody]
    stream: bool | None = None


class EmbedContentEndpoint(GeminiEndpoint[EmbedRequest], WholeEndpoint[EmbedRequest]):
    """A content in, a vector out."""

    method = "embedContent"
    shape: ClassVar[Shape] = {"content": CONTENT}
    decoder: ClassVar[msgspec.json.Decoder[Any]] = msgspec.json.Decoder(EmbedBody)

    def read(self, body: bytes) -> EmbedRequest:
        """The request in a body. Raises InvalidJson, InvalidType, MissingParameter, ModelNotFound."""
        fields = json_body.read(self.decoder.decode, self.shape, body)
        self.check(fields)
        bodies = self.bodies_of(fields)
        for number, each in enumerate(bodies):
            self.check(each, f"requests[{number}].model")
        if not bodies or any(each.content is None for each in bodies):
            raise MissingParameter("Missing required parameter: 'content'.", param="content")
        return EmbedRequest(self.model, bodies)

    def bodies_of(self, fields: Any) -> list[EmbedBody]:
        """One for each vector."""
        return [fields]

    def count(self, request: EmbedRequest, counter: TokenCounter) -> int:
        """The tokens of all contents."""
        return counter.count_embedded(request.bodies, request.model)

    def forget_prompt(self, request: EmbedRequest) -> None:
        """Free what was read to be counted."""
        request.bodies = []

    def bound(self, request: EmbedRequest) -> OutputBound:  # noqa: ARG002 (it is the same for all)
        """No output."""
        return NO_OUTPUT

    def read_answer(self, body: bytes) -> Reading | None:
        """What an answer says; None if it cannot be read."""
        return read_embedded(body)


class BatchEmbedContentsEndpoint(EmbedContentEndpoint):
    """Many contents in, a vector for each out."""

    method = "batchEmbedContents"
    shape: ClassVar[Shape] = {"requests": {"content": CONTENT}}
    decoder = msgspec.json.Decoder(BatchBody)

    def bodies_of(self, fields: Any) -> list[EmbedBody]:
        """One for each vector."""
        return list(fields.listed)
