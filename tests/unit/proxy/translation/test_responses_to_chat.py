"""Requests of clients that speak responses, for providers of chat.

Here `proxy/translation/responses_request.py` is tested, too.
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

from sentinel.error import MissingParameter, UnsupportedParameter
from sentinel.proxy.translation.responses_to_chat import ResponsesToChat
from tests.support.translations import leaves, numbered, objects_in, texts_in

PARAMS: TypeAdapter[Any] = TypeAdapter(CompletionCreateParamsStreaming | CompletionCreateParamsNonStreaming)
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
TEXT = {"type": "input_text", "text": "t"}
IMAGE = {"type": "input_image", "image_url": "https://example.org/a.png", "detail": "low"}
CALL = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "c1",
    "name": "f",
    "arguments": '{"a":1}',
    "status": "completed",
}


def translated(**fields: Any) -> dict[str, Any]:
    """The request that a provider gets, which OpenAI's SDK would send just so."""
    out: dict[str, Any] = json.loads(
        ResponsesToChat(json.dumps({"model": "m", "input": "one", **fields}).encode(), 1).body
    )
    PARAMS.validate_python(out)
    return out


def test_a_plain_request() -> None:
    """Nothing is added."""
    assert translated() == {"model": "m", "messages": [{"role": "user", "content": "one"}]}


def test_a_conversation() -> None:
    """Calls in one message with what was said before; results at once behind it; their images after all of them."""
    out = translated(
        instructions="s1",
        input=[
            {"role": "developer", "content": "s2"},
            {"type": "message", "role": "user", "content": [TEXT]},
            {
                "role": "user",
                "content": [
                    TEXT,
                    IMAGE,
                    {"type": "input_image", "image_url": "https://example.org/b.png"},
                    {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"},
                    {"type": "input_file", "file_data": "data:application/pdf;base64,BBBB"},
                ],
            },
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x", "status": None},
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "a1", "annotations": [], "logprobs": []}],
            },
            CALL,
            {**CALL, "call_id": "c2", "arguments": ""},
            {"type": "function_call_output", "call_id": "c1", "output": [TEXT, IMAGE]},
            {"type": "function_call_output", "call_id": "c2", "output": [IMAGE], "id": None},
            CALL,
            {"type": "function_call_output", "call_id": "c1", "output": "r"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        ],
    )
    low = {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}}
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "c2", "type": "function", "function": {"name": "f", "arguments": ""}},
    ]
    assert out["messages"] == [
        {"role": "system", "content": "s1"},
        {"role": "system", "content": "s2"},
        {"role": "user", "content": "t"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "t"},
                low,
                {"type": "image_url", "image_url": {"url": "https://example.org/b.png"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}},
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,BBBB"}},
            ],
        },
        {"role": "assistant", "content": "a1", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "t"},
        {"role": "tool", "tool_call_id": "c2", "content": ""},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Images in the result of c1:"},
                low,
                {"type": "text", "text": "Images in the result of c2:"},
                low,
            ],
        },
        {"role": "assistant", "content": None, "tool_calls": calls[:1]},
        {"role": "tool", "tool_call_id": "c1", "content": "r"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ]


def test_a_message_without_parts_says_nothing() -> None:
    """No provider takes an empty list."""
    out = translated(input=[{"role": "user", "content": []}])
    assert out["messages"] == [{"role": "user", "content": ""}]


def test_images_of_the_last_result() -> None:
    """They end the conversation."""
    out = translated(input=[CALL, {"type": "function_call_output", "call_id": "c1", "output": [IMAGE]}])
    assert [message["role"] for message in out["messages"]] == ["assistant", "tool", "user"]


