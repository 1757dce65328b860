"""Requests of clients that speak chat, for providers of Gemini's format."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.genai import types
from hypothesis import given
from hypothesis import strategies as st

from sentinel.error import ModelNotFound, UnsupportedParameter
from sentinel.proxy.translation.chat_to_gemini import ChatToGemini
from tests.support.translations import leaves, numbered, objects_in, texts_in

USER = {"role": "user", "content": "one"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
PNG = "data:image/png;base64,AAAA"
PDF = "data:application/pdf;base64,AAAA"


def checked(out: dict[str, Any]) -> None:
    """Google's SDK has each field, in the type that was sent; its types refuse what they do not know."""
    for content in (*out["contents"], *([out["systemInstruction"]] if "systemInstruction" in out else [])):
        types.Content.model_validate(content)
    for tool in out.get("tools", []):
        types.Tool.model_validate(tool)
    if "toolConfig" in out:
        types.ToolConfig.model_validate(out["toolConfig"])
    types.GenerationConfig.model_validate(out.get("generationConfig", {}))
    assert out.keys() <= {"contents", "systemInstruction", "tools", "toolConfig", "generationConfig"}


def translated(**fields: Any) -> dict[str, Any]:
    body = json.dumps({"model": "gemini-3-pro", "messages": [USER], **fields}).encode()
    out: dict[str, Any] = json.loads(ChatToGemini(body, 1).body)
    checked(out)
    return out


def of_user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def test_a_plain_request() -> None:
    """Nothing is added."""
    assert translated() == {"contents": [{"role": "user", "parts": [{"text": "one"}]}]}


@pytest.mark.parametrize(
    ("model", "stream", "path"),
    [
        ("gemini-3-pro", False, b"/v1beta/models/gemini-3-pro:generateContent"),
        ("models/gemini-3-pro", True, b"/v1beta/models/gemini-3-pro:streamGenerateContent?alt=sse"),
        ("a/b?c", True, b"/v1beta/models/a%2Fb%3Fc:streamGenerateContent?alt=sse"),
    ],
)
def test_the_model_stands_in_the_path(model: str, path: bytes, *, stream: bool) -> None:
    """As it does for a client of this format."""
    body = json.dumps({"model": model, "messages": [USER], "stream": stream}).encode()
    assert ChatToGemini(body, 1).path == path


def test_a_model_that_would_be_another_path_is_not_found() -> None:
    """Nothing of it leaves."""
    with pytest.raises(ModelNotFound):
        ChatToGemini(json.dumps({"model": "../x", "messages": [USER]}).encode(), 1)


