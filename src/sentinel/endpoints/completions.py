"""OpenAI's legacy completions: POST /v1/completions."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from sentinel.endpoints import json_body
from sentinel.endpoints.endpoint import OutputBound
from sentinel.endpoints.openai import OpenAIEndpoint
from sentinel.endpoints.strict_json import Shape
from sentinel.error import MissingParameter
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.output import COMPLETION_DEFAULT_TOKENS, hides_output
from sentinel.tokens.request import CompletionRequest

_decoder = msgspec.json.Decoder(CompletionRequest)
_SHAPE: Shape = {"stream_options": {}}


class CompletionsEndpoint(OpenAIEndpoint[CompletionRequest]):
    """Completions: a prompt in, a text for each choice out."""

    format = "completions"
    route = "/v1/completions"
    path = b"/completions"
    output_field = "max_tokens"
    stream_object = "text_completion"
    empty_choice: ClassVar[dict[str, Any]] = {"text": "", "logprobs": None}

    def read(self, body: bytes) -> CompletionRequest:
        """The request in a body. Raises InvalidJson, InvalidType, MissingParameter."""
        request = json_body.read(_decoder.decode, _SHAPE, body)
        if request.prompt is None:
            raise MissingParameter("Missing required parameter: 'prompt'.", param="prompt")
        return request

    def count(self, request: CompletionRequest, counter: TokenCounter) -> int:
        """The input tokens of the prompt, or prompts, and the suffix."""
        return counter.count_prompt(request.prompt, request.model, request.suffix)

    def forget_prompt(self, request: CompletionRequest) -> None:
        """Free what was read to be counted."""
        request.prompt = request.suffix = None

    def bound(self, request: CompletionRequest) -> OutputBound:
        """What the request says of its output: `best_of` choices are billed, `n` shown; an echo is the prompt."""
        n = request.n or 1
        return OutputBound(
            max(n, request.best_of or 1),
            n,
            request.max_tokens,
            COMPLETION_DEFAULT_TOKENS,
            False,
            not request.echo,
            hides_output(request.model),
        )

    def maxima(self, request: CompletionRequest) -> dict[str, int]:
        """The client's own maximum of output, by its field."""
        return {} if request.max_tokens is None else {"max_tokens": request.max_tokens}


COMPLETIONS = CompletionsEndpoint()