TOOL = {"type": "function", "name": "f", "parameters": SCHEMA, "strict": True, "description": "d"}
SPACE = {"type": "namespace", "name": "n", "description": "all", "tools": [TOOL, {"type": "function", "name": "g"}]}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_output_tokens": 5}, {"max_completion_tokens": 5}),
        ({"temperature": 1.5, "top_p": 0.25}, {"temperature": 1.5, "top_p": 0.25}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        ({"user": "u", "safety_identifier": "v"}, {"user": "u", "safety_identifier": "v"}),
        (
            {"prompt_cache_key": "k", "prompt_cache_retention": "24h"},
            {"prompt_cache_key": "k", "prompt_cache_retention": "24h"},
        ),
        ({"service_tier": "flex"}, {"service_tier": "flex"}),
        ({"parallel_tool_calls": False}, {"parallel_tool_calls": False}),
        ({"reasoning": {"effort": "minimal", "summary": "auto"}}, {"reasoning_effort": "minimal"}),
        ({"text": {"verbosity": "low", "format": {"type": "text"}}}, {"verbosity": "low"}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": SCHEMA, "strict": True},
                }
            },
        ),
        (
            {"tools": [TOOL]},
            {"tools": [{"type": "function", "function": {name: TOOL[name] for name in TOOL if name != "type"}}]},
        ),
        (
            {"tools": [{"type": "function", "name": "f", "parameters": None}]},
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
        ),
        (
            {"tools": [SPACE, TOOL]},
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "n__f", "description": "all\n\nd", "parameters": SCHEMA, "strict": True},
                    },
                    {"type": "function", "function": {"name": "n__g", "description": "all"}},
                    {"type": "function", "function": {name: TOOL[name] for name in TOOL if name != "type"}},
                ]
            },
        ),
        ({"tool_choice": "required"}, {"tool_choice": "required"}),
        (
            {"tool_choice": {"type": "function", "name": "f"}},
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        ),
    ],
)
def test_what_is_carried(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    """Each field in the words of the other format."""
    assert translated(**fields) == {**translated(), **expected}


@pytest.mark.parametrize(
    "fields",
    [
        {
            "store": False,
            "truncation": "disabled",
            "background": False,
            "top_logprobs": 0,
            "previous_response_id": None,
        },
        {"include": ["reasoning.encrypted_content"], "metadata": {"a": "b"}, "context_management": []},
        {"stream_options": {"include_obfuscation": False}, "reasoning": {}, "text": {}, "tools": []},
    ],
)
def test_what_asks_for_nothing_is_left_out(fields: dict[str, Any]) -> None:
    """Defaults, and hints that change nothing of what the model is asked."""
    assert translated(**fields) == translated()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["web_search_call.results"]}, "include[0]"),
        ({"max_tool_calls": 3}, "max_tool_calls"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "custom", "name": "apply_patch"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": "x"}, {"type": "web_search_call"}]}, "input[1].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "input[0].content[0].file_id",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "critic", "content": "x"}]}, "input[0].role"),
        ({"tools": [{**SPACE, "tools": [{"type": "custom", "name": "x"}]}]}, "tools[0].tools[0].type"),
        ({"tools": [TOOL, {**SPACE, "unheard_of": 1}]}, "tools[1].unheard_of"),
        ({"tools": [SPACE, {**TOOL, "name": "n__g"}]}, "tools[0].tools[1].name"),
        ({"tools": [SPACE, SPACE]}, "tools[1].tools[0].name"),
        ({"tools": [{**SPACE, "tools": []}]}, "tools[0].tools"),
        ({"input": [5]}, "input[0]"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], param: str) -> None:
    """Whatever chat has no place for is named, never left out."""
    with pytest.raises(UnsupportedParameter) as error:
        translated(**fields)
    assert error.value.param == param


def test_a_call_of_a_function_in_a_namespace() -> None:
    """It is called as the function is, whose tool may be there no more; too long a name is a shorter one of its own."""
    output = {"type": "function_call_output", "call_id": "c1", "output": "r", "name": "f", "namespace": "n"}
    out = translated(input=[{**CALL, "namespace": "n"}, output])
    assert [call["function"]["name"] for call in out["messages"][0]["tool_calls"]] == ["n__f"]
    calls = [{**CALL, "name": name * 33, "namespace": "n" * 31} for name in "fgf"]
    first, second, third = translated(input=calls)["messages"][0]["tool_calls"]
    assert first == third != second
    assert len(first["function"]["name"]) == 64
    tools = translated(tools=[{**SPACE, "name": "n" * 31, "tools": [{**TOOL, "name": "f" * 33}]}])["tools"]
    assert tools[0]["function"]["name"] == first["function"]["name"]


def test_what_codex_sends() -> None:
    """All of it passes, once its web search is disabled."""
    out = translated(
        instructions="You are Codex.",
        input=[{"type": "message", "role": "user", "content": [TEXT], "end_turn": None}],
        tools=[
            {"type": "function", "name": "shell", "description": "d", "strict": False, "parameters": SCHEMA},
            {"type": "namespace", "name": "multi_agent_v1", "description": "all", "tools": [TOOL]},
        ],
        tool_choice="auto",
        parallel_tool_calls=True,
        reasoning={"effort": "medium", "summary": "auto"},
        include=["reasoning.encrypted_content"],
        store=False,
        stream=True,
        prompt_cache_key="thread",
        text={"verbosity": "medium"},
        client_metadata={"x-codex-installation-id": "i"},
    )
    assert out.keys() == {
        *("model", "messages", "stream", "stream_options", "tools", "tool_choice", "parallel_tool_calls"),
        *("reasoning_effort", "prompt_cache_key", "verbosity"),
    }


