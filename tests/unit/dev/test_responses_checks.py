"""What the simulator of OpenAI refuses of a request to /v1/responses, and in which words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentinel.dev.responses_checks import check_response
from sentinel.dev.validation import Refused

CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "sun"}


def user(*parts: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": list(parts)}]}


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"messages": []}, "messages", "unsupported_parameter"),
        ({"input": "a", "words": 1}, "words", "unknown_parameter"),
        ({}, "input", "missing_required_parameter"),
        ({"input": 7}, "input", "invalid_type"),
        ({"input": ["a"]}, "input[0]", "invalid_type"),
        ({"input": [{"type": "x"}]}, "input[0].type", "invalid_value"),
        ({"input": [{"role": "x", "content": "a"}]}, "input[0].role", "invalid_value"),
        ({"input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter"),
        ({"input": [{"role": "user", "content": 7}]}, "input[0].content", "invalid_type"),
        (user("a"), "input[0].content[0]", "invalid_type"),
        (user({"type": "text", "text": "a"}), "input[0].content[0].type", "invalid_value"),
        ({"input": [{**CALL, "name": None}]}, "input[0].name", "missing_required_parameter"),
        ({"input": [CALL, {**RESULT, "output": 7}]}, "input[1].output", "missing_required_parameter"),
        ({"input": [RESULT]}, "input", None),
        ({"input": "a", "max_output_tokens": "9"}, "max_output_tokens", "invalid_type"),
        ({"input": "a", "max_output_tokens": 15}, "max_output_tokens", "integer_below_minimum_value"),
        ({"input": "a", "store": 1}, "store", "invalid_type"),
        ({"input": "a", "instructions": 1}, "instructions", "invalid_type"),
        ({"input": "a", "metadata": 1}, "metadata", "invalid_type"),
        ({"input": "a", "background": True, "store": False}, "store", "invalid_value"),
        ({"input": "a", "tools": 1}, "tools", "invalid_type"),
        ({"input": "a", "tools": [1]}, "tools[0]", "invalid_type"),
        ({"input": "a", "tools": [{}]}, "tools[0].type", "missing_required_parameter"),
        ({"input": "a", "tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
        ({"input": "a", "tools": [{"type": "x", "parameters": 1}]}, "tools[0].parameters", "invalid_type"),
        ({"input": "a", "tool_choice": 1}, "tool_choice", "invalid_type"),
        ({"input": "a", "text": {"format": 1}}, "text.format", "invalid_type"),
        ({"input": "a", "text": {"format": {"type": "x"}}}, "text.format.type", "invalid_value"),
        ({"input": "a", "text": {"format": {"type": "json_object"}}}, "input", None),
        ({"input": "a", "text": {"format": {"type": "json_schema"}}}, "text.format.name", "missing_required_parameter"),
        ({"input": "a", "text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema",
         "missing_required_parameter"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(body: dict[str, Any], param: str, code: str | None) -> None:
    """Its place, and OpenAI's code."""
    with pytest.raises(Refused) as raised:
        check_response(body)
    error = json.loads(raised.value.body)["error"]
    assert (error["param"], error["code"]) == (param, code)


@pytest.mark.parametrize(
    "body",
    [
        {"input": "a", "max_output_tokens": None, "text": {"verbosity": "low"}},
        {"input": [CALL, RESULT], "tools": [{"type": "web_search"}], "tool_choice": "auto"},
        {"input": [RESULT], "previous_response_id": "resp_1"},
        {**user({"type": "input_text", "text": "json"}), "text": {"format": {"type": "json_object"}}},
        {"input": [{"role": "assistant", "content": [{"type": "output_text", "text": "a"}]}]},
    ],
)
def test_what_is_right_passes(body: dict[str, Any]) -> None:
    """Nothing is raised."""
    check_response(body)
