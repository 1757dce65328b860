"""Gemini's count of tokens: POST /v1beta/models/{model}:countTokens. It generates nothing, and costs nothing."""

from __future__ import annotations

import msgspec

from sentinel.endpoints import json_body
from sentinel.endpoints.endpoint import NO_OUTPUT, OutputBound, WholeEndpoint
from sentinel.endpoints.gemini import GENERATE, GeminiEndpoint
from sentinel.endpoints.strict_json import Shape
from sentinel.error import MissingParameter
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.gemini_request import CountBody
from sentinel.tokens.loose import Reading

_decoder = msgspec.json.Decoder(CountBody)
_SHAPE: Shape = {**GENERATE, "generateContentRequest": GENERATE, "generate_content_request": GENERATE}


class ContentCountRequest(msgspec.Struct, gc=False):
    """A request for a count. body: what is counted."""

    model: str
    body: CountBody
    stream: bool | None = None


class ContentCountEndpoint(GeminiEndpoint[ContentCountRequest], WholeEndpoint[ContentCountRequest]):
    """Contents, or a whole request, in; the number of its tokens out: the provider's, or our estimate of it."""

    method = "countTokens"
    is_free = True

    def read(self, body: bytes) -> ContentCountRequest:
        """The request in a body. Raises InvalidJson, InvalidType, MissingParameter, ModelNotFound."""
        fields = json_body.read(_decoder.decode, _SHAPE, body)
        self.check(fields)
        whole = fields.generate_content_request
        if whole is not None:
            self.check(whole, "generateContentRequest.model")
        if not fields.contents and (whole is None or not whole.contents):
            raise MissingParameter("Missing required parameter: 'contents'.", param="contents")
        return ContentCountRequest(self.model, fields)

    def count(self, request: ContentCountRequest, counter: TokenCounter) -> int:
        """Our estimate of the answer."""
        return counter.count_gemini(request.body, request.model)

    def forget_prompt(self, request: ContentCountRequest) -> None:
        """Free what was read to be counted."""
        request.body = CountBody()

    def bound(self, request: ContentCountRequest) -> OutputBound:  # noqa: ARG002 (it is the same for all)
        """No output."""
        return NO_OUTPUT

    def read_answer(self, body: bytes) -> Reading | None:
        """Never asked: it costs nothing, whatever it says."""
        raise NotImplementedError

    def own_answer(self, counted_input: int) -> bytes:
        """Our estimate."""
        return msgspec.json.encode({"totalTokens": counted_input})