def test_what_an_item_lacks_is_named() -> None:
    """With the item's place."""
    with pytest.raises(MissingParameter) as error:
        translated(input=[{"type": "function_call", "name": "f", "arguments": "{}"}])
    assert error.value.param == "input[0].call_id"


LEFT_OUT = {
    "metadata.k",
    "store",
    "include.*",
    "reasoning.summary",
    "input.*.id",
    "input.*.status",
    "input.*.encrypted_content",
    "input.*.summary.*.text",
}
"""Hints; nothing else may go."""
RENAMED = {"role", "type", "detail"}

word = st.just("@")
text = st.fixed_dictionaries({"type": st.just("input_text"), "text": word})
image = st.fixed_dictionaries(
    {"type": st.just("input_image"), "image_url": word}, optional={"file_id": st.sampled_from([None, "@"])}
)
ids = {"id": word, "status": st.just("completed")}
item = st.one_of(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "developer"]), "content": word | st.lists(text | image, max_size=3)}
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("message"),
            "role": st.just("assistant"),
            "content": st.lists(st.just({"type": "output_text", "text": "@", "annotations": []}), max_size=2),
        },
        optional=ids,
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("function_call"),
            "call_id": word,
            "name": word,
            "arguments": st.sampled_from(["", '{"a":"@"}']),
        },
        optional={**ids, "namespace": word},
    ),
    st.fixed_dictionaries(
        {"type": st.just("function_call_output"), "call_id": word, "output": word | st.lists(text | image, max_size=3)}
    ),
    st.fixed_dictionaries(
        {"type": st.just("reasoning"), "summary": st.just([{"type": "summary_text", "text": "@"}])},
        optional={"id": word, "encrypted_content": word},
    ),
    st.just({"type": "item_reference", "id": "@"}),
)
function = st.fixed_dictionaries(
    {"type": st.just("function"), "name": word},
    optional={"description": word, "parameters": st.just({"title": "@"}), "strict": st.booleans()},
)
namespace = st.fixed_dictionaries(
    {"type": st.just("namespace"), "name": word, "tools": st.lists(function, min_size=1, max_size=2)},
    optional={"description": word},
)
request = st.fixed_dictionaries(
    {"model": word, "input": word | st.lists(item, max_size=5)},
    optional={
        "instructions": word,
        "max_output_tokens": st.just(4321),
        "temperature": st.just(1.125),
        "stream": st.booleans(),
        "tools": st.lists(function | namespace, max_size=2),
        "tool_choice": st.sampled_from(["auto", {"type": "function", "name": "@"}]),
        "text": st.fixed_dictionaries(
            {},
            optional={
                "verbosity": st.just("low"),
                "format": st.just({"type": "json_schema", "name": "@", "schema": {}}),
            },
        ),
        "reasoning": st.just({"effort": "high", "summary": "auto"}),
        "metadata": st.just({"k": "@"}),
        "store": st.booleans(),
        "include": st.just(["reasoning.encrypted_content"]),
        "user": word,
        "service_tier": st.just("priority"),
        "previous_response_id": st.sampled_from([None, "@"]),
    },
)


@given(request.map(numbered))
def test_no_leaf_is_lost(body: dict[str, Any]) -> None:
    """Whatever a request says is said to the provider, is on the list above, or is refused."""
    try:
        out = json.loads(ResponsesToChat(json.dumps(body).encode(), 1).body)
    except UnsupportedParameter:
        return
    PARAMS.validate_python(out)
    there = "\n".join(texts_in(out))
    for path, leaf in leaves(body):
        if path not in LEFT_OUT and path.rpartition(".")[2] not in RENAMED:
            assert str(leaf) in there, path


@given(request.map(numbered), st.data())
def test_no_field_is_overlooked(body: dict[str, Any], data: st.DataObject) -> None:
    """A field that nobody knows is refused wherever it stands, but in what is passed on as it is, or is a hint."""
    path, place = data.draw(st.sampled_from(list(objects_in(body))))
    place["unheard_of"] = "wxw"
    try:
        out = ResponsesToChat(json.dumps(body).encode(), 1).body
    except UnsupportedParameter:
        return
    assert b"wxw" in out or path in ("metadata", "input.summary")
