"""A request to /v1/responses costs what a chat of its items would."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from sentinel.tokens.bpe import count_for
from sentinel.tokens.counter import FILE_TOKENS, TokenCounter
from sentinel.tokens.images import ASSUMED_SIZE, image_tokens
from sentinel.tokens.request import ChatRequest, FunctionCall, Message, ToolCall
from sentinel.tokens.responses_input import read_body

MODEL = "gpt-4o-mini"
COUNTER = TokenCounter()
count = count_for(MODEL)
IMAGE = image_tokens(ASSUMED_SIZE, None, MODEL)


def cost(given: Any = "hi", **fields: Any) -> int:
    """The input tokens of a request."""
    _, chat = read_body(json.dumps({"model": MODEL, "input": given, **fields}).encode())
    return COUNTER.count_chat(chat, MODEL)


def chat(*messages: Message) -> int:
    """The input tokens of a chat."""
    return COUNTER.count_chat(ChatRequest(MODEL, list(messages)), MODEL)


def as_json(value: Any) -> int:
    """The tokens of a value's JSON."""
    return count(json.dumps(value, separators=(",", ":")))


def test_a_text_is_a_message_and_instructions_are_one_before_it() -> None:
    """By the formula for chats."""
    assert cost("hello world") == chat(Message("user", "hello world")) == 9
    assert cost("hi", instructions="Be kind.") == chat(Message("system", "Be kind."), Message("user", "hi"))


def test_messages_and_their_parts() -> None:
    """Texts, refusals, pictures, sound, files."""
    assert cost([{"role": "developer", "content": "Be kind."}]) == chat(Message("developer", "Be kind."))
    parts = [{"type": "input_text", "text": "hello"}, {"type": "input_text", "text": " world"}]
    assert cost([{"type": "message", "role": "user", "content": parts}]) == 9
    said = [{"type": "output_text", "text": "hello", "annotations": []}, {"type": "refusal", "refusal": "world"}]
    assert cost([{"role": "assistant", "content": said}]) == 7 + count("hello") + count("world")
    pictures = [{"type": "input_image", "image_url": "https://x.test/a.png"}, {"type": "input_image", "file_id": "f"}]
    assert cost([{"role": "user", "content": pictures}]) == 7 + 2 * IMAGE
    files = [{"type": "input_file", "filename": "a.pdf", "file_data": "data:;base64,AAAA"}]
    assert cost([{"role": "user", "content": files}]) == 7 + FILE_TOKENS + count("a.pdf")
    sound = [{"type": "input_audio", "input_audio": {"data": "A" * 32_000, "format": "mp3"}}]
    assert cost([{"role": "user", "content": sound}]) == 7 + 15


def test_calls_and_what_they_gave() -> None:
    """Calls in a row are one message, as in a chat."""
    call = {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c", "output": "sun"}
    calls = [ToolCall(function=FunctionCall("weather", "{}"))]
    assert cost([call, result]) == chat(Message("assistant", tool_calls=calls), Message("tool", "sun"))
    assert cost([call, call, result]) == chat(Message("assistant", tool_calls=calls * 2), Message("tool", "sun"))
    custom = {"type": "custom_tool_call", "call_id": "c", "name": "sh", "input": "ls"}
    assert cost([custom]) == 7 + count("sh") + count("ls") + 3
    parts = [{"type": "input_text", "text": "sun"}]
    assert cost([{**result, "output": parts}]) == cost([result])
    shot = {"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": "https://x.test"}}
    assert cost([shot]) == 8 + IMAGE
    assert cost([{"type": "custom_tool_call_output", "output": 7}]) == 8 + count("7")
    assert cost([{"type": "custom_tool_call_output"}]) == 8


def test_pictures_that_were_made() -> None:
    """They are shown again; where nothing was made nothing is."""
    assert cost([{"type": "image_generation_call", "result": "AAAA"}]) == 7 + IMAGE
    assert cost([{"type": "image_generation_call", "result": None}]) == 7


@pytest.mark.parametrize(
    "item",
    [
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAAABo"},
        {"type": "web_search_call", "action": {"query": "rain"}, "status": "completed"},
        {"type": "a_new_item", "content": 7, "role": ["x"], "arguments": {"a": 1}},
    ],
)
def test_other_items_count_as_their_json(item: dict[str, Any]) -> None:
    """Nothing is free for being unknown."""
    assert cost([item]) == 7 + as_json(item)


def test_other_parts_and_tools_count_as_their_json() -> None:
    """As items do."""
    part = {"type": "a_new_part", "text": 7, "more": "words"}
    assert cost([{"role": "user", "content": [part]}]) == 7 + as_json(part)
    tool = {"type": "web_search", "search_context_size": "low"}
    assert cost(tools=[tool]) == cost() + 9 + as_json(tool)


@pytest.mark.parametrize("item", [{"type": "item_reference", "id": "msg_1"}, {"id": "msg_1"}])
def test_what_lies_at_the_provider_cannot_be_counted(item: dict[str, Any]) -> None:
    """Its own usage bills it; what a prompt is filled with is here."""
    assert cost([item]) == 3
    prompt = {"id": "pmpt_1", "variables": {"city": "Rome"}}
    assert cost([], prompt=prompt) == 7 + as_json(prompt)


def test_functions_and_formats_cost_what_they_cost_in_a_chat() -> None:
    """Although they are written otherwise."""
    function = {
        "name": "weather",
        "description": "Tells it",
        "parameters": {"properties": {"city": {"type": "string"}}},
    }
    form = {"name": "x", "schema": {"type": "object"}}
    in_a_chat = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "response_format": {"type": "json_schema", "json_schema": form},
    }
    expected = COUNTER.count_chat(msgspec.json.decode(json.dumps(in_a_chat), type=ChatRequest), MODEL)
    choice = {"type": "function", "name": "weather"}
    text = {"format": {"type": "json_schema", **form}}
    assert cost(tools=[{"type": "function", **function}], tool_choice=choice, text=text) == expected
    assert cost(text={"format": {"type": "text"}}) == cost(text={"format": None}) == cost(text=None) == cost()
