"""A chat request in Anthropic's format.

Source: Anthropic's API reference, "Create a Message"; its guides "Adaptive thinking", "Structured outputs".
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Raw

from sentinel.proxy.translation import chat_of_messages
from sentinel.proxy.translation.chat_request import (
    Assistant,
    ChatRequest,
    Developer,
    File,
    FunctionTool,
    Image,
    Message,
    NamedChoice,
    SchemaFormat,
    System,
    Text,
    TextFormat,
    Thinking,
    Tool,
    Zero,
    data_url,
    web_url,
)
from sentinel.proxy.translation.pair import StreamTranslator, Translation
from sentinel.proxy.translation.strict import given, object_of, read, unsupported

_DEFAULT_MAX: Final = 8_192
_DEFAULT_MAX_WITH_THINKING: Final = 32_000
"""Anthropic wants a maximum in each request. All of its models since 2024 take the first, all that think the second."""

_PDF: Final = "application/pdf"
_NO_PARAMETERS: Final = Raw(b'{"type":"object","properties":{}}')
_CHOICES: Final = {"auto": "auto", "none": "none", "required": "any"}


class _Request(ChatRequest, kw_only=True):
    """What Anthropic's format can be asked beside what all can."""

    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    seed: None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    response_format: TextFormat | SchemaFormat | None = None
    reasoning_effort: Literal["none", "low", "medium", "high", "xhigh", "max"] | None = None
    service_tier: Literal["auto", "default"] | None = None


_decoder = msgspec.json.Decoder(_Request)


class ChatToMessages(Translation):
    """A client that speaks chat, a provider that speaks Anthropic's format."""

    path = b"/messages"

    def __init__(self, body: bytes, now_seconds: int) -> None:
        request = read(_decoder, body)
        self.body = msgspec.json.encode(_translated(request))
        self._created = now_seconds
        self._wants_usage = request.wants_usage

    def answer(self, status: int, body: bytes) -> bytes:
        """A whole answer, or an error, in chat's format. Raises UpstreamError for what cannot be read."""
        return chat_of_messages.answer(status, body, self._created)

    def stream(self, counted_input: int = 0) -> StreamTranslator:  # noqa: ARG002
        """The translator of the answer's stream."""
        return chat_of_messages.ChatOfMessages(self._created, wants_usage=self._wants_usage)


def _translated(request: _Request) -> dict[str, Any]:
    system, turns = _turns(request.messages)
    effort = request.reasoning_effort
    thinks = effort not in (None, "none")
    default_max = _DEFAULT_MAX_WITH_THINKING if thinks else _DEFAULT_MAX
    out: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.output_max or default_max,
        "system": system,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop_sequences": request.stops,
        "stream": request.stream,
        "tools": [_tool(tool) for tool in request.tools or []],
        "tool_choice": _tool_choice(request),
        "thinking": None if effort is None else {"type": "adaptive" if thinks else "disabled"},
        "output_config": _output_config(request),
        "metadata": _metadata(request),
        "service_tier": "standard_only" if request.service_tier == "default" else None,
    }
    return {name: value for name, value in out.items() if value not in (None, [], {})} | {"messages": turns}


def _turns(messages: list[Message]) -> tuple[list[Any], list[dict[str, Any]]]:
    """The system prompt, which stands before all turns, and the turns; those of one role behind one another are one."""
    system: list[Any] = []
    turns: list[dict[str, Any]] = []
    for position, message in enumerate(messages):
        role, blocks = _blocks_of(message, f"messages[{position}]")
        if role == "system" and not turns:
            system += blocks
        elif turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    return system, turns


