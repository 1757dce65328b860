"""Requests of clients that speak chat, for providers of Anthropic's format.

Here `proxy/translation/chat_request.py` is tested, too.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming, MessageCreateParamsStreaming
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from sentinel.error import UnsupportedParameter
from sentinel.proxy.translation.chat_to_messages import ChatToMessages
from tests.support.translations import leaves, numbered, objects_in, texts_in

PARAMS: TypeAdapter[Any] = TypeAdapter(MessageCreateParamsStreaming | MessageCreateParamsNonStreaming)
USER = {"role": "user", "content": "one"}
PNG = "data:image/png;base64,AAAA"


def translated(**fields: Any) -> dict[str, Any]:
    """The request that a provider gets, which Anthropic's SDK would send just so."""
    translation = ChatToMessages(json.dumps({"model": "m", "messages": [USER], **fields}).encode(), 1)
    out: dict[str, Any] = json.loads(translation.body)
    PARAMS.validate_python(out)
    return out


def refused(**fields: Any) -> str | None:
    with pytest.raises(UnsupportedParameter) as error:
        translated(**fields)
    return error.value.param


def test_a_plain_request() -> None:
    """Anthropic wants a maximum; nothing else is added."""
    assert translated() == {
        "model": "m",
        "max_tokens": 8192,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "one"}]}],
    }


def test_a_conversation() -> None:
    """System prompts first, turns of one role together, calls and their results by their ids, all in order."""
    out = translated(
        messages=[
            {"role": "system", "content": "s1"},
            {"role": "developer", "content": [{"type": "text", "text": "s2", "cache_control": {"type": "ephemeral"}}]},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "u1"},
                    {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "high"}},
                    {"type": "image_url", "image_url": {"url": PNG}, "cache_control": {"type": "ephemeral"}},
                    {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}},
                    {"type": "file", "file": {"file_data": "data:application/pdf;base64,BBBB"}},
                ],
            },
            {
                "role": "assistant",
                "content": "a1",
                "thinking_blocks": [
                    {"type": "thinking", "thinking": "t", "signature": "s"},
                    {"type": "redacted_thinking", "data": "d"},
                ],
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1.50}'}},
                    {"id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "r1"},
            {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "r2"}]},
            {"role": "user", "content": "u2"},
            {"role": "assistant", "content": [{"type": "text", "text": "a2"}, {"type": "refusal", "refusal": "no"}]},
            {"role": "assistant", "content": "", "refusal": "never"},
            {"role": "system", "content": "s3"},
        ]
    )
    cached = {"cache_control": {"type": "ephemeral"}}
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}
    assert out["system"] == [{"type": "text", "text": "s1"}, {"type": "text", "text": "s2", **cached}]
    assert out["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "u1"},
                {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}, **cached},
                {"type": "document", "source": pdf, "title": "a.pdf"},
                {"type": "document", "source": {**pdf, "data": "BBBB"}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "t", "signature": "s"},
                {"type": "redacted_thinking", "data": "d"},
                {"type": "text", "text": "a1"},
                {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1.5}},
                {"type": "tool_use", "id": "c2", "name": "g", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "r1"},
                {"type": "tool_result", "tool_use_id": "c2", "content": [{"type": "text", "text": "r2"}]},
                {"type": "text", "text": "u2"},
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "text", "text": text} for text in ("a2", "no", "never")],
        },
        {"role": "system", "content": [{"type": "text", "text": "s3"}]},
    ]


@pytest.mark.parametrize("content", ["", [], [{"type": "text", "text": ""}], None])
def test_what_says_nothing_is_no_turn(content: Any) -> None:
    """Anthropic takes no empty text."""
    out = translated(
        messages=[{"role": "system", "content": content or ""}, USER, {"role": "assistant", "content": content}]
    )
    assert len(out["messages"]) == 1
    assert "system" not in out


