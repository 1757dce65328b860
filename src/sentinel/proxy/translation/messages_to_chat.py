"""A request in Anthropic's format as one in chat's.

Source: OpenAI's API reference, "Create chat completion".
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from sentinel.proxy.translation import messages_of_chat
from sentinel.proxy.translation.messages_request import (
    AnyChoice,
    Assistant,
    Base64,
    BudgetedThinking,
    Document,
    Image,
    Message,
    MessagesRequest,
    NamedChoice,
    NoChoice,
    NoThinking,
    PlainText,
    SchemaFormat,
    System,
    Text,
    Tool,
    ToolReference,
    ToolResult,
    ToolUse,
    User,
    UserBlock,
)
from sentinel.proxy.translation.pair import StreamTranslator, Translation
from sentinel.proxy.translation.strict import given, read, unsupported

_MOST_OF_A_NAME: Final = 64
"""Characters of `user` that OpenAI takes; Claude Code's `user_id` has more."""

_BUDGETS: Final = ((4_096, "low"), (16_384, "medium"))
"""Tokens of thinking below which it is such an effort; the bounds are ours, beyond them it is `high`."""

_PDF: Final = "application/pdf"

_decoder = msgspec.json.Decoder(MessagesRequest)


class MessagesToChat(Translation):
    """A client that speaks Anthropic's format, a provider that speaks chat."""

    path = b"/chat/completions"

    def __init__(self, body: bytes, now_seconds: int) -> None:  # noqa: ARG002
        request = read(_decoder, body)
        self.body = msgspec.json.encode(_translated(request))
        thinking = request.thinking
        self._shows_thinking = isinstance(thinking, NoThinking) or thinking is None or thinking.display != "omitted"

    def answer(self, status: int, body: bytes) -> bytes:
        """A whole answer, or an error, in Anthropic's format. Raises UpstreamError for what cannot be read."""
        return messages_of_chat.answer(status, body, shows_thinking=self._shows_thinking)

    def stream(self, counted_input: int = 0) -> StreamTranslator:
        """The translator of the answer's stream, whose first event tells the input as counted here."""
        return messages_of_chat.MessagesOfChat(counted_input, shows_thinking=self._shows_thinking)


def _translated(request: MessagesRequest) -> dict[str, Any]:
    system = [] if not request.system else [{"role": "system", "content": _texts(request.system)}]
    out: dict[str, Any] = {
        "model": request.model,
        "messages": [*system, *_messages(request.messages)],
        "max_completion_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop": request.stop_sequences or None,
        "stream": request.stream,
        "stream_options": {"include_usage": True} if request.stream else None,
        "tools": [_tool(tool) for tool in _loaded(request)] or None,
        "tool_choice": _tool_choice(request),
        "parallel_tool_calls": False if _is_sequential(request) else None,
        "reasoning_effort": _effort(request),
        "response_format": _response_format(request),
        "user": _user(request),
        "service_tier": "default" if request.service_tier == "standard_only" else None,
    }
    return {name: value for name, value in out.items() if value is not None}


def _messages(messages: list[Message]) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for position, message in enumerate(messages):
        if isinstance(message, System):
            out.append({"role": "system", "content": _texts(message.content)})
        elif isinstance(message, Assistant):
            out += _of_assistant(message)
        else:
            out += _of_user(message, f"messages[{position}]")
    return out


def _of_assistant(message: Assistant) -> list[dict[str, Any]]:
    blocks = [Text(message.content)] if isinstance(message.content, str) else message.content
    texts = [block for block in blocks if isinstance(block, Text)]
    calls = [
        {"id": block.id, "type": "function",
         "function": {"name": block.name, "arguments": bytes(block.input).decode()}}
        for block in blocks if isinstance(block, ToolUse)
    ]  # fmt: skip
    if not texts and not calls:
        return []
    content = _texts(texts) if texts else None
    return [{"role": "assistant", "content": content, **({"tool_calls": calls} if calls else {})}]


def _of_user(message: User, path: str) -> list[dict[str, Any]]:
    """The results of tools, each a message of its own, and what the user says; both in their order."""
    if isinstance(message.content, str):
        return [{"role": "user", "content": message.content}]
    out: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    of_results: list[dict[str, Any]] = []
    for position, block in enumerate(message.content):
        if isinstance(block, ToolResult):
            if parts:
                out.append(_said(parts))
                parts = []
            out.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": _result(block)})
            of_results += _images_of(block)
        else:
            parts.append(_part(block, f"{path}.content[{position}]"))
    # All results must follow their calls at once, so images of theirs come after the last.
    parts = [*of_results, *parts]
    return [*out, _said(parts)] if parts else out