def _blocks_of(message: Message, path: str) -> tuple[str, list[dict[str, Any]]]:
    if isinstance(message, Assistant):
        return "assistant", _of_assistant(message, path)
    if isinstance(message, Tool):
        content = message.content if isinstance(message.content, str) else [_text(part) for part in message.content]
        return "user", [{"type": "tool_result", "tool_use_id": message.tool_call_id, "content": content}]
    if isinstance(message, System | Developer):
        texts = [Text(message.content)] if isinstance(message.content, str) else message.content
        # Anthropic takes no empty text, and it says nothing.
        return "system", [_text(part) for part in texts if part.text]
    parts = [Text(message.content)] if isinstance(message.content, str) else message.content
    return "user", [_block(part, f"{path}.content[{position}]") for position, part in enumerate(parts)]


def _of_assistant(message: Assistant, path: str) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    for block in message.thinking_blocks or []:
        if isinstance(block, Thinking):
            blocks.append({"type": "thinking", "thinking": block.thinking, "signature": block.signature})
        else:
            blocks.append({"type": "redacted_thinking", "data": block.data})
    content = [Text(message.content)] if isinstance(message.content, str) else message.content or []
    texts = [_text(part) if isinstance(part, Text) else {"type": "text", "text": part.refusal} for part in content]
    if message.refusal:
        texts.append({"type": "text", "text": message.refusal})
    blocks += [block for block in texts if block["text"]]
    for position, call in enumerate(message.tool_calls or []):
        given_input = object_of(call.function.arguments)
        if given_input is None:
            raise unsupported(f"{path}.tool_calls[{position}].function.arguments")
        blocks.append({"type": "tool_use", "id": call.id, "name": call.function.name, "input": given_input})
    return blocks


def _block(part: Text | Image | File, path: str) -> dict[str, Any]:
    if isinstance(part, Text):
        return _text(part)
    if isinstance(part, Image):
        url = part.image_url.url
        data = data_url(url)
        source = (
            {"type": "url", "url": web_url(url, f"{path}.image_url.url")}
            if data is None
            else {"type": "base64", "media_type": data[0], "data": data[1]}
        )
        return {"type": "image", "source": source, **_cached(part.cache_control)}
    data = data_url(part.file.file_data)
    if data is None or data[0] != _PDF:
        raise unsupported(f"{path}.file.file_data")
    title = {} if part.file.filename is None else {"title": part.file.filename}
    return {"type": "document", "source": {"type": "base64", "media_type": _PDF, "data": data[1]}, **title}


def _text(part: Text) -> dict[str, Any]:
    return {"type": "text", "text": part.text, **_cached(part.cache_control)}


def _cached(control: Raw) -> dict[str, Any]:
    return {"cache_control": control} if given(control) else {}


def _tool(tool: FunctionTool) -> dict[str, Any]:
    function = tool.function
    schema = function.parameters if given(function.parameters) else _NO_PARAMETERS
    out: dict[str, Any] = {"name": function.name, "input_schema": schema, **_cached(tool.cache_control)}
    if function.description is not None:
        out["description"] = function.description
    if function.strict is not None:
        out["strict"] = function.strict
    return out


def _tool_choice(request: _Request) -> dict[str, Any] | None:
    choice = request.tool_choice
    if isinstance(choice, NamedChoice):
        out: dict[str, Any] = {"type": "tool", "name": choice.function.name}
    elif choice is None and request.parallel_tool_calls is not False:
        return None
    else:
        out = {"type": _CHOICES[choice or "auto"]}
    if request.parallel_tool_calls is False and out["type"] != "none":
        out["disable_parallel_tool_use"] = True
    return out


def _output_config(request: _Request) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if request.reasoning_effort not in (None, "none"):
        config["effort"] = request.reasoning_effort
    if isinstance(request.response_format, SchemaFormat):
        config["format"] = {"type": "json_schema", "schema": request.response_format.json_schema.schema}
    return config


def _metadata(request: _Request) -> dict[str, Any]:
    names = {name for name in (request.user, request.safety_identifier) if name is not None}
    if len(names) > 1:
        raise unsupported("user")
    return {"user_id": names.pop()} if names else {}
