"""What OpenAI refuses of a request to POST /v1/responses, in OpenAI's words."""

from __future__ import annotations

from typing import Any

import msgspec

from sentinel.dev.validation import JSON_FORMS, Refused, missing, out_of_range, tools_of, wrong_type

_LEAST_MAX = 16
_FIELDS = frozenset(
    (
        "background", "background_options", "client_metadata", "context_management", "conversation", "image", "include",
        "input", "instructions", "max_output_tokens", "max_tool_calls", "metadata", "model", "moderation",
        "parallel_tool_calls", "previous_response_id", "prompt", "prompt_cache_key", "prompt_cache_options",
        "prompt_cache_retention", "reasoning", "safety_identifier", "service_tier", "store", "stream",
        "stream_options", "temperature", "text", "tool_choice", "tools", "top_logprobs", "top_p", "truncation", "user",
    )
)  # fmt: skip
_MOVED = {
    "messages": "input",
    "response_format": "text.format",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "functions": "tools",
    "reasoning_effort": "reasoning.effort",
}
_TYPES: dict[str, tuple[type, str]] = {
    **dict.fromkeys(("background", "store"), (bool, "a boolean")),
    **dict.fromkeys(("instructions", "previous_response_id"), (str, "a string")),
    **dict.fromkeys(("metadata", "reasoning", "text"), (dict, "an object")),
}
_ROLES = ("assistant", "system", "developer", "user")
_PARTS = {
    True: ("output_text", "refusal"),
    False: ("input_text", "input_image", "input_file", "input_audio"),
}
"""The parts of a message's content, by whether it is the assistant's."""
_ITEMS = frozenset(
    (
        "message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output", "reasoning",
        "item_reference", "computer_call", "computer_call_output", "web_search_call", "file_search_call",
        "image_generation_call", "code_interpreter_call", "local_shell_call", "local_shell_call_output", "shell_call",
        "shell_call_output", "apply_patch_call", "apply_patch_call_output", "mcp_list_tools", "mcp_approval_request",
        "mcp_approval_response", "mcp_call", "compaction", "tool_search_call", "tool_search_output",
    )
)  # fmt: skip


def check_response(body: dict[str, Any]) -> None:
    """Check all but what `check_common` does. Raises Refused."""
    for name in body:
        if name in _MOVED:
            message = (
                f"Unsupported parameter: '{name}'. In the Responses API, this parameter has moved to '{_MOVED[name]}'."
            )
            raise Refused(400, message, param=name, code="unsupported_parameter")
        if name not in _FIELDS:
            raise Refused(400, f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
    for name, (kind, words) in _TYPES.items():
        if not isinstance(body.get(name), kind | None):
            raise wrong_type(name, words, body[name])
    _check_input(body)
    _check_max(body.get("max_output_tokens"))
    _check_tools(body)
    _check_format(body)
    if body.get("background") and body.get("store") is False:
        raise Refused(400, "Background mode needs 'store'.", param="store", code="invalid_value")
    for name in ("conversation", "prompt"):
        if body.get(name):
            raise Refused(400, f"The simulator knows no '{name}'.", param=name, code="unsupported_parameter")


def _check_max(value: Any) -> None:
    if value is None:
        return
    if type(value) is not int:
        raise wrong_type("max_output_tokens", "an integer", value)
    if value < _LEAST_MAX:
        bound = f">= {_LEAST_MAX}, but got {value} instead"
        raise out_of_range("max_output_tokens", "integer", "below minimum", bound)


def _check_input(body: dict[str, Any]) -> None:
    given = body.get("input")
    if given is None:
        raise missing("input")
    if not isinstance(given, str | list):
        raise wrong_type("input", "a string or an array", given)
    called: set[str] = set()
    for index, item in enumerate(given if isinstance(given, list) else ()):
        place = f"input[{index}]"
        if not isinstance(item, dict):
            raise wrong_type(place, "an object", item)
        kind = item.get("type", "message")
        if kind not in _ITEMS:
            raise _invalid(f"{place}.type", kind, sorted(_ITEMS))
        if kind == "message":
            _check_message(item, place)
        elif kind == "function_call":
            _check_call(item, place)
            called.add(item["call_id"])
        elif kind == "function_call_output":
            _check_output(item, place, None if body.get("previous_response_id") else called)


def _check_call(item: dict[str, Any], place: str) -> None:
    for name in ("call_id", "name", "arguments"):
        if not isinstance(item.get(name), str):
            raise missing(f"{place}.{name}")


def _check_output(item: dict[str, Any], place: str, called: set[str] | None) -> None:
    """called: the calls that it may answer; None where they are elsewhere."""
    if not isinstance(item.get("output"), str | list):
        raise missing(f"{place}.output")
    if called is not None and item.get("call_id") not in called:
        message = f"No tool call found for function call output with call_id {item.get('call_id')}."
        raise Refused(400, message, param="input")


def _check_message(item: dict[str, Any], place: str) -> None:
    role, content = item.get("role"), item.get("content")
    if role not in _ROLES:
        raise _invalid(f"{place}.role", role, _ROLES)
    if content is None:
        raise missing(f"{place}.content")
    if not isinstance(content, str | list):
        raise wrong_type(f"{place}.content", "a string or an array", content)
    known = _PARTS[role == "assistant"]
    for index, part in enumerate(content if isinstance(content, list) else ()):
        at = f"{place}.content[{index}]"
        if not isinstance(part, dict):
            raise wrong_type(at, "an object", part)
        if part.get("type") not in known:
            raise _invalid(f"{at}.type", part.get("type"), known)


def _check_tools(body: dict[str, Any]) -> None:
    for place, tool in tools_of(body):
        if not isinstance(tool.get("type"), str):
            raise missing(f"{place}.type")
        if tool["type"] in {"function", "custom"} and not isinstance(tool.get("name"), str):
            raise missing(f"{place}.name")
        if not isinstance(tool.get("parameters"), dict | None):
            raise wrong_type(f"{place}.parameters", "an object", tool["parameters"])
    if not isinstance(body.get("tool_choice"), str | dict | None):
        raise wrong_type("tool_choice", "one of a string or an object", body["tool_choice"])


def _check_format(body: dict[str, Any]) -> None:
    form = (body.get("text") or {}).get("format")
    if form is None:
        return
    if not isinstance(form, dict):
        raise wrong_type("text.format", "an object", form)
    kind = form.get("type")
    if kind not in {"text", *JSON_FORMS}:
        raise _invalid("text.format.type", kind, ("json_object", "json_schema", "text"))
    if kind == "json_object" and b"json" not in msgspec.json.encode(body["input"]).lower():
        message = (
            "Response input messages must contain the word 'json' in some form to use 'text.format' of type "
            "'json_object'."
        )
        raise Refused(400, message, param="input")
    if kind == "json_schema":
        if not isinstance(form.get("name"), str):
            raise missing("text.format.name")
        if not isinstance(form.get("schema"), dict):
            raise missing("text.format.schema")


def _invalid(param: str, value: Any, known: Any) -> Refused:
    names = ", ".join(f"'{name}'" for name in known)
    message = f"Invalid value: '{value}'. Supported values are: {names}."
    return Refused(400, message, param=param, code="invalid_value")