def _said(parts: list[dict[str, Any]]) -> dict[str, Any]:
    alone = len(parts) == 1 and parts[0]["type"] == "text"
    return {"role": "user", "content": parts[0]["text"] if alone else parts}


def _part(block: UserBlock, path: str) -> dict[str, Any]:
    if isinstance(block, Text):
        return {"type": "text", "text": block.text}
    if isinstance(block, Image):
        return _image(block)
    assert isinstance(block, Document)
    if isinstance(block.source, PlainText):
        if block.title is not None:
            raise unsupported(f"{path}.title")
        return {"type": "text", "text": block.source.data}
    if block.source.media_type != _PDF:
        raise unsupported(f"{path}.source.media_type")
    name = "document.pdf" if block.title is None else block.title
    return {"type": "file", "file": {"filename": name, "file_data": _data_url(block.source)}}


def _image(block: Image) -> dict[str, Any]:
    url = _data_url(block.source) if isinstance(block.source, Base64) else block.source.url
    return {"type": "image_url", "image_url": {"url": url}}


def _data_url(source: Base64) -> str:
    return f"data:{source.media_type};base64,{source.data}"


def _result(block: ToolResult) -> str | list[dict[str, Any]]:
    """A result's texts. That it is an error, and which tools it loads, is said in words: chat has no field for it."""
    content = [Text(block.content)] if isinstance(block.content, str) else block.content or []
    texts = [
        Text(f"Tool loaded: {part.tool_name}") if isinstance(part, ToolReference) else part
        for part in content if not isinstance(part, Image)
    ]  # fmt: skip
    if block.is_error:
        first, *others = texts or [Text("")]
        texts = [Text(f"Error: {first.text}"), *others]
    return _texts(texts)


def _images_of(block: ToolResult) -> list[dict[str, Any]]:
    """A result's images as a user would show them, for in chat tools have but words."""
    content = block.content if isinstance(block.content, list) else []
    images = [_image(part) for part in content if isinstance(part, Image)]
    return [{"type": "text", "text": f"Images in the result of {block.tool_use_id}:"}, *images] if images else []


def _texts(content: str | list[Text]) -> str | list[dict[str, Any]]:
    """One text as a string, which all providers take, as is none; several as parts, for nothing stands between them."""
    if isinstance(content, str):
        return content
    if len(content) <= 1:
        return content[0].text if content else ""
    return [{"type": "text", "text": block.text} for block in content]


def _loaded(request: MessagesRequest) -> list[Tool]:
    """The tools that the model is to know of: none whose loading is deferred, until a result refers to it."""
    blocks = [block for message in request.messages if isinstance(message.content, list) for block in message.content]
    results = [block.content for block in blocks if isinstance(block, ToolResult) and isinstance(block.content, list)]
    named = {part.tool_name for content in results for part in content if isinstance(part, ToolReference)}
    return [tool for tool in request.tools or [] if not tool.defer_loading or tool.name in named]


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _tool_choice(request: MessagesRequest) -> str | dict[str, Any] | None:
    match request.tool_choice:
        case None:
            return None
        case NamedChoice(name=name):
            return {"type": "function", "function": {"name": name}}
        case AnyChoice():
            return "required"
        case NoChoice():
            return "none"
        case _:
            return "auto"


def _is_sequential(request: MessagesRequest) -> bool:
    choice = request.tool_choice
    return choice is not None and not isinstance(choice, NoChoice) and bool(choice.disable_parallel_tool_use)


def _effort(request: MessagesRequest) -> str | None:
    """How much the model is to think; a budget is an effort, for chat has no other word."""
    if request.output_config is not None and request.output_config.effort is not None:
        return request.output_config.effort
    if not isinstance(request.thinking, BudgetedThinking):
        return None
    budget = request.thinking.budget_tokens
    return next((effort for bound, effort in _BUDGETS if budget < bound), "high")


def _response_format(request: MessagesRequest) -> dict[str, Any] | None:
    config = request.output_config
    formats: list[SchemaFormat | None] = [request.output_format, None if config is None else config.format]
    schemas: list[Raw] = [each.schema for each in formats if each is not None and given(each.schema)]
    if len(schemas) > 1:
        raise unsupported("output_format")
    if not schemas:
        return None
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schemas[0]}}


def _user(request: MessagesRequest) -> str | None:
    """Who the client's user is, where it is short enough; it is a hint."""
    name = None if request.metadata is None else request.metadata.user_id
    return name if name and len(name) <= _MOST_OF_A_NAME else None
