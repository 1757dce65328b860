"""Requests of clients that speak Anthropic's format, for providers of chat.

Here `proxy/translation/messages_request.py` is tested, too.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)
from pydantic import TypeAdapter

from sentinel.error import UnsupportedParameter
from sentinel.proxy.translation.messages_to_chat import MessagesToChat
from tests.support.translations import leaves, numbered, objects_in, texts_in

PARAMS: TypeAdapter[Any] = TypeAdapter(CompletionCreateParamsStreaming | CompletionCreateParamsNonStreaming)
USER = {"role": "user", "content": "one"}
CACHED = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
PDF = {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}
TEXT = {"type": "text", "text": "t"}


def translated(**fields: Any) -> dict[str, Any]:
    """The request that a provider gets, which OpenAI's SDK would send just so."""
    body = json.dumps({"model": "m", "max_tokens": 5, "messages": [USER], **fields}).encode()
    out: dict[str, Any] = json.loads(MessagesToChat(body, 1).body)
    PARAMS.validate_python(out)
    return out


def of_user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


def test_a_plain_request() -> None:
    """Nothing is added."""
    assert translated() == {"model": "m", "max_completion_tokens": 5, "messages": [USER]}


def test_a_conversation() -> None:
    """Results follow their calls at once; images of theirs, which chat's tools cannot have, come with what follows."""
    out = translated(
        system=[{"type": "text", "text": "s1", **CACHED}, {"type": "text", "text": "s2"}],
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "u1", **CACHED},
                    {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
                    {**PNG, **CACHED},
                    {"type": "document", "source": PDF, "title": "T", "citations": {"enabled": False}},
                    {"type": "document", "source": PDF},
                    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "d"}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "t", "signature": "s"},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "text", "text": "a1", "citations": None, "parsed_output": None},
                    {"type": "text", "text": "a2"},
                    {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}, "caller": {"type": "direct"}},
                    {"type": "tool_use", "id": "c2", "name": "g", "input": {}, **CACHED},
                    {"type": "tool_use", "id": "c3", "name": "h", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": [TEXT, PNG], **CACHED},
                    {"type": "tool_result", "tool_use_id": "c2", "content": "oops", "is_error": True},
                    {"type": "tool_result", "tool_use_id": "c3"},
                    {"type": "text", "text": "go"},
                ],
            },
            {"role": "assistant", "content": "a3"},
            {"role": "system", "content": "s3"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "t"}]},
            {"role": "user", "content": [TEXT]},
        ],
    )
    png = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    pdf = "data:application/pdf;base64,AAAA"
    assert out["messages"] == [
        {"role": "system", "content": [{"type": "text", "text": "s1"}, {"type": "text", "text": "s2"}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "u1"},
                {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
                png,
                {"type": "file", "file": {"filename": "T", "file_data": pdf}},
                {"type": "file", "file": {"filename": "document.pdf", "file_data": pdf}},
                {"type": "text", "text": "d"},
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "a1"}, {"type": "text", "text": "a2"}],
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
                {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
                {"id": "c3", "type": "function", "function": {"name": "h", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "t"},
        {"role": "tool", "tool_call_id": "c2", "content": "Error: oops"},
        {"role": "tool", "tool_call_id": "c3", "content": ""},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Images in the result of c1:"}, png, {"type": "text", "text": "go"}],
        },
        {"role": "assistant", "content": "a3"},
        {"role": "system", "content": "s3"},
        {"role": "user", "content": "t"},
    ]


def test_results_and_words_keep_their_order() -> None:
    """Whether a provider takes it so is its affair."""
    out = translated(**of_user(TEXT, {"type": "tool_result", "tool_use_id": "c", "is_error": True}))
    assert out["messages"] == [
        {"role": "user", "content": "t"},
        {"role": "tool", "tool_call_id": "c", "content": "Error: "},
    ]


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_a_turn_without_blocks_says_nothing(role: str) -> None:
    """No provider takes an empty list."""
    out = translated(messages=[USER, {"role": role, "content": []}], system=[])
    assert [message["content"] for message in out["messages"]] == ["one", ""][: 1 + (role == "system")]


def test_calls_without_a_word() -> None:
    """Then there is no content, as at OpenAI."""
    call = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
    out = translated(messages=[USER, {"role": "assistant", "content": [call]}])
    assert out["messages"][1]["content"] is None


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
FORMAT = {"type": "json_schema", "schema": SCHEMA}
EXPECTED_FORMAT = {
    "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}
}
TOOL = {"name": "f", "input_schema": SCHEMA}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"temperature": 0.5, "top_p": 0.25}, {"temperature": 0.5, "top_p": 0.25}),
        ({"stop_sequences": ["x", "y"]}, {"stop": ["x", "y"]}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        ({"stream": False}, {"stream": False}),
        ({"system": "s"}, {"messages": [{"role": "system", "content": "s"}, USER]}),
        ({"metadata": {"user_id": "u"}}, {"user": "u"}),
        ({"service_tier": "standard_only"}, {"service_tier": "default"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"reasoning_effort": "low"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 4096}}, {"reasoning_effort": "medium"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 31999}}, {"reasoning_effort": "high"}),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 9}, "output_config": {"effort": "xhigh"}},
            {"reasoning_effort": "xhigh"},
        ),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"output_config": {"format": FORMAT}}, EXPECTED_FORMAT),
        ({"output_format": FORMAT}, EXPECTED_FORMAT),
        ({"tools": [TOOL]}, {"tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]}),
        (
            {
                "tools": [
                    {
                        **TOOL, **CACHED, "type": "custom", "description": "d", "strict": True, "defer_loading": False,
                        "eager_input_streaming": True, "allowed_callers": ["direct"], "input_examples": [],
                    }
                ]
            },
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "f", "parameters": SCHEMA, "description": "d", "strict": True},
                    }
                ]
            },
        ),
        ({"tool_choice": {"type": "auto"}}, {"tool_choice": "auto"}),
        ({"tool_choice": {"type": "any"}}, {"tool_choice": "required"}),
        ({"tool_choice": {"type": "none"}}, {"tool_choice": "none"}),
        (
            {"tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True}},
            {"tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": False},
        ),
    ],
)  # fmt: skip
def test_what_is_carried(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    """Each field in the words of the other format."""
    assert translated(**fields) == {**translated(), **expected}


@pytest.mark.parametrize(
    "fields",
    [
        {"stop_sequences": [], "tools": [], "top_k": None, "container": None, "mcp_servers": [], "inference_geo": None},
        {"service_tier": "auto", "speed": "standard", "metadata": {}, **CACHED, "output_config": {}},
        {"metadata": {"user_id": "u" * 65}},
        {"thinking": {"type": "disabled"}},
        {"thinking": {"type": "adaptive", "display": "summarized"}},
        {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}},
        {"context_management": {}, "diagnostics": {"previous_message_id": None}},
    ],
)
def test_what_asks_for_nothing_is_left_out(fields: dict[str, Any]) -> None:
    """Defaults, and hints that change nothing of what the model is asked."""
    assert translated(**fields) == translated()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_k": 5}, "top_k"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{"type": "url", "url": "https://x", "name": "n"}]}, "mcp_servers"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management.edits[0].type"),
        ({"inference_geo": "us"}, "inference_geo"),
        ({"speed": "fast"}, "speed"),
        ({"metadata": {"a": "b"}}, "metadata.a"),
        ({"thinking": {"type": "new"}}, "thinking.type"),
        ({"output_config": {"task_budget": {}}}, "output_config.task_budget"),
        ({"output_config": {"format": FORMAT}, "output_format": FORMAT}, "output_format"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{**TOOL, "allowed_callers": ["code_execution_20250825"]}]}, "tools[0].allowed_callers[0]"),
        ({"tools": [{**TOOL, "input_examples": [{}]}]}, "tools[0].input_examples"),
        (of_user({"type": "search_result"}), "messages[0].content[0].type"),
        (of_user({"type": "image", "source": {"type": "file", "file_id": "f"}}), "messages[0].content[0].source.type"),
        (of_user({"type": "document", "source": {**PDF, "media_type": "image/png"}}),
         "messages[0].content[0].source.media_type"),
        (of_user({"type": "document", "source": PDF, "context": "c"}), "messages[0].content[0].context"),
        (of_user({"type": "document", "source": PDF, "citations": {"enabled": True}}),
         "messages[0].content[0].citations.enabled"),
        (of_user(TEXT, {"type": "document", "title": "T", "source": {"type": "text", "data": "d"}}),
         "messages[0].content[1].title"),
        (of_user({"type": "tool_result", "tool_use_id": "c", "content": [{"type": "document", "source": PDF}]}),
         "messages[0].content[0].content[0].type"),
        ({"messages": [{"role": "assistant", "content": [{"type": "server_tool_use"}]}]},
         "messages[0].content[0].type"),
    ],
)  # fmt: skip
def test_what_is_refused(fields: dict[str, Any], param: str) -> None:
    """Whatever chat has no place for is named, never left out."""
    with pytest.raises(UnsupportedParameter) as error:
        translated(**fields)
    assert error.value.param == param


