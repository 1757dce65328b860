"""What OpenAI refuses."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sentinel.dev.validation import Refused, check_chat, check_common, check_completion, decode_body, trouble_of

MODELS = frozenset({"gpt-4o"})
GOOD = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}


def check(body: Any) -> None:
    check_common(body, MODELS)
    check_chat(body)


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"a": "b"}, "x_future": 1},
        {"messages": [{"role": "developer", "content": [{"type": "text", "text": "hi"}]}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": []}]},
        {"n": 128, "max_tokens": 1, "temperature": 2, "top_p": 0.5, "stream": None},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"response_format": {"type": "text"}},
        {"response_format": {"type": "json_object"}, "messages": [{"role": "user", "content": "As JSON"}]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": True}}},
    ],
)
def test_what_is_accepted(change: dict[str, Any]) -> None:
    """Whatever OpenAI takes passes, unknown fields included."""
    check({**GOOD, **change})


@pytest.mark.parametrize(
    ("change", "status", "param", "code"),
    [
        ({"model": None}, 400, "model", "missing_required_parameter"),
        ({"model": 4}, 400, "model", "invalid_type"),
        ({"model": "nope"}, 404, "model", "model_not_found"),
        ({"messages": None}, 400, "messages", "missing_required_parameter"),
        ({"messages": "hi"}, 400, "messages", "invalid_type"),
        ({"messages": []}, 400, "messages", "empty_array"),
        ({"messages": ["hi"]}, 400, "messages[0]", "invalid_type"),
        ({"messages": [{"content": "hi"}]}, 400, "messages[0].role", "missing_required_parameter"),
        ({"messages": [{"role": "boss", "content": "hi"}]}, 400, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user", "content": 1}]}, 400, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "user"}]}, 400, "messages[0].content", "missing_required_parameter"),
        ({"max_tokens": 0}, 400, "max_tokens", "integer_below_minimum_value"),
        ({"max_tokens": 1.5}, 400, "max_tokens", "invalid_type"),
        ({"max_tokens": True}, 400, "max_tokens", "invalid_type"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, 400, None, None),
        ({"n": 129}, 400, "n", "integer_above_maximum_value"),
        ({"temperature": 2.1}, 400, "temperature", "decimal_above_maximum_value"),
        ({"top_p": "1"}, 400, "top_p", "invalid_type"),
        ({"stream": 1}, 400, "stream", "invalid_type"),
        ({"stream_options": {}}, 400, "stream_options", None),
        ({"response_format": "json"}, 400, "response_format", "invalid_type"),
        ({"response_format": {}}, 400, "response_format.type", "invalid_value"),
        ({"response_format": {"type": "json"}}, 400, "response_format.type", "invalid_value"),
        ({"response_format": {"type": "json_object"}}, 400, "messages", None),
        (
            {"response_format": {"type": "json_schema"}},
            400,
            "response_format.json_schema",
            "missing_required_parameter",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {}}},
            *(400, "response_format.json_schema.name", "missing_required_parameter"),
        ),
    ],
)
def test_what_is_refused(change: dict[str, Any], status: int, param: str | None, code: str | None) -> None:
    """Every refusal names the parameter."""
    with pytest.raises(Refused) as refused:
        check({**GOOD, **change})
    error = msgspec.json.decode(refused.value.body)["error"]
    assert (refused.value.status, error["param"], error["code"]) == (status, param, code)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"nul"])
def test_bodies_that_are_no_object(raw: bytes) -> None:
    """Only a JSON object is a request."""
    with pytest.raises(Refused):
        decode_body(raw)


@pytest.mark.parametrize("prompt", [None, 4, {}])
def test_prompts(prompt: Any) -> None:
    """A legacy completion needs a prompt."""
    with pytest.raises(Refused):
        check_completion({"prompt": prompt})


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
def test_every_status_has_a_body(status: int) -> None:
    """Each error is in OpenAI's shape."""
    assert set(msgspec.json.decode(trouble_of(status).body)["error"]) == {"message", "type", "param", "code"}