TOOL = {"type": "function", "function": {"name": "f"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
EFFORT = {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}, "max_tokens": 32_000}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_completion_tokens": 6}, {"max_tokens": 6}),
        ({"max_tokens": 5, "max_completion_tokens": 6}, {"max_tokens": 5}),
        ({"temperature": 0.5, "top_p": 0.25}, {"temperature": 0.5, "top_p": 0.25}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"stop": "x"}, {"stop_sequences": ["x"]}),
        ({"stop": ["x", "y"]}, {"stop_sequences": ["x", "y"]}),
        ({"stream": True}, {"stream": True}),
        ({"stream": False}, {"stream": False}),
        ({"user": "u"}, {"metadata": {"user_id": "u"}}),
        ({"safety_identifier": "u", "user": "u"}, {"metadata": {"user_id": "u"}}),
        ({"service_tier": "default"}, {"service_tier": "standard_only"}),
        ({"service_tier": "auto"}, {}),
        ({"reasoning_effort": "high"}, EFFORT),
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        ({"response_format": {"type": "text"}}, {}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "strict": True, "schema": SCHEMA},
                }
            },
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        ),
        ({"tools": [TOOL]}, {"tools": [{"name": "f", "input_schema": {"type": "object", "properties": {}}}]}),
        (
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True},
                        "cache_control": {"type": "ephemeral"},
                    }
                ]
            },
            {
                "tools": [
                    {
                        "name": "f",
                        "description": "d",
                        "input_schema": SCHEMA,
                        "strict": True,
                        "cache_control": {"type": "ephemeral"},
                    }
                ]
            },
        ),
        ({"tool_choice": "auto"}, {"tool_choice": {"type": "auto"}}),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"tool_choice": {"type": "none"}}),
        ({"tool_choice": "required"}, {"tool_choice": {"type": "any"}}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": False},
            {"tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True}},
        ),
        ({"parallel_tool_calls": False}, {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}),
        ({"parallel_tool_calls": True}, {}),
    ],
)
def test_what_is_carried(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    """Each field in the words of the other format."""
    assert translated(**fields) == {**translated(), **expected}


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1, "logprobs": False, "top_logprobs": 0, "seed": None, "frequency_penalty": 0, "presence_penalty": 0.0},
        {"logit_bias": {}, "modalities": ["text"], "verbosity": "medium", "store": False, "metadata": {"a": "b"}},
        {"prompt_cache_key": "k", "prompt_cache_retention": "24h", "functions": None, "function_call": None},
        {"stream_options": {"include_usage": True, "include_obfuscation": False}},
        {"messages": [USER, {"role": "assistant", "content": None, "annotations": [], "audio": None,
                             "function_call": None, "tool_calls": None, "reasoning_content": "r", "reasoning": "r",
                             "parsed": None}]},
    ],
)  # fmt: skip
def test_what_asks_for_nothing_is_left_out(fields: dict[str, Any]) -> None:
    """Defaults, and hints that change nothing of what the model is asked."""
    assert translated(**fields) == translated()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"seed": 1}, "seed"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"temperature": 1.5}, "temperature"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": -0.5}, "presence_penalty"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"reasoning_effort": "minimal"}, "reasoning_effort"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"store": True}, "store"),
        ({"verbosity": "low"}, "verbosity"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "alloy"}}, "audio"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"functions": []}, "functions"),
        ({"top_k": 3}, "top_k"),
        ({"user": "u", "safety_identifier": "v"}, "user"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}, "tool_choice.type"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{**USER, "name": "bob"}]}, "messages[0].name"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
         "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "ftp://x"}}]}]},
         "messages[0].content[0].image_url.url"),
        ({"messages": [{"role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": PNG, "detail": "low"}}]}]},
         "messages[0].content[0].image_url.detail"),
        ({"messages": [USER, {"role": "user", "content": [{"type": "file", "file": {"file_data": PNG}}]}]},
         "messages[1].content[0].file.file_data"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_data": "AAAA"}}]}]},
         "messages[0].content[0].file.file_data"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
         "messages[0].content[0].file.file_id"),
        ({"messages": [{"role": "assistant",
                        "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{"}}]}]},
         "messages[0].tool_calls[0].function.arguments"),
        ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "messages[0].audio"),
    ],
)  # fmt: skip
def test_what_is_refused(fields: dict[str, Any], param: str) -> None:
    """Whatever the other format has no place for is named, never left out."""
    assert refused(**fields) == param


