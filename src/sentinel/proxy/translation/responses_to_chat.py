"""A request to /v1/responses as one to /v1/chat/completions.

Source: OpenAI's API reference, both; its guide "Migrate to the Responses API".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from sentinel.proxy.translation import responses_of_chat
from sentinel.proxy.translation.pair import StreamTranslator, Translation
from sentinel.proxy.translation.responses_request import (
    CallItem,
    FunctionTool,
    InputFile,
    InputImage,
    InputText,
    Item,
    MessageItem,
    NamedChoice,
    NamespaceTool,
    ObjectFormat,
    OutputItem,
    OutputText,
    Part,
    ResponsesRequest,
    SchemaFormat,
    items_of,
)
from sentinel.proxy.translation.strict import given, read, unsupported

_ROLES: Final = {"developer": "system"}
"""Providers of chat need not know OpenAI's newer word."""

_MOST_OF_A_NAME: Final = 64
"""Characters of a function's name that OpenAI takes."""

_SAME: Final = (
    "model", "temperature", "top_p", "stream", "parallel_tool_calls", "service_tier", "prompt_cache_key",
    "prompt_cache_retention", "safety_identifier", "user",
)  # fmt: skip
_TOLD_AGAIN: Final = {
    **dict.fromkeys(("instructions", "max_output_tokens", "temperature", "top_p", "reasoning", "user")),
    **dict.fromkeys(("prompt_cache_key", "prompt_cache_retention", "safety_identifier")),
    "metadata": {},
    "text": {"format": {"type": "text"}},
    "truncation": "disabled",
    "service_tier": "auto",
}
"""What a response says of its request, and what it says where that says nothing."""

_decoder = msgspec.json.Decoder(ResponsesRequest)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


class ResponsesToChat(Translation):
    """A client that speaks responses, a provider that speaks chat."""

    path = b"/chat/completions"

    def __init__(self, body: bytes, now_seconds: int) -> None:
        request = read(_decoder, body)
        self.body = msgspec.json.encode(_translated(request))
        self._envelope = _envelope(request, _fields.decode(body), now_seconds)
        self._named = _named(request.tools or [])

    def answer(self, status: int, body: bytes) -> bytes:
        """A whole answer as a response; an error as it is. Raises UpstreamError for what cannot be read."""
        return responses_of_chat.answer(status, body, self._envelope, self._named)

    def stream(self, counted_input: int = 0) -> StreamTranslator:  # noqa: ARG002
        """The translator of the answer's stream."""
        return responses_of_chat.ResponsesOfChat(self._envelope, self._named)


def _translated(request: ResponsesRequest) -> dict[str, Any]:
    instructions = [] if not request.instructions else [{"role": "system", "content": request.instructions}]
    text, reasoning = request.text, request.reasoning
    out: dict[str, Any] = {
        **{name: getattr(request, name) for name in _SAME},
        "messages": [*instructions, *_messages(items_of(request))],
        "max_completion_tokens": request.max_output_tokens,
        "stream_options": {"include_usage": True} if request.stream else None,
        "tools": [each for tool in request.tools for each in _tools(tool)] if request.tools else None,
        "tool_choice": _tool_choice(request),
        "response_format": None if text is None else _response_format(text.format),
        "verbosity": None if text is None else text.verbosity,
        "reasoning_effort": None if reasoning is None else reasoning.effort,
    }
    return {name: value for name, value in out.items() if value is not None}


def _envelope(request: ResponsesRequest, fields: dict[str, msgspec.Raw], now_seconds: int) -> dict[str, Any]:
    """What all responses to this request have in common."""
    parallel, choice = request.parallel_tool_calls, fields.get("tool_choice")
    return {
        "object": "response",
        "created_at": now_seconds,
        "background": False,
        "store": False,
        "error": None,
        "parallel_tool_calls": True if parallel is None else parallel,
        "tool_choice": choice if choice is not None and given(choice) else "auto",
        "tools": [_told_tool(tool) for tool in request.tools or []],
        "previous_response_id": None,
        "max_tool_calls": None,
        **{name: fields.get(name, default) for name, default in _TOLD_AGAIN.items()},
    }


def _messages(items: list[Item]) -> list[dict[str, Any]]:
    """Calls are one message with what was said before them; images of their results come after all results."""
    out: list[dict[str, Any]] = []
    of_results: list[dict[str, Any]] = []
    for item in items:
        if isinstance(item, OutputItem):
            out.append({"role": "tool", "tool_call_id": item.call_id, "content": _result(item)})
            of_results += _images_of(item)
        elif isinstance(item, (MessageItem, CallItem)):
            if of_results:
                out.append({"role": "user", "content": of_results})
                of_results = []
            if isinstance(item, MessageItem):
                out.append(_message(item))
            else:
                _add_call(out, item)
    return [*out, {"role": "user", "content": of_results}] if of_results else out


