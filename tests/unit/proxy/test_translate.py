"""The door to translation: which pairs there are, and what holds for each of them."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from anthropic.types import Message
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from sentinel.error import AppError, InvalidJson, MissingParameter, UnsupportedParameter
from sentinel.proxy.translate import Translator
from tests.support.transcripts import GEMINI_TEXT, MESSAGE_TEXT, OPENAI
from tests.support.translations import completion_of, message_of, response_of, spoilt, told

SMALLEST: dict[tuple[str, str], dict[str, Any]] = {
    ("chat", "messages"): {"model": "m", "messages": [{"role": "user", "content": "one"}]},
    ("messages", "chat"): {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "one"}]},
    ("responses", "chat"): {"model": "m", "input": [{"role": "user", "content": "one"}]},
    ("chat", "gemini"): {"model": "m", "messages": [{"role": "user", "content": "one"}]},
}
PATHS = {"messages": b"/messages", "chat": b"/chat/completions", "gemini": b"/v1beta/models/m:generateContent"}
PAIRS = pytest.mark.parametrize("pair", SMALLEST, ids="->".join)


def translator(pair: tuple[str, str]) -> Translator:
    found = Translator.of(*pair)
    assert found is not None
    return found


@PAIRS
def test_a_pair_has_a_name_and_a_path(pair: tuple[str, str]) -> None:
    """The name goes into a header, the client's format first; the path is the provider's."""
    found = translator(pair)
    assert found.name == "->".join(pair)
    translation = found.request(json.dumps(SMALLEST[pair]).encode(), 1)
    assert translation.path == PATHS[pair[1]]
    assert b"/m:" in translation.path or json.loads(translation.body)["model"] == "m"


@pytest.mark.parametrize(("client", "provider"), [("chat", "chat"), ("messages", "gemini"), ("embeddings", "chat")])
def test_there_is_no_other_pair(client: str, provider: str) -> None:
    """What cannot be translated has no translator, and the same format needs none."""
    assert Translator.of(client, provider) is None


@PAIRS
def test_a_field_that_nobody_knows_is_refused(pair: tuple[str, str]) -> None:
    """By its name, however long that is; nothing is left out in silence."""
    body = {**SMALLEST[pair], "unheard_of" + "x" * 200: 1}
    with pytest.raises(UnsupportedParameter) as refused:
        translator(pair).request(json.dumps(body).encode(), 1)
    assert refused.value.param is not None
    assert refused.value.param.startswith("unheard_of")
    assert len(refused.value.param) < 100


@PAIRS
def test_a_field_that_is_missing_is_named(pair: tuple[str, str]) -> None:
    """As everywhere."""
    body = {name: value for name, value in SMALLEST[pair].items() if name != "model"}
    with pytest.raises(MissingParameter) as refused:
        translator(pair).request(json.dumps(body).encode(), 1)
    assert refused.value.param == "model"


@PAIRS
@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"model":"m","model":"n"}', b'{"a":{"b":1,"b":2}}', b"\xff", b"[" * 5000], ids=range(6)
)
def test_what_can_be_read_in_two_ways_is_refused(pair: tuple[str, str], body: bytes) -> None:
    """One of two equal keys would be lost, wherever they are."""
    with pytest.raises(InvalidJson):
        translator(pair).request(body, 1)


@PAIRS
def test_a_body_that_is_no_object_is_refused(pair: tuple[str, str]) -> None:
    """There is no field to name."""
    with pytest.raises(UnsupportedParameter) as refused:
        translator(pair).request(b"[]", 1)
    assert refused.value.param == "body"


TOOL = {"type": "object", "properties": {"city": {"type": "string"}}}
COMPLETION = (
    b'{"id":"m","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"tool_calls",'
    b'"message":{"role":"assistant","content":"one","reasoning_content":"hm","tool_calls":[{"id":"t1",'
    b'"type":"function","function":{"name":"weather","arguments":"{\\"city\\":\\"Rome\\"}"}}]}}],'
    b'"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}'
)
TALKS: dict[tuple[str, str], tuple[dict[str, Any], bytes, bytes]] = {
    ("chat", "messages"): (
        {"tools": [{"type": "function", "function": {"name": "weather", "parameters": TOOL}}]},
        (
            b'{"id":"m","type":"message","role":"assistant","model":"m","stop_reason":"tool_use","stop_sequence":null,'
            b'"content":[{"type":"thinking","thinking":"hm","signature":"c2ln"},{"type":"text","text":"one"},'
            b'{"type":"tool_use","id":"t1","name":"weather","input":{"city":"Rome"}}],'
            b'"usage":{"input_tokens":1,"output_tokens":2}}'
        ),
        b"".join(MESSAGE_TEXT.data()),
    ),
    ("messages", "chat"): (
        {"tools": [{"name": "weather", "input_schema": TOOL}]},
        COMPLETION,
        b"".join(OPENAI.data()),
    ),
    ("responses", "chat"): (
        {"tools": [{"type": "function", "name": "weather", "parameters": TOOL}]},
        COMPLETION,
        b"".join(OPENAI.data()),
    ),
    ("chat", "gemini"): (
        {"tools": [{"type": "function", "function": {"name": "weather", "parameters": TOOL}}]},
        (
            b'{"responseId":"m","modelVersion":"m","candidates":[{"index":0,"finishReason":"STOP","content":{"role":"model",'
            b'"parts":[{"text":"hm","thought":true},{"text":"one"},{"functionCall":{"id":"t1","name":"weather",'
            b'"args":{"city":"Rome"}},"thoughtSignature":"c2ln"}]}}],"usageMetadata":{"promptTokenCount":1}}'
        ),
        b"".join(GEMINI_TEXT.data()),
    ),
}
"""What a client has beside its smallest request, and a provider's answer to it, whole and as a stream."""


