"""OpenAI's chat completions: POST /v1/chat/completions."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from sentinel.endpoints import json_body
from sentinel.endpoints.endpoint import OutputBound
from sentinel.endpoints.openai import OpenAIEndpoint
from sentinel.endpoints.references import ReferenceFields
from sentinel.endpoints.strict_json import Shape
from sentinel.proxy.meter import StreamMeter
from sentinel.proxy.sse import data_of, split_events
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.loose import parse
from sentinel.tokens.output import hides_output
from sentinel.tokens.request import ChatRequest

_decoder = msgspec.json.Decoder(ChatRequest)

# The objects that are decided on, in tokens/request.py and where it is counted; a list is looked at item by item.
_MESSAGE: Shape = {
    "content": {"image_url": {}, "input_audio": {}, "file": {}},
    "tool_calls": {"function": {}, "custom": {}},
    "function_call": {},
}
_SHAPE: Shape = {
    "messages": _MESSAGE,
    "stream_options": {},
    "tools": {"function": {"parameters": None}, "custom": None},
    "functions": {"parameters": None},
    "tool_choice": None,
    "function_call": None,
    "response_format": None,
}


class ChatEndpoint(OpenAIEndpoint[ChatRequest]):
    """Chat: messages in, a message for each choice out."""

    format = "chat"
    translates = True
    route = "/v1/chat/completions"
    path = b"/chat/completions"
    output_field = "max_completion_tokens"
    stream_object = "chat.completion.chunk"
    ids = ReferenceFields({"file_id": "files"})
    creates = True
    empty_choice: ClassVar[dict[str, Any]] = {"delta": {}}

    def read(self, body: bytes) -> ChatRequest:
        """The request in a body. Raises InvalidJson, InvalidType, MissingParameter."""
        return json_body.read(_decoder.decode, _SHAPE, body)

    def count(self, request: ChatRequest, counter: TokenCounter) -> int:
        """The input tokens: messages, tools, response format, images."""
        return counter.count_chat(request, request.model)

    def forget_prompt(self, request: ChatRequest) -> None:
        """Free what was read to be counted."""
        request.messages = []
        request.tools = request.functions = None
        # The others hold on to the bytes of the body.
        request.tool_choice = request.function_call = request.response_format = msgspec.Raw()

    def bound(self, request: ChatRequest) -> OutputBound:
        """What the request says of its output. Of two maxima the larger: which one a provider obeys is its affair."""
        one, other = request.max_tokens, request.max_completion_tokens
        client_max = (one if other is None else other) if one is None or other is None else max(one, other)
        choices, hides = request.n or 1, hides_output(request.model)
        return OutputBound(choices, choices, client_max, None, bool(request.stream) and not hides, True, hides)

    def creates_with(self, request: ChatRequest) -> bool:
        """Whether the provider is to keep the completion, for its list of those."""
        return request.store is not None and request.store is not False

    def telling(self, meter: StreamMeter) -> bytes:
        """The first events, of which one at least has the id."""
        return meter.first

    def created(self, told: bytes) -> tuple[str, ...]:
        """The completion."""
        answers = (parse(data_of(event) or event) for event in split_events(told))
        ids = (answer.get("id") for answer in answers if isinstance(answer, dict))
        return tuple(dict.fromkeys(id_ for id_ in ids if isinstance(id_, str)))

    def maxima(self, request: ChatRequest) -> dict[str, int]:
        """The client's own maxima of output, by their fields."""
        named = {"max_tokens": request.max_tokens, "max_completion_tokens": request.max_completion_tokens}
        return {name: bound for name, bound in named.items() if bound is not None}


CHAT = ChatEndpoint()
