"""Answers in chat's format for clients that speak responses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import Response, ResponseErrorEvent

from sentinel.error import UpstreamError
from sentinel.proxy.translation.pair import StreamTranslator
from sentinel.proxy.translation.responses_to_chat import ResponsesToChat
from tests.support.transcripts import ALL, OPENAI
from tests.support.translations import assert_same_however_cut, response_of, told

CHATS = {name: transcript for name, transcript in ALL.items() if name != "completion"}
REQUEST: dict[str, Any] = {
    "model": "m", "input": "one", "instructions": "be kind", "metadata": {"a": "b"}, "temperature": 0.5,
    "tools": [{"type": "function", "name": "f"}], "tool_choice": {"type": "function", "name": "f"},
    "parallel_tool_calls": False, "text": {"verbosity": "low"}, "max_output_tokens": 9,
}  # fmt: skip
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
USAGE = {
    "prompt_tokens": 30, "completion_tokens": 5, "total_tokens": 35, "prompt_tokens_details": {"cached_tokens": 20},
    "completion_tokens_details": {"reasoning_tokens": 3},
}  # fmt: skip


def translation(**fields: Any) -> ResponsesToChat:
    return ResponsesToChat(json.dumps({"model": "m", "input": "one", **fields}).encode(), 5)


def stream() -> StreamTranslator:
    return translation().stream()


def completion(message: Any, reason: str | None = "stop") -> bytes:
    choices = [{"index": 0, "message": message, "finish_reason": reason}]
    return json.dumps({"id": "x", "created": 1, "model": "m1", "choices": choices, "usage": USAGE}).encode()


def translated(body: bytes, **fields: Any) -> Response:
    return Response.model_validate_json(translation(**fields).answer(200, body), strict=True)


def stream_of(*deltas: dict[str, Any], reason: str = "stop") -> bytes:
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    events: list[dict[str, Any]] = [*chunks, end]
    return b"".join(f"data: {json.dumps({'id': 'x', **each})}\n\n".encode() for each in events)


def test_a_whole_answer() -> None:
    """Items of reasoning, text, refusal and calls; usage; and what the client has asked for."""
    said = {"content": "two", "refusal": "no", "reasoning": "hm", "tool_calls": [CALL, {**CALL, "id": None}]}
    response = translated(completion(said), **REQUEST)
    assert (response.id, response.created_at, response.model, response.status) == ("resp_x", 5, "m1", "completed")
    dumped = [item.model_dump(exclude_none=True, exclude={"id", "status"}) for item in response.output]
    assert dumped == [
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [
                {"type": "output_text", "text": "two", "annotations": []},
                {"type": "refusal", "refusal": "no"},
            ],
        },
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'},
        {"type": "function_call", "call_id": "call_x_1", "name": "f", "arguments": '{"a": 1}'},
    ]
    assert len({item.id for item in response.output}) == 4
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (30, 5, 35)
    assert response.usage.input_tokens_details.cached_tokens == 20
    assert response.usage.output_tokens_details.reasoning_tokens == 3
    assert (response.instructions, response.metadata, response.temperature) == ("be kind", {"a": "b"}, 0.5)
    assert (response.parallel_tool_calls, response.max_output_tokens) == (False, 9)
    assert not response.background


def test_a_call_of_a_function_in_a_namespace() -> None:
    """It is told with its own name and its namespace's, whole and as a stream; that of another function as it is."""
    function = {"type": "function", "name": "f"}
    space = {"type": "namespace", "name": "n", "description": "all", "tools": [function]}
    named = {**CALL, "function": {"name": "n__f", "arguments": "{}"}}
    fields: dict[str, Any] = {"tools": [function, space]}
    whole = translated(completion({"tool_calls": [CALL, named]}), **fields)
    deltas = [{"tool_calls": [{"index": index, **call}]} for index, call in enumerate((CALL, {**named, "id": "c2"}))]
    streamed = response_of(told(translation(**fields).stream(), stream_of(*deltas)))
    for response in (whole, streamed):
        calls = [item for item in response.output if item.type == "function_call"]
        assert [(call.name, call.namespace) for call in calls] == [("f", None), ("f", "n")]
        assert [tool.type for tool in response.tools] == ["function", "namespace"]