def sent_back(pair: tuple[str, str], answer: bytes) -> list[dict[str, Any]]:
    """What an application says next, with its vendor's SDK: the answer as the SDK has it, and the tool's result."""
    if pair[0] == "chat":
        said = ChatCompletion.model_validate_json(answer).choices[0].message
        return [said.model_dump(), {"role": "tool", "tool_call_id": "t1", "content": "sunny"}]
    if pair[0] == "responses":
        items = [item.model_dump(by_alias=True) for item in Response.model_validate_json(answer).output]
        return [*items, {"type": "function_call_output", "call_id": "t1", "output": "sunny"}]
    message = Message.model_validate_json(answer)
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "sunny"}
    blocks = [block.model_dump() for block in message.content]
    return [{"role": "assistant", "content": blocks}, {"role": "user", "content": [result]}]


@PAIRS
def test_a_conversation_goes_on(pair: tuple[str, str]) -> None:
    """What a client was sent it may send back, as its SDK has it; what was signed goes back to who has signed it."""
    fields, answer, _ = TALKS[pair]
    body = SMALLEST[pair] | fields
    translated = translator(pair).request(json.dumps(body).encode(), 1).answer(200, answer)
    field = "input" if pair[0] == "responses" else "messages"
    following = {**body, field: [*body[field], *sent_back(pair, translated)]}
    again = json.loads(translator(pair).request(json.dumps(following).encode(), 1).body)
    text = json.dumps(again)
    assert all(f'"{word}"' in text for word in ("one", "t1", "weather", "sunny"))
    assert "Rome" in text
    assert ("c2ln" in text) is (pair[1] in ("messages", "gemini"))


@PAIRS
@given(st.data())
def test_a_request_is_translated_or_refused(pair: tuple[str, str], data: st.DataObject) -> None:
    """Whatever stands in it."""
    fields, answer, _ = TALKS[pair]
    body = SMALLEST[pair] | fields
    translated = translator(pair).request(json.dumps(body).encode(), 1).answer(200, answer)
    following = {**body, "messages": [*body.get("messages", []), *sent_back(pair, translated)]}
    if pair[0] == "responses":
        following["input"] = following.pop("messages")
    with contextlib.suppress(AppError):
        json.loads(translator(pair).request(json.dumps(spoilt(following, data)).encode(), 1).body)


@PAIRS
def test_streams_and_errors_come_by_the_same_door(pair: tuple[str, str]) -> None:
    """Each in the client's format."""
    translation = translator(pair).request(json.dumps(SMALLEST[pair]).encode(), 1)
    stream = told(translation.stream(5), TALKS[pair][2])
    if pair[0] == "chat":
        assert completion_of(stream).choices[0].message.content == " one two"
    elif pair[0] == "responses":
        assert response_of(stream).output_text == " one two"
    else:
        assert message_of(stream).content[0].model_dump(include={"text"}) == {"text": " one two"}
    refusal = json.loads(translation.answer(404, b'{"error":{"message":"no such thing"}}'))
    assert refusal["error"]["message"] == "no such thing"
