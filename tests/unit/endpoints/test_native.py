"""Sentinel's own chat: what is taken, what is sent on, and what comes back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.endpoints.endpoint import UNCHANGED, Changes
from sentinel.endpoints.native import NATIVE
from sentinel.error import (
    AccessDenied,
    AppError,
    InsufficientQuota,
    InternalError,
    InvalidApiKey,
    InvalidJson,
    InvalidType,
    MissingParameter,
    RateLimitExceeded,
    ServiceUnavailable,
    UpstreamError,
    UpstreamTimeout,
)
from sentinel.proxy.redaction import NO_SECRET
from sentinel.tokens.counter import TokenCounter
from sentinel.tokens.usage import Usage

COUNTER = TokenCounter()
USER = {"role": "user", "content": "Say hello"}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather", "parameters": {"type": "object", "properties": {}}},
}
CALL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL]}
VALUES = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5) | st.just({"a": 1}) | st.just(["x"])


def body(*messages: Any, **fields: Any) -> bytes:
    return json.dumps({"messages": messages or [USER], **fields}).encode()


def with_tool(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {**TOOL["function"], **fields}}  # type: ignore[dict-item]


def sent(given: bytes, model: str = "gpt-4o-mini", changes: Changes = UNCHANGED) -> Any:
    """The chat completion that is sent on."""
    request = NATIVE.read(given)
    NATIVE.choose(request, model)
    return json.loads(NATIVE.changed(given, request, changes))


@pytest.mark.parametrize(
    ("given", "kind", "param"),
    [
        (b"{", InvalidJson, None),
        (b'{"messages":[],"messages":[]}', InvalidJson, "messages"),
        (b"{}", MissingParameter, "messages"),
        (body(tier="best"), InvalidType, "tier"),
        (body(model="gpt-4o"), InvalidType, None),
        (body(n=2), InvalidType, None),
        (body(stream_options={}), InvalidType, None),
        (body(stream=None), InvalidType, "stream"),
        (body(max_tokens=-1), InvalidType, "max_tokens"),
        (body(conversation_id=""), InvalidType, "conversation_id"),
        (body({"role": "developer", "content": "a"}), InvalidType, "messages[0].role"),
        (body({"role": "user"}), MissingParameter, "messages[0].content"),
        (body({"role": "user", "content": None}), InvalidType, "messages[0].content"),
        (body({"role": "user", "content": [{"type": "input_audio"}]}), InvalidType, "messages[0].content[0].type"),
        (body({"role": "user", "content": [{"type": "text"}]}), MissingParameter, "messages[0].content[0].text"),
        (body(USER, {"role": "system", "content": "a"}), InvalidType, "messages[1].role"),
        (body({"role": "tool", "content": "a"}), MissingParameter, "messages[0].tool_call_id"),
        (body(USER, {"role": "tool", "content": "a", "tool_call_id": "c1"}), InvalidType, "messages[1].tool_call_id"),
        (body(CALLED, {"role": "tool", "content": "a", "tool_call_id": "c2"}), InvalidType, "messages[1].tool_call_id"),
        (body(tools=[with_tool(name="get-weather")]), InvalidType, "tools[0].function.name"),
        (body(tools=[TOOL, with_tool(description="")]), InvalidType, "tools[1].function.description"),
        (body(tools=[with_tool(parameters={"type": "array"})]), InvalidType, "tools[0].function.parameters"),
        (body(tools=[with_tool(parameters={})]), InvalidType, "tools[0].function.parameters"),
        (body(tools=[{"type": "function", "function": {"name": "a"}}]), MissingParameter,
         "tools[0].function.description"),
        (body(tool_choice="always"), InvalidType, "tool_choice"),
        (body(tool_choice={"type": "function"}), MissingParameter, "tool_choice.function"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(given: bytes, kind: type[AppError], param: str | None) -> None:
    """By its field."""
    with pytest.raises(kind) as error:
        NATIVE.read(given)
    assert (type(error.value), error.value.param) == (kind, param)


def test_what_is_sent_on() -> None:
    """The chosen model, and what a provider takes; nothing that is Sentinel's own."""
    given = body(
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": [{"type": "text", "text": "Hi"},
                                     {"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}}]},
        {"role": "user", "content": "x", "name": "ana", "what": "is not known"},
        tier="complex", conversation_id="c", temperature=0.5, top_p=1, max_tokens=7, stop=["a"],
    )  # fmt: skip
    assert sent(given, "gpt-4.1") == {
        "model": "gpt-4.1",
        "messages": [
            {"role": "system", "content": "Be brief"},
            {"role": "user", "content": [{"type": "text", "text": "Hi"},
                                         {"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}}]},
            {"role": "user", "content": "x", "name": "ana"},
        ],
        "temperature": 0.5, "top_p": 1, "max_tokens": 7, "stop": ["a"],
    }  # fmt: skip
    assert sent(body()) == {"model": "gpt-4o-mini", "messages": [USER]}
    assert sent(body(tools=[])) == {"model": "gpt-4o-mini", "messages": [USER]}


@pytest.mark.parametrize(
    "choice", ["auto", "none", "required", {"type": "function", "function": {"name": "get_weather"}}]
)
def test_calls_of_tools_are_sent_as_providers_want_them(choice: Any) -> None:
    """Arguments as text, and an answer with the name of what was called, as one text."""
    parts = [{"type": "text", "text": "5 "}, {"type": "text", "text": "degrees"}]
    answer = {"role": "tool", "tool_call_id": "c1", "content": parts}
    asked = sent(body(USER, CALLED, answer, tools=[TOOL], tool_choice=choice))
    assert (asked["tools"], asked["tool_choice"]) == ([TOOL], choice)
    (call,) = asked["messages"][1]["tool_calls"]
    assert (call["id"], json.loads(call["function"]["arguments"])) == ("c1", {"city": "Oslo"})
    assert asked["messages"][2] == {"role": "tool", "tool_call_id": "c1", "name": "get_weather", "content": "5 degrees"}
    text = {**CALL, "function": {"name": "get_weather", "arguments": '{"city":1}'}}
    (call,) = sent(body({**CALLED, "tool_calls": [text]}))["messages"][0]["tool_calls"]
    assert call["function"]["arguments"] == '{"city":1}'


def test_streams_ask_for_usage() -> None:
    """And a maximum is lowered, or added."""
    request = NATIVE.read(body(stream=True, max_tokens=90))
    NATIVE.choose(request, "gpt-4o-mini")
    bound = NATIVE.bound(request)
    assert (bound.client_max, bound.grows_in_sight, request.stream) == (90, True, True)
    asked = sent(body(stream=True, max_tokens=90), changes=NATIVE.changes(request, bound, 40))
    assert (asked["stream_options"], asked["max_tokens"]) == ({"include_usage": True}, 40)


def test_it_is_counted_as_what_is_sent() -> None:
    """In the tokens of its model, once that is chosen."""
    request = NATIVE.read(body())
    assert NATIVE.count(request, COUNTER) == 0
    NATIVE.choose(request, "gpt-4o-mini")
    NATIVE.forget_prompt(request)
    assert NATIVE.count(request, COUNTER) == 9
    assert NATIVE.tier_of(NATIVE.read(body(tier="moderate", conversation_id="c"))) == ("moderate", "c")
    assert NATIVE.tier_of(request) == ("simple", None)


def test_a_whole_answer() -> None:
    """What is null is left out; calls have ids of our own, and objects for arguments. All else stays."""
    calls = [{"id": "x", "type": "function", "function": {"name": "f", "arguments": text}} for text in
             ('{"city": "Oslo"}', "", "no json", "[1]")]  # fmt: skip
    message = {"role": "assistant", "content": None, "tool_calls": [*calls, {"id": "y", "function": None}, 7]}
    told = {
        "id": "c",
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}, {"finish_reason": None}],
        "usage": {"a": 1},
    }
    answer = json.loads(NATIVE.rewritten(json.dumps(told).encode()))
    found = answer["choices"][0]["message"]
    assert "content" not in found
    assert [c["function"]["arguments"] for c in found["tool_calls"][:4]] == [{"city": "Oslo"}, {}, "no json", "[1]"]
    ids = [call["id"] for call in found["tool_calls"][:5]]
    assert len(set(ids)) == 5
    assert all(id_.startswith("call_") for id_ in ids)
    assert answer["choices"][1] == {}
    assert (answer["id"], answer["usage"]) == ("c", {"a": 1})


@pytest.mark.parametrize("told", [b"[]", b"{}", b'{"choices":[7,{"message":7},{"message":{"tool_calls":null}}]}'])
def test_an_answer_of_another_shape(told: bytes) -> None:
    """Passes."""
    assert isinstance(json.loads(NATIVE.rewritten(told)), list | dict)


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (InvalidType("x", param="tier"), "invalid_request_error", "invalid_request"),
        (InvalidApiKey("x"), "invalid_request_error", "invalid_api_key"),
        (AccessDenied("x"), "invalid_request_error", "access_denied"),
        (RateLimitExceeded("x"), "rate_limit_error", "rate_limit_exceeded"),
        (InsufficientQuota("x"), "insufficient_quota", "insufficient_quota"),
        (InternalError("x"), "server_error", "internal_error"),
        (UpstreamError("x"), "upstream_error", "provider_error"),
        (UpstreamTimeout("x"), "upstream_error", "provider_timeout"),
        (ServiceUnavailable("x"), "service_unavailable", "service_unavailable"),
    ],
)
def test_errors(error: AppError, kind: str, code: str) -> None:
    """In their own words; one of a provider says whose it is, and details stay."""
    error.details = {"reset_at": 1} if error.status == 429 else None
    told = json.loads(NATIVE.render(error, "req_1"))["error"]
    assert (told["message"], told["type"], told["code"], told["param"]) == ("x", kind, code, error.param)
    assert ("provider" in told) == (error.side == "provider")
    assert ("details" in told) == (error.status == 429)