def test_a_conversation() -> None:
    """Roles, calls with their signatures, results with the names of their functions."""
    out = translated(
        messages=[
            {"role": "system", "content": "s1"},
            {"role": "developer", "content": [{"type": "text", "text": "s2"}]},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "u1", "cache_control": {"type": "ephemeral"}},
                    {"type": "image_url", "image_url": {"url": "https://example.org/a.JPG?x=1"}},
                    {"type": "image_url", "image_url": {"url": PNG}},
                    {"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}},
                    {"type": "file", "file": {"file_data": PDF}},
                ],
            },
            {
                "role": "assistant",
                "content": "a1",
                "refusal": "no",
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "f", "arguments": '{"a":1}'},
                        "extra_content": {"google": {"thought_signature": "c2ln"}},
                    },
                    {"id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "r1"},
            {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "r2"}]},
            {"role": "tool", "tool_call_id": "c3", "name": "h", "content": ""},
            {"role": "user", "content": "u2"},
            {"role": "assistant", "content": [{"type": "text", "text": "a2"}, {"type": "refusal", "refusal": "never"}]},
            {"role": "assistant", "content": None},
        ]
    )
    pdf = {"inlineData": {"mimeType": "application/pdf", "data": "AAAA"}}
    assert out["systemInstruction"] == {"parts": [{"text": "s1"}, {"text": "s2"}]}
    assert out["contents"] == [
        {
            "role": "user",
            "parts": [
                {"text": "u1"},
                {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://example.org/a.JPG?x=1"}},
                {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
                {"text": "a.pdf:"},
                pdf,
                pdf,
            ],
        },
        {
            "role": "model",
            "parts": [
                {"text": "a1"},
                {"text": "no"},
                {"functionCall": {"id": "c1", "name": "f", "args": {"a": 1}}, "thoughtSignature": "c2ln"},
                {"functionCall": {"id": "c2", "name": "g", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "c1", "name": "f", "response": {"output": "r1"}}},
                {"functionResponse": {"id": "c2", "name": "g", "response": {"output": "r2"}}},
                {"functionResponse": {"id": "c3", "name": "h", "response": {"output": ""}}},
                {"text": "u2"},
            ],
        },
        {"role": "model", "parts": [{"text": "a2"}, {"text": "never"}]},
    ]


LOST = "skip_thought_signature_validator"


@pytest.mark.parametrize(
    ("model", "signature"),
    [("gemini-3-pro", LOST), ("models/gemini-4-flash", LOST), ("gemini-flash-latest", LOST), ("gemini-2.5-pro", None)],
)
def test_a_call_that_has_lost_its_signature(model: str, signature: str | None) -> None:
    """It is said so of the first of each turn, to models that would refuse it."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    signed = {**call, "extra_content": {"google": {"thought_signature": "c2ln"}}}
    result = {"role": "tool", "tool_call_id": "c", "content": "r"}
    turns = [{"role": "assistant", "tool_calls": calls} for calls in ([call, call], [signed, call])]
    out = translated(model=model, messages=[USER, turns[0], result, turns[1], result])
    parts = [part for content in out["contents"] for part in content["parts"] if "functionCall" in part]
    assert [part.get("thoughtSignature") for part in parts] == [signature, None, "c2ln", None]


def test_what_says_nothing_is_no_turn() -> None:
    """Nor does it stand first."""
    out = translated(messages=[{"role": "assistant", "content": ""}, USER])
    assert [content["role"] for content in out["contents"]] == ["user"]


TOOL = {"type": "function", "function": {"name": "f"}}
STRICT = {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True}}
DECLARED = [{"functionDeclarations": [{"name": "f", "description": "d", "parametersJsonSchema": SCHEMA}]}]


def calling(**config: Any) -> dict[str, Any]:
    return {"toolConfig": {"functionCallingConfig": config}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {
                "max_completion_tokens": 5, "temperature": 1.5, "top_p": 0.25, "stop": "x", "n": 2, "seed": 3,
                "frequency_penalty": 0.5, "presence_penalty": -0.5,
            },
            {
                "generationConfig": {
                    "maxOutputTokens": 5, "temperature": 1.5, "topP": 0.25, "stopSequences": ["x"], "candidateCount": 2,
                    "seed": 3, "frequencyPenalty": 0.5, "presencePenalty": -0.5,
                }
            },
        ),
        ({"response_format": {"type": "json_object"}}, {"generationConfig": {"responseMimeType": "application/json"}}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
            {"generationConfig": {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA}},
        ),
        (
            {"reasoning_effort": "high"},
            {"generationConfig": {"thinkingConfig": {"thinkingLevel": "HIGH", "includeThoughts": True}}},
        ),
        (
            {"model": "gemini-2.5-pro", "reasoning_effort": "medium"},
            {"generationConfig": {"thinkingConfig": {"thinkingBudget": 8192, "includeThoughts": True}}},
        ),
        (
            {"model": "models/gemini-2.5-flash", "reasoning_effort": "none"},
            {"generationConfig": {"thinkingConfig": {"thinkingBudget": 0, "includeThoughts": False}}},
        ),
        ({"tools": [TOOL]}, {"tools": [{"functionDeclarations": [{"name": "f"}]}]}),
        ({"tools": [STRICT]}, {"tools": DECLARED, **calling(mode="VALIDATED")}),
        ({"tools": [STRICT], "tool_choice": "auto"}, {"tools": DECLARED, **calling(mode="VALIDATED")}),
        ({"tools": [STRICT], "tool_choice": "required"}, {"tools": DECLARED, **calling(mode="ANY")}),
        ({"tool_choice": "auto"}, calling(mode="AUTO")),
        ({"tool_choice": "none"}, calling(mode="NONE")),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
            calling(mode="ANY", allowedFunctionNames=["f"]),
        ),
    ],
)  # fmt: skip
def test_what_is_carried(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    """Each field in the words of the other format."""
    assert translated(**fields) == {**translated(), **expected}


@pytest.mark.parametrize(
    "fields",
    [
        {
            "logprobs": False,
            "response_format": {"type": "text"},
            "service_tier": "default",
            "parallel_tool_calls": True,
        },
        {"user": "u", "safety_identifier": "v", "metadata": {"a": "b"}, "store": False, "tools": []},
    ],
)
def test_what_asks_for_nothing_is_left_out(fields: dict[str, Any]) -> None:
    """Defaults, and hints that change nothing of what the model is asked."""
    assert translated(**fields) == translated()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 9}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"reasoning_effort": "none"}, "reasoning_effort"),
        ({"reasoning_effort": "max"}, "reasoning_effort"),
        ({"model": "gemini-2.5-pro", "reasoning_effort": "xhigh"}, "reasoning_effort"),
        ({"messages": [USER, {"role": "system", "content": "late"}]}, "messages[1].role"),
        ({"messages": [{"role": "tool", "tool_call_id": "c", "content": "r"}]}, "messages[0].tool_call_id"),
        (of_user({"type": "image_url", "image_url": {"url": "https://example.org/a"}}),
         "messages[0].content[0].image_url.url"),
        (of_user({"type": "image_url", "image_url": {"url": "http://[x.png"}}), "messages[0].content[0].image_url.url"),
        (of_user({"type": "image_url", "image_url": {"url": "gs://a.png"}}), "messages[0].content[0].image_url.url"),
        (of_user({"type": "file", "file": {"file_data": "AAAA"}}), "messages[0].content[0].file.file_data"),
        ({"messages": [{"role": "assistant",
                        "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "1"}}]}]},
         "messages[0].tool_calls[0].function.arguments"),
    ],
)  # fmt: skip
def test_what_is_refused(fields: dict[str, Any], param: str) -> None:
    """Whatever the other format has no place for is named, never left out."""
    with pytest.raises(UnsupportedParameter) as error:
        translated(**fields)
    assert error.value.param == param


LEFT_OUT = {
    "model",
    "stream",
    "metadata.k",
    "user",
    "stream_options.include_usage",
    "parallel_tool_calls",
    "tools.*.function.strict",
    "tools.*.cache_control.type",
    "response_format.json_schema.name",
    "response_format.json_schema.strict",
    "messages.*.name",
}
"""What stands in the path, hints, and what the tables above are about; nothing else may go."""
RENAMED = {"role", "type", "tool_choice", "reasoning_effort", "service_tier"}

word = st.just("@")
text = st.just({"type": "text", "text": "@"})
image = st.sampled_from(["https://@.png", "https://@"]).map(
    lambda url: {"type": "image_url", "image_url": {"url": url}}
)
calls = st.lists(
    st.fixed_dictionaries(
        {
            "id": word,
            "type": st.just("function"),
            "function": st.fixed_dictionaries({"name": word, "arguments": st.sampled_from(['{"a":"@"}', "{}", "@"])}),
        },
        optional={"extra_content": st.just({"google": {"thought_signature": "@"}})},
    ),
    max_size=2,
)
message = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "developer"]), "content": word | st.lists(text)}),
    st.fixed_dictionaries({"role": st.just("user"), "content": word | st.lists(text | image, max_size=3)}),
    st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": word | st.none() | st.lists(text)}, optional={"tool_calls": calls}
    ),
    st.fixed_dictionaries({"role": st.just("tool"), "tool_call_id": word, "content": word, "name": word}),
)
tool = st.fixed_dictionaries(
    {"name": word},
    optional={"description": word, "parameters": st.just({"title": "@"}), "strict": st.booleans()},
).map(lambda function: {"type": "function", "function": function})
request = st.fixed_dictionaries(
    {"model": word, "messages": st.lists(message, max_size=5)},
    optional={
        "max_tokens": st.just(4321),
        "temperature": st.just(1.125),
        "top_p": st.just(0.375),
        "seed": st.just(77),
        "n": st.just(3),
        "stop": word | st.lists(word),
        "stream": st.booleans(),
        "user": word,
        "tools": st.lists(tool, max_size=2),
        "tool_choice": st.sampled_from(["auto", {"type": "function", "function": {"name": "@"}}]),
        "response_format": st.just({"type": "json_schema", "json_schema": {"name": "@", "schema": {"title": "@"}}}),
        "reasoning_effort": st.sampled_from(["low", "none"]),
        "metadata": st.just({"k": "@"}),
        "parallel_tool_calls": st.booleans(),
    },
)


@given(request.map(numbered))
def test_no_leaf_is_lost(body: dict[str, Any]) -> None:
    """Whatever a request says is said to the provider, is on the list above, or is refused."""
    try:
        out = json.loads(ChatToGemini(json.dumps(body).encode(), 1).body)
    except UnsupportedParameter:
        return
    there = "\n".join(texts_in(out))
    for path, leaf in leaves(body):
        if path in LEFT_OUT or path.rpartition(".")[2] in RENAMED:
            continue
        if path.endswith("arguments"):
            assert all(inner in there for inner in json.loads(leaf).values())
        else:
            assert str(leaf) in there, path


@given(request.map(numbered), st.data())
def test_no_field_is_overlooked(body: dict[str, Any], data: st.DataObject) -> None:
    """A field that nobody knows is refused wherever it stands, but in what is passed on as it is."""
    path, place = data.draw(st.sampled_from(list(objects_in(body))))
    place["unheard_of"] = "wxw"
    try:
        out = ChatToGemini(json.dumps(body).encode(), 1).body
    except UnsupportedParameter:
        return
    assert b"wxw" in out or path == "metadata"
