"""Sentinel's own chat: POST /native/v1/chat/completions. A client names a tier, and Sentinel a model of it.

What is sent on is a chat completion, and what comes back is that, but for calls of tools in a whole answer: their
arguments are objects here, and their ids Sentinel's own. Which models a tier has the governance says
(`middleware/tier_router.py`). Source: docs/native.md; contract 2.14, without the defects that it lists.
"""

from __future__ import annotations

import re
import uuid
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from sentinel.endpoints import json_body
from sentinel.endpoints.chat import CHAT
from sentinel.endpoints.endpoint import Changes, Endpoint, OutputBound
from sentinel.endpoints.strict_json import Shape
from sentinel.error import AppError, InvalidType, MissingParameter
from sentinel.proxy.meter import StreamMeter
from sentinel.proxy.redaction import Redactor
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.loose import Reading, parse
from sentinel.tokens.request import ChatRequest, TokenLimit
from sentinel.tokens.usage import Usage

Tier = Literal["simple", "moderate", "complex"]

_TOOL_NAME = re.compile(r"[A-Za-z0-9_]+")
_SHAPE: Shape = {
    "messages": {"content": {"image_url": {}}, "tool_calls": {"function": {"arguments": None}}},
    "tools": {"function": {"parameters": None}},
    "tool_choice": {"function": {}},
}
_ERRORS = {
    400: ("invalid_request_error", "invalid_request"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    500: ("server_error", "internal_error"),
    502: ("upstream_error", "provider_error"),
    503: ("service_unavailable", "service_unavailable"),
    504: ("upstream_error", "provider_timeout"),
}
"""`type` and `code` of an error by its status; others have those of all routes."""
_PROVIDER = "openai"


class _ImageUrl(Struct, gc=False, omit_defaults=True):
    url: str
    detail: str | None = None


class _TextPart(Struct, gc=False, tag_field="type", tag="text"):
    text: str


class _ImagePart(Struct, gc=False, tag_field="type", tag="image_url"):
    image_url: _ImageUrl


class _Called(Struct, gc=False):
    name: str
    arguments: Any


class _ToolCall(Struct, gc=False):
    id: str
    type: Literal["function"]
    function: _Called


class _Message(Struct, gc=False):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[_TextPart | _ImagePart]
    name: str | None = None
    tool_calls: list[_ToolCall] = []
    tool_call_id: str | None = None


class _Function(Struct, gc=False):
    name: str
    description: str
    parameters: dict[str, Any]


class _Tool(Struct, gc=False):
    type: Literal["function"]
    function: _Function


class _Named(Struct, gc=False):
    name: str


class _Choice(Struct, gc=False):
    type: Literal["function"]
    function: _Named


class _Body(Struct, gc=False, forbid_unknown_fields=True):
    messages: list[_Message]
    tier: Tier = "simple"
    temperature: float | None = None
    max_tokens: TokenLimit | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    conversation_id: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    tools: list[_Tool] = []
    tool_choice: Literal["auto", "none", "required"] | _Choice | None = None


class NativeRequest(Struct, gc=False):
    """What is decided on of a request. fields: of the chat completion that is sent on, without its model.

    model: "" until one is chosen. conversation: the client's name for it, if it has one.
    """

    tier: Tier
    conversation: str | None
    fields: dict[str, Any]
    chat: ChatRequest
    model: str = ""

    @property
    def stream(self) -> bool | None:
        """Whether the answer is to be a stream."""
        return self.chat.stream


_body = msgspec.json.Decoder(_Body)
_chat = msgspec.json.Decoder(ChatRequest)


class NativeEndpoint(Endpoint[NativeRequest]):
    """A chat in which a model is chosen by its tier."""

    format = "chat"
    route = "/native/v1/chat/completions"
    path = CHAT.path
    chooses_model = True
    rewrites = True

    def read(self, body: bytes) -> NativeRequest:
        """The request in a body. Raises InvalidJson, InvalidType, MissingParameter."""
        native = json_body.read(_body.decode, _SHAPE, body)
        _check_messages(native.messages)
        _check_tools(native.tools)
        fields = _translated(native)
        chat = _chat.decode(msgspec.json.encode({"model": "", **fields}))
        return NativeRequest(native.tier, native.conversation_id, fields, chat)

    def tier_of(self, request: NativeRequest) -> tuple[str, str | None]:
        """The tier that a request names, and its conversation."""
        return request.tier, request.conversation

    def choose(self, request: NativeRequest, model: str) -> None:
        """From now on it is to this model."""
        request.model = request.chat.model = model

    def count(self, request: NativeRequest, counter: TokenCounter) -> int:
        """The input tokens of the chat completion that is sent on, in those of its model; 0 until that is chosen."""
        return 0 if not request.model else CHAT.count(request.chat, counter)

    def forget_prompt(self, request: NativeRequest) -> None:
        """Nothing: it is what is sent on."""

    def bound(self, request: NativeRequest) -> OutputBound:
        """What the request says of its output."""
        return CHAT.bound(request.chat)

    def changes(self, request: NativeRequest, bound: OutputBound, output_max: int | None) -> Changes:
        """As of a chat completion."""
        return CHAT.changes(request.chat, bound, output_max)

    def changed(self, body: bytes, request: NativeRequest, changes: Changes) -> bytes:  # noqa: ARG002
        """The chat completion that is sent on, to the chosen model."""
        return CHAT.changed(msgspec.json.encode({"model": request.model, **request.fields}), request.chat, changes)

    def meter(self, request: NativeRequest, redactor: Redactor) -> StreamMeter:
        """The meter of the request's stream."""
        return CHAT.meter(request.chat, redactor)

    def ending(self, request: NativeRequest, meter: StreamMeter, usage: Usage) -> bytes:
        """The events that end a stream at a limit."""
        return CHAT.ending(request.chat, meter, usage)

    def read_answer(self, body: bytes) -> Reading | None:
        """What a whole answer says; None if it cannot be read."""
        return CHAT.read_answer(body)

    def as_stream(self, body: bytes) -> bytes:
        """A whole answer as the events of a stream."""
        return CHAT.as_stream(body)

    def refusal_as_stream(self, status: int, body: bytes) -> bytes:
        """A provider's refusal as the last event of a stream."""
        return CHAT.refusal_as_stream(status, body)

    def rewritten(self, body: bytes) -> bytes:
        """A whole answer in this format: what is null is left out, and arguments of calls are objects."""
        answer = parse(body)
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list):
            return body
        for choice in choices:
            if isinstance(choice, dict):
                _leave_out_nulls(choice, ("finish_reason",))
                if isinstance(message := choice.get("message"), dict):
                    _leave_out_nulls(message, ("content", "tool_calls"))
                    for call in message.get("tool_calls") or ():
                        _rewrite_call(call)
        return msgspec.json.encode(answer)

    def render(self, error: AppError, request_id: str) -> bytes:  # noqa: ARG002
        """An error as the body of an answer; of one of the provider it says whose it is."""
        kind, code = _ERRORS.get(error.status, (error.error_type, error.code))
        if error.code == "insufficient_quota":
            kind, code = error.error_type, error.code
        fields: dict[str, Any] = {"message": error.message, "type": kind, "code": code, "param": error.param}
        if error.side == "provider":
            fields["provider"] = _PROVIDER
        if error.details:
            fields["details"] = error.details
        return msgspec.json.encode({"error": fields})


