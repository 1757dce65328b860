"""Gemini's answers: POST /v1beta/models/{model}:generateContent, and :streamGenerateContent for a stream.

A stream comes as events where the query says `alt=sse`, else as the items of one array.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from sentinel.endpoints import gemini_stream, json_body
from sentinel.endpoints.endpoint import UNCHANGED, Changes, OutputBound
from sentinel.endpoints.gemini import GENERATE, GeminiEndpoint
from sentinel.endpoints.gemini_stream import GeminiMeter
from sentinel.error import InvalidType, MissingParameter
from sentinel.proxy.meter import StreamMeter
from sentinel.proxy.redaction import Redactor
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.gemini_answer import read_whole
from sentinel.tokens.gemini_request import GenerateBody
from sentinel.tokens.loose import Reading
from sentinel.tokens.output import hides_output
from sentinel.tokens.usage import Usage

_decoder = msgspec.json.Decoder(GenerateBody)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)

_MOST_CANDIDATES = 128
"""As of choices in other formats; Google takes 8."""
_CONFIG = ("generationConfig", "generation_config")
_MAXIMUM = ("maxOutputTokens", "max_output_tokens")


class GenerateRequest(msgspec.Struct, gc=False):
    """What is decided on of a request. body: what is counted. client_max: tokens of a candidate, None = none."""

    model: str
    stream: bool
    client_max: int | None
    candidates: int
    thinking_budget: int | None
    body: GenerateBody


class GenerateContentEndpoint(GeminiEndpoint[GenerateRequest]):
    """Contents in, candidates out, in one piece."""

    method = "generateContent"
    streams: ClassVar[bool] = False

    def read(self, body: bytes) -> GenerateRequest:
        """The request in a body. Raises InvalidJson, InvalidType, MissingParameter, ModelNotFound."""
        fields = json_body.read(_decoder.decode, GENERATE, body)
        self.check(fields)
        if not fields.contents:
            raise MissingParameter("Missing required parameter: 'contents'.", param="contents")
        config, thinking = fields.config, fields.config.thinking_config
        if (config.candidate_count or 0) > _MOST_CANDIDATES:
            param = "generationConfig.candidateCount"
            raise InvalidType(f"Invalid value for '{param}': more than {_MOST_CANDIDATES}.", param=param)
        budget = None if thinking is None else thinking.thinking_budget
        # Nought is as good as nothing.
        most, candidates = config.max_output_tokens or None, config.candidate_count or 1
        return GenerateRequest(self.model, self.streams, most, candidates, budget, fields)

    def count(self, request: GenerateRequest, counter: TokenCounter) -> int:
        """The input tokens: contents, system instruction, tools, the schema of the answer, pictures and sound."""
        return counter.count_gemini(request.body, request.model)

    def forget_prompt(self, request: GenerateRequest) -> None:
        """Free what was read to be counted."""
        request.body = GenerateBody()

    def bound(self, request: GenerateRequest) -> OutputBound:
        """What the request says of its output. Thoughts are in its maximum, and in what is billed; few are shown."""
        budget = request.thinking_budget
        hides = hides_output(request.model) if budget is None else budget != 0
        choices, grows = request.candidates, self.streams and not hides
        return OutputBound(choices, choices, request.client_max, None, grows, True, hides)

    def changes(self, request: GenerateRequest, bound: OutputBound, output_max: int | None) -> Changes:  # noqa: ARG002
        """A maximum, where less is left than the client allows."""
        return UNCHANGED if output_max is None else Changes(output_max=output_max)

    def changed(self, body: bytes, request: GenerateRequest, changes: Changes) -> bytes:
        """The body with this maximum under the client's own name of it; the client's own bytes where it stays."""
        most = changes.output_max
        if most is None or (request.client_max is not None and request.client_max <= most):
            return body
        name, config = _field(dict(json_body.fields(body)), _CONFIG)
        config_fields: dict[str, Any] = dict(_fields.decode(config) or {})
        config_fields[_field(config_fields, _MAXIMUM)[0]] = most
        return json_body.replaced(body, {name: config_fields})

    def meter(self, request: GenerateRequest, redactor: Redactor) -> GeminiMeter:
        """The meter of the request's stream."""
        return GeminiMeter(request.model, redactor)

    def ending(self, request: GenerateRequest, meter: StreamMeter, usage: Usage) -> bytes:
        """The event that ends a stream at a limit: each candidate that is open finishes by `MAX_TOKENS`."""
        assert isinstance(meter, GeminiMeter)
        return gemini_stream.ending(meter, request.candidates, usage)

    def read_answer(self, body: bytes) -> Reading | None:
        """What a whole answer says; None if it cannot be read."""
        return read_whole(body)

    def as_stream(self, body: bytes) -> bytes:
        """A whole answer as the events of a stream."""
        return gemini_stream.answer(body)

    def refusal_as_stream(self, status: int, body: bytes) -> bytes:
        """A provider's refusal as the last event of a stream."""
        return gemini_stream.refusal(status, body)


class StreamGenerateContentEndpoint(GenerateContentEndpoint):
    """The same, as it is generated. is_array: not as events, but as one array."""

    method = "streamGenerateContent"
    streams = True

    def __init__(self, version: str, resource: str, query: bytes = b"") -> None:
        super().__init__(version, resource, query)
        self.is_array = self.alternative != b"sse"
        if not self.is_array:
            self.path += b"?alt=sse"

    def check_alternative(self) -> None:
        """Raises InvalidType for a form of the answer that cannot be read here."""
        if self.is_array:
            super().check_alternative()


def _field(fields: dict[str, Any], names: tuple[str, str]) -> tuple[str, msgspec.Raw]:
    """A field that has two names: that of the client, or the first, and its value."""
    name = next((each for each in names if fields.get(each, _NULL) != _NULL), None)
    name = name or next((each for each in names if each in fields), names[0])
    return name, fields.get(name, _NULL)


_NULL = msgspec.Raw(b"null")