LEFT_OUT = {
    "metadata.k", "prompt_cache_key", "stream_options.include_usage", "stream_options.include_obfuscation",
    "parallel_tool_calls", "response_format.json_schema.name", "response_format.json_schema.strict",
    "messages.*.reasoning_content", "messages.*.name", "messages.*.tool_calls.*.index", "n", "verbosity",
    "messages.*.content.*.image_url.detail",
}  # fmt: skip
"""Hints and defaults, as docs/translation.md has them; nothing else may go."""
RENAMED = {"role", "type", "tool_choice", "reasoning_effort", "service_tier"}
"""Words of the format, which the tables above are about."""

word = st.just("@")
text = st.fixed_dictionaries({"type": st.just("text"), "text": word})
image = st.builds(
    lambda url: {"type": "image_url", "image_url": url},
    st.fixed_dictionaries({"url": st.just("https://@")}, optional={"detail": st.sampled_from(["auto", "low"])}),
)
calls = st.lists(
    st.fixed_dictionaries(
        {"id": word, "type": st.just("function"),
         "function": st.fixed_dictionaries({"name": word, "arguments": st.sampled_from(['{"a":"@"}', "{}", "@"])})},
        optional={"index": st.just(0)},
    ),
    max_size=3,
)  # fmt: skip
message = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "developer"]), "content": word | st.lists(text)}),
    st.fixed_dictionaries(
        {"role": st.just("user"), "content": word | st.lists(text | image)}, optional={"name": word | st.none()}
    ),
    st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": word | st.none() | st.lists(text)},
        optional={"tool_calls": calls, "refusal": word, "reasoning_content": word},
    ),
    st.fixed_dictionaries(
        {"role": st.just("tool"), "tool_call_id": word, "content": word | st.lists(text)}, optional={"name": word}
    ),
)
tools = st.lists(
    st.builds(
        lambda function: {"type": "function", "function": function},
        st.fixed_dictionaries(
            {"name": word},
            optional={
                "description": word,
                "parameters": st.just({"type": "object", "title": "@"}),
                "strict": st.booleans(),
            },
        ),
    ),
    max_size=2,
)
request = st.fixed_dictionaries(
    {"model": word, "messages": st.lists(message, max_size=5)},
    optional={
        "max_tokens": st.just(4321), "temperature": st.sampled_from([0.125, 1.5]), "top_p": st.just(0.375),
        "stop": word | st.lists(word), "stream": st.booleans(), "tools": tools, "user": word,
        "stream_options": st.just({"include_usage": True}), "parallel_tool_calls": st.booleans(),
        "tool_choice": st.sampled_from(["auto", "required", {"type": "function", "function": {"name": "@"}}]),
        "response_format": st.just(
            {"type": "json_schema", "json_schema": {"name": "@", "strict": True, "schema": {"title": "@"}}}
        ),
        "metadata": st.just({"k": "@"}), "prompt_cache_key": word, "seed": st.sampled_from([None, 77]),
        "reasoning_effort": st.sampled_from(["low", "minimal"]), "n": st.sampled_from([1, 2]),
        "verbosity": st.sampled_from(["medium", "high"]), "service_tier": st.sampled_from(["auto", "flex"]),
    },
)  # fmt: skip


@given(request.map(numbered))
def test_no_leaf_is_lost(body: dict[str, Any]) -> None:
    """Whatever a request says is said to the provider, is on the list above, or is refused."""
    try:
        out = json.loads(ChatToMessages(json.dumps(body).encode(), 1).body)
    except UnsupportedParameter:
        return
    PARAMS.validate_python(out)
    there = list(texts_in(out))
    for path, leaf in leaves(body):
        if path in LEFT_OUT or path.rpartition(".")[2] in RENAMED or leaf in ("", "{}"):
            continue
        if path.endswith("arguments"):
            assert json.loads(leaf)["a"] in there
        else:
            assert str(leaf) in there, path


@given(request.map(numbered), st.data())
def test_no_field_is_overlooked(body: dict[str, Any], data: st.DataObject) -> None:
    """A field that nobody knows is refused wherever it stands, but in what is passed on as it is."""
    objects = list(objects_in(body))
    path, place = data.draw(st.sampled_from(objects))
    place["unheard_of"] = "wxw"
    try:
        out = ChatToMessages(json.dumps(body).encode(), 1).body
    except UnsupportedParameter:
        return
    assert b"wxw" in out or path == "metadata"