def _check_messages(messages: list[_Message]) -> None:
    """Raises InvalidType, MissingParameter: roles in an order that providers take, answers to calls there were."""
    called: set[str] = set()
    has_begun = False
    for place, message in enumerate(messages):
        here = f"messages[{place}]"
        if message.role == "system" and has_begun:
            raise InvalidType(f"'{here}' is a system message after another one.", param=f"{here}.role")
        has_begun = has_begun or message.role != "system"
        called |= {call.id for call in message.tool_calls}
        if message.role != "tool":
            continue
        if message.tool_call_id is None:
            param = f"{here}.tool_call_id"
            raise MissingParameter(f"Missing required parameter: '{param}'.", param=param)
        if message.tool_call_id not in called:
            name = message.tool_call_id[:64]
            raise InvalidType(f"No message before calls '{name}'.", param=f"{here}.tool_call_id")


def _check_tools(tools: list[_Tool]) -> None:
    """Raises InvalidType."""
    for place, tool in enumerate(tools):
        function, here = tool.function, f"tools[{place}].function"
        if not _TOOL_NAME.fullmatch(function.name):
            text = f"The tool name '{function.name[:64]}' may have letters, digits and underscores alone."
            raise InvalidType(text, param=f"{here}.name")
        if not function.description:
            raise InvalidType(f"The tool '{function.name}' has no description.", param=f"{here}.description")
        if function.parameters.get("type") != "object":
            raise InvalidType(
                f"The parameters of the tool '{function.name}' must be a JSON Schema of type 'object'.",
                param=f"{here}.parameters",
            )


def _translated(native: _Body) -> dict[str, Any]:
    """The fields of a chat completion, without its model."""
    names = {call.id: call.function.name for message in native.messages for call in message.tool_calls}
    fields: dict[str, Any] = {"messages": [_message(message, names) for message in native.messages]}
    given = {name: getattr(native, name) for name in ("temperature", "max_tokens", "top_p", "stop")}
    fields |= {name: value for name, value in given.items() if value is not None}
    if native.stream:
        fields["stream"] = True
    if native.tools:
        fields["tools"] = native.tools
    if native.tool_choice is not None:
        fields["tool_choice"] = native.tool_choice
    return fields


def _message(message: _Message, names: dict[str, str]) -> dict[str, Any]:
    if message.role == "tool":
        content = message.content
        text = (
            content
            if isinstance(content, str)
            else "".join(part.text for part in content if isinstance(part, _TextPart))
        )
        name = names[message.tool_call_id or ""]
        return {"role": "tool", "tool_call_id": message.tool_call_id, "name": name, "content": text}
    fields: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None:
        fields["name"] = message.name
    if message.tool_calls:
        fields["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": _text(call)}}
            for call in message.tool_calls
        ]
    return fields


def _text(call: _ToolCall) -> str:
    """Arguments as providers want them: JSON as text."""
    arguments = call.function.arguments
    return arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()


def _leave_out_nulls(fields: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if fields.get(name, name) is None:
            del fields[name]


def _rewrite_call(call: Any) -> None:
    """An id of our own, and arguments as the object that they are; what is none stays as it came."""
    if not isinstance(call, dict):
        return
    call["id"] = f"call_{uuid.uuid4()}"
    function = call.get("function")
    if isinstance(function, dict) and isinstance(arguments := function.get("arguments"), str):
        value = parse(arguments.encode() or b"{}")
        function["arguments"] = value if isinstance(value, dict) else arguments


NATIVE = NativeEndpoint()