def test_a_tool_whose_loading_is_deferred() -> None:
    """The model gets to know of it as it would at Anthropic: once a result refers to it, and in that result's words."""
    tools = [TOOL, {**TOOL, "name": "g", "defer_loading": True}, {**TOOL, "name": "h", "defer_loading": True}]
    found = {"type": "tool_reference", "tool_name": "h", **CACHED}
    uses = {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}]}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [found]}]}

    def offered(out: dict[str, Any]) -> list[str]:
        return [tool["function"]["name"] for tool in out["tools"]]

    assert offered(translated(tools=tools)) == ["f"]
    out = translated(tools=tools, messages=[USER, uses, result])
    assert offered(out) == ["f", "h"]
    assert out["messages"][-1] == {"role": "tool", "tool_call_id": "c", "content": "Tool loaded: h"}
    assert "tools" not in translated(tools=tools[1:])


def test_what_claude_code_sends() -> None:
    """All of it passes: hints to caches, its long user id, thinking that is adaptive."""
    cached = {"cache_control": {"type": "ephemeral", "ttl": "1h", "scope": "global"}}
    out = translated(
        system=[{"type": "text", "text": "You are Claude Code."}, {"type": "text", "text": "Rules", **cached}],
        tools=[
            {"name": "Read", "description": "Reads", "input_schema": SCHEMA, "eager_input_streaming": True},
            {"name": "Placeholder", "description": "Never call it.", "input_schema": SCHEMA, "defer_loading": True},
        ],
        metadata={"user_id": json.dumps({"device_id": "d" * 64, "session_id": "s"})},
        thinking={"type": "adaptive"},
        output_config={"effort": "high"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        diagnostics={"previous_message_id": "msg_1"},
        temperature=1,
        stream=True,
    )
    assert out.keys() == {
        *("model", "messages", "max_completion_tokens", "temperature", "stream", "stream_options", "tools"),
        "reasoning_effort",
    }


def test_equal_schemas_are_one() -> None:
    """An absent one asks for nothing."""
    assert "response_format" not in translated(output_format={"type": "json_schema", "schema": None})


LEFT_OUT = {
    "cache_control.type", "metadata.user_id", "thinking.budget_tokens", "thinking.display", "stream",
    "messages.*.content.*.cache_control.type", "messages.*.content.*.signature", "messages.*.content.*.thinking",
    "tools.*.cache_control.type", "tools.*.eager_input_streaming", "system.*.cache_control.type",
    "tool_choice.disable_parallel_tool_use", "messages.*.content.*.is_error",
}  # fmt: skip
"""Hints, and what the tables above are about; nothing else may go."""
RENAMED = {"role", "type"}

word = st.just("@")
cached = {"cache_control": st.just({"type": "ephemeral"})}
text = st.fixed_dictionaries({"type": st.just("text"), "text": word}, optional=cached)
image = st.fixed_dictionaries(
    {
        "type": st.just("image"),
        "source": st.sampled_from(
            [
                {"type": "url", "url": "https://@"},
                {"type": "base64", "media_type": "image/png", "data": "@"},
                {"type": "file", "file_id": "@"},
            ]
        ),
    },
    optional=cached,
)
reference = st.just({"type": "tool_reference", "tool_name": "@"})
result = st.fixed_dictionaries(
    {"type": st.just("tool_result"), "tool_use_id": word},
    optional={"content": word | st.lists(text | image | reference, max_size=3), "is_error": st.booleans(), **cached},
)
use = st.fixed_dictionaries(
    {"type": st.just("tool_use"), "id": word, "name": word, "input": st.sampled_from([{}, {"a": "@"}])}
)
thinking = st.just({"type": "thinking", "thinking": "@", "signature": "@"})
message = st.one_of(
    st.fixed_dictionaries({"role": st.just("user"), "content": word | st.lists(text | image | result, max_size=4)}),
    st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": word | st.lists(text | use | thinking, max_size=4)}
    ),
    st.fixed_dictionaries({"role": st.just("system"), "content": word | st.lists(text, max_size=2)}),
)
tools = st.lists(
    st.fixed_dictionaries(
        {"name": word, "input_schema": st.just({"type": "object", "title": "@"})},
        optional={"description": word, "strict": st.booleans(), "eager_input_streaming": st.booleans(), **cached},
    ),
    max_size=2,
)
request = st.fixed_dictionaries(
    {"model": word, "max_tokens": st.just(4321), "messages": st.lists(message, max_size=5)},
    optional={
        "system": word | st.lists(text), "temperature": st.just(0.125), "top_p": st.just(0.375),
        "stop_sequences": st.lists(word), "stream": st.booleans(), "tools": tools, "top_k": st.sampled_from([None, 7]),
        "tool_choice": st.sampled_from(
            [{"type": "auto"}, {"type": "tool", "name": "@", "disable_parallel_tool_use": True}]
        ),
        "thinking": st.sampled_from(
            [{"type": "enabled", "budget_tokens": 2000}, {"type": "adaptive", "display": "omitted"}]
        ),
        "output_config": st.fixed_dictionaries(
            {}, optional={"effort": st.just("high"), "format": st.just({"type": "json_schema", "schema": {"a": "@"}})}
        ),
        "metadata": st.just({"user_id": "@"}), **cached,
    },
)  # fmt: skip


@given(request.map(numbered))
def test_no_leaf_is_lost(body: dict[str, Any]) -> None:
    """Whatever a request says is said to the provider, is on the list above, or is refused."""
    try:
        out = json.loads(MessagesToChat(json.dumps(body).encode(), 1).body)
    except UnsupportedParameter:
        return
    PARAMS.validate_python(out)
    there = "\n".join(texts_in(out))
    for path, leaf in leaves(body):
        if path not in LEFT_OUT and path.rpartition(".")[2] not in RENAMED:
            assert str(leaf) in there, path


@given(request.map(numbered), st.data())
def test_no_field_is_overlooked(body: dict[str, Any], data: st.DataObject) -> None:
    """A field that nobody knows is refused wherever it stands, but in what is passed on as it is."""
    _, place = data.draw(st.sampled_from(list(objects_in(body))))
    place["unheard_of"] = "wxw"
    try:
        out = MessagesToChat(json.dumps(body).encode(), 1).body
    except UnsupportedParameter:
        return
    assert b"wxw" in out