def test_streams_are_those_of_a_chat() -> None:
    """Metered, ended and answered as these."""
    request = NATIVE.read(body(stream=True))
    NATIVE.choose(request, "gpt-4o-mini")
    meter = NATIVE.meter(request, NO_SECRET)
    meter.feed(
        b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
    )
    assert b'"length"' in NATIVE.ending(request, meter, Usage(1, 1))
    whole = b'{"object":"chat.completion","choices":[{"index":0,"message":{"content":"Hi"},"finish_reason":"stop"}]}'
    assert NATIVE.as_stream(whole).endswith(b"[DONE]\n\n")
    assert (reading := NATIVE.read_answer(whole)) is not None
    assert [text.piece for text in reading.texts] == ["Hi"]
    assert NATIVE.refusal_as_stream(400, b'{"error":{"message":"no"}}').startswith(b"data: ")


@given(
    st.fixed_dictionaries(
        {
            "messages": VALUES
            | st.lists(
                VALUES | st.fixed_dictionaries({"role": st.sampled_from(["user", "tool"]), "content": VALUES}),
                max_size=3,
            )
        },
        optional=dict.fromkeys(["tier", "tools", "tool_choice", "stream", "stop", "max_tokens"], VALUES),
    )
)
def test_whatever_is_sent_is_taken_or_refused(fields: dict[str, Any]) -> None:
    """With a 400."""
    refused = None
    try:
        NATIVE.read(json.dumps(fields).encode())
    except AppError as error:
        refused = error
    assert refused is None or refused.status == 400