@pytest.mark.parametrize(
    ("reason", "status", "why"),
    [
        ("stop", "completed", None),
        ("tool_calls", "completed", None),
        (None, "completed", None),
        ("length", "incomplete", "max_output_tokens"),
        ("content_filter", "incomplete", "content_filter"),
    ],
)
def test_why_it_ended(reason: str | None, status: str, why: str | None) -> None:
    """Whole, and as a stream."""
    of_stream = response_of(told(stream(), stream_of({"content": "x"}, reason=reason or "stop")))
    for response in (translated(completion({"content": "x"}, reason)), of_stream):
        assert response.status == status
        assert (response.incomplete_details and response.incomplete_details.reason) == why
        assert response.output[0].model_dump()["status"] == status


@pytest.mark.parametrize("body", [b"", b"{}", b'{"choices":[{}]}'])
def test_what_cannot_be_read_is_the_providers_failure(body: bytes) -> None:
    """Nothing is made up."""
    with pytest.raises(UpstreamError):
        translation().answer(200, body)


@pytest.mark.parametrize(
    ("status", "body"), [(400, b'{"error":{"message":"no"}}'), (400, b"no"), (200, b'{"error":"no"}')]
)
def test_an_error_passes_as_it_is(status: int, body: bytes) -> None:
    """Both formats have the same shape."""
    assert translation().answer(status, body) == body


@pytest.mark.parametrize("name", CHATS)
def test_streams_of_all_providers(name: str) -> None:
    """OpenAI's SDK reads each event, and puts the same response together, whatever fields a provider uses."""
    transcript = CHATS[name]
    response = response_of(told(stream(), b"".join(transcript.data())))
    words = "".join(
        getattr(item, "arguments", "").removeprefix("{}") + "".join(part.text for part in getattr(item, "content", []))
        for item in response.output
    )
    assert words == " one two"
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == transcript.usage


@pytest.mark.parametrize("name", CHATS)
def test_a_stream_is_the_same_however_it_is_cut(name: str) -> None:
    """At any byte."""
    assert_same_however_cut(stream, b"".join(CHATS[name].data()))


def test_a_stream_and_a_whole_answer_tell_the_same() -> None:
    """Item by item; calls may be told in turns."""
    message = {"content": "two", "refusal": "no", "reasoning": "hm", "tool_calls": [CALL, {**CALL, "id": "c2"}]}
    pieces: list[dict[str, Any]] = [
        {"reasoning": "h"}, {"reasoning": "m"}, {"content": "t"}, {"content": "wo"}, {"refusal": "no"},
        {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 1, "id": "c2", "function": {"name": "f", "arguments": '{"a":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a": 1}'}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": " 1}"}}]},
    ]  # fmt: skip
    response = response_of(told(stream(), stream_of(*pieces)))
    assert response.output == translated(completion(message)).output


def test_text_after_a_call_is_another_item() -> None:
    """In the order in which they have begun."""
    call = {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "f"}}]}
    response = response_of(told(stream(), stream_of({"content": "a"}, call, {"content": "b"})))
    assert [item.type for item in response.output] == ["message", "function_call", "message"]


def test_a_stream_without_done_is_whole_all_the_same() -> None:
    """Where it has said why it ended."""
    data = OPENAI.data()
    assert told(stream(), b"".join(data[:-1])) == told(stream(), b"".join(data))


def test_done_without_a_reason_is_no_end() -> None:
    """It broke off; the error has the next number."""
    begun = stream_of({"content": "x"}).partition(b"\n\n")[0]
    *_, last = told(stream(), begun + b"\n\ndata: [DONE]\n\n").split(b"data: ")
    event = ResponseErrorEvent.model_validate_json(last, strict=True)
    assert event.sequence_number == 5
    assert "ended before" in event.message


def test_a_stream_that_is_cut_at_a_limit() -> None:
    """Ends cleanly, also before its first event or after its reason."""
    translator = stream()
    response = response_of(translator.feed(b"".join(OPENAI.data()[:2])) + translator.cut())
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response_of(stream().cut()).output == []
    translator = stream()
    assert response_of(translator.feed(stream_of({"content": "x"})) + translator.cut()).status == "completed"


def test_an_error_midway() -> None:
    """With `error` beside its fields, for which OpenAI's SDK looks."""
    translator = stream()
    told_error = translator.feed(b'data: {"error":{"message":"busy","code":"overloaded"}}\n\n')
    event = json.loads(told_error.split(b"data: ")[1])
    error = {"type": "server_error", "code": "overloaded", "message": "busy", "param": None}
    flat = {"code": "overloaded", "message": "busy", "param": None}
    assert event == {"type": "error", **flat, "error": error, "sequence_number": 0}
    assert b'"invalid_request_error"' in stream().fail(400, "no")