def _add_call(out: list[dict[str, Any]], item: CallItem) -> None:
    if not out or out[-1]["role"] != "assistant":
        out.append({"role": "assistant", "content": None})
    function = {"name": _called(item.name, item.namespace), "arguments": item.arguments}
    out[-1].setdefault("tool_calls", []).append({"id": item.call_id, "type": "function", "function": function})


def _message(item: MessageItem) -> dict[str, Any]:
    content = item.content if isinstance(item.content, str) else _content([_part(part) for part in item.content])
    return {"role": _ROLES.get(item.role, item.role), "content": content}


def _content(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """One text as a string, which all providers take, as is no text; anything else as parts."""
    if not parts:
        return ""
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, (InputText, OutputText)):
        return {"type": "text", "text": part.text}
    if isinstance(part, InputImage):
        return _image(part)
    if isinstance(part, InputFile):
        name = {} if part.filename is None else {"filename": part.filename}
        return {"type": "file", "file": {"file_data": part.file_data, **name}}
    return {"type": "refusal", "refusal": part.refusal}


def _image(part: InputImage) -> dict[str, Any]:
    detail = {} if part.detail is None else {"detail": part.detail}
    return {"type": "image_url", "image_url": {"url": part.image_url, **detail}}


def _result(item: OutputItem) -> str | list[dict[str, Any]]:
    if isinstance(item.output, str):
        return item.output
    return _content([_part(part) for part in item.output if isinstance(part, InputText)])


def _images_of(item: OutputItem) -> list[dict[str, Any]]:
    """A result's images as a user would show them, for in chat tools have but words."""
    parts = item.output if isinstance(item.output, list) else []
    images = [_image(part) for part in parts if isinstance(part, InputImage)]
    return [{"type": "text", "text": f"Images in the result of {item.call_id}:"}, *images] if images else []


def _called(name: str, namespace: str | None) -> str:
    """What a function is called in chat, which has no namespaces; the same in each request."""
    whole = name if namespace is None else f"{namespace}__{name}"
    if namespace is None or len(whole) <= _MOST_OF_A_NAME:
        return whole
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return f"{whole[: _MOST_OF_A_NAME - 9]}_{digest}"


def _named(tools: Iterable[FunctionTool | NamespaceTool]) -> dict[str, dict[str, str]]:
    """The fields with which a response names the functions of namespaces, by what these are called in chat."""
    called = {tool.name for tool in tools if isinstance(tool, FunctionTool)}
    named: dict[str, dict[str, str]] = {}
    for position, space in enumerate(tools):
        for index, tool in enumerate(space.tools if isinstance(space, NamespaceTool) else ()):
            name = _called(tool.name, space.name)
            if name in called or name in named:
                raise unsupported(f"tools[{position}].tools[{index}].name")
            named[name] = {"name": tool.name, "namespace": space.name}
    return named


def _function(tool: FunctionTool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.parameters if given(tool.parameters) else None}
    return function if tool.description is None else {**function, "description": tool.description}


def _told_tool(tool: FunctionTool | NamespaceTool) -> dict[str, Any]:
    """A tool as a response says it again."""
    if isinstance(tool, NamespaceTool):
        functions = [_told_tool(each) for each in tool.tools]
        return {"type": "namespace", "name": tool.name, "description": tool.description, "tools": functions}
    return {"type": "function", "description": None, **_function(tool), "strict": bool(tool.strict)}


def _tools(tool: FunctionTool | NamespaceTool) -> list[dict[str, Any]]:
    """A function, or those of a namespace, each with what is said of all of them before what is said of it."""
    if isinstance(tool, FunctionTool):
        return [_tool(_function(tool), tool.strict)]
    out = []
    for each in tool.tools:
        told = "\n\n".join(filter(None, (tool.description, each.description)))
        fields = {"name": _called(each.name, tool.name), "description": told or None}
        out.append(_tool({**_function(each), **fields}, each.strict))
    return out


def _tool(fields: dict[str, Any], strict: bool | None) -> dict[str, Any]:
    function = {name: value for name, value in {**fields, "strict": strict}.items() if value is not None}
    return {"type": "function", "function": function}


def _tool_choice(request: ResponsesRequest) -> str | dict[str, Any] | None:
    choice = request.tool_choice
    return {"type": "function", "function": {"name": choice.name}} if isinstance(choice, NamedChoice) else choice


def _response_format(wanted: Any) -> dict[str, Any] | None:
    if isinstance(wanted, ObjectFormat):
        return {"type": "json_object"}
    if not isinstance(wanted, SchemaFormat):
        return None
    names = ("name", "schema", "description", "strict")
    told = {name: getattr(wanted, name) for name in names if getattr(wanted, name) is not None}
    return {"type": "json_schema", "json_schema": told}
